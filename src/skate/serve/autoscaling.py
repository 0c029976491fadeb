"""How many replicas a deployment should have, by the requests that it holds. Pure: it is told figures and the time.

With the mean of its running and queued requests over the look-back period, `wanted` is that mean divided by
``target_ongoing_requests``; of the difference to what there is a factor is made up for; and the answer must have stayed
on one side for the delay. From zero to one there is no waiting.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from skate.serve.config import AutoscalingConfig, AutoscalingContext, TimeStampedValue
from skate.serve.context import ReplicaID

SHORTEST, LONGEST = 0.05, 1.0
"""Seconds between two samples."""


class Autoscaler:
    """Samples of one deployment's requests, and what they ask for."""

    def __init__(self, config: AutoscalingConfig, app: str = "", deployment: str = "") -> None:
        self.config = config
        self.app, self.deployment = app, deployment
        self.samples: deque[tuple[float, float]] = deque()
        """When, and how many requests there were from then on."""
        self.running = self.queued = 0.0
        self.since: float | None = None
        """Since when it has been wanted to go to the same side."""
        self.side = 0
        self.state: dict[str, Any] = {}
        self.policy: Any = None
        """A policy of the program's own, once it was asked."""
        self.problem = ""
        """Why it could not be asked the last time."""
        self.told: dict[str, dict[ReplicaID, deque[TimeStampedValue]]] = {}
        """Figures of replicas, by name."""
        self.last_up: float | None = None
        self.last_down: float | None = None

    def period(self) -> float:
        """Seconds between two samples."""
        return min(LONGEST, max(SHORTEST, min(self.config.look_back_period_s / 30, self.config.metrics_interval_s)))

    def note(self, running: float, queued: float, now: float) -> None:
        """A sample: requests that replicas have in hand, and that wait in handles."""
        self.running, self.queued = running, queued
        self.samples.append((now, running + queued))
        start = now - self.config.look_back_period_s
        while len(self.samples) > 1 and self.samples[1][0] <= start:
            self.samples.popleft()  # the one before the period still tells how it began

    def requests(self, now: float) -> float:
        """Requests over the look-back period, put together as the settings say."""
        if not self.samples:
            return 0.0
        values = [value for _, value in self.samples]
        if self.config.aggregation_function == "max":
            return max(values)
        if self.config.aggregation_function == "min":
            return min(values)
        start = max(self.samples[0][0], now - self.config.look_back_period_s)
        if now <= start:
            return values[-1]
        total, end = 0.0, now
        for when, value in reversed(self.samples):
            total += value * max(0.0, end - max(when, start))
            end = when
        return total / (now - start)

    def wanted(self, current: int, target: int, now: float, running: list[ReplicaID] | None = None) -> int:
        """How many replicas there should be from now on.

        Args:
            current: how many run.
            target: how many are wanted so far.
            now: seconds, on the clock of `note`.
            running: who they are, for policies.
        """
        config = self.config
        least, most = config.min_replicas, config.max_replicas
        if target == 0:
            # what waits is known for certain, and nothing is served meanwhile
            at_once = math.ceil(max(self.running + self.queued, 0) / config.target_ongoing_requests)
            return max(least, min(most, at_once))
        if config.policy.is_default_policy_function():
            raw: float = self.requests(now) / config.target_ongoing_requests
        else:
            raw, self.state = self._ask(current, target, now, running or [])
        desired = max(least, min(most, self._smoothed(raw, target)))
        return max(least, min(most, self._delayed(desired, target, now)))

    def note_figures(self, replica: ReplicaID, figures: Mapping[str, Any], now: float) -> None:
        """What a replica's ``record_autoscaling_stats`` gave; what is no number is left out."""
        for name, value in figures.items():
            if isinstance(value, int | float):
                self.told.setdefault(name, {}).setdefault(replica, deque()).append(TimeStampedValue(now, float(value)))

    def _figures(self, running: list[ReplicaID], now: float) -> dict[str, dict[ReplicaID, list[TimeStampedValue]]]:
        """Those of the look-back period, of replicas that run."""
        start = now - self.config.look_back_period_s
        for by_replica in self.told.values():
            for replica in list(by_replica):
                samples = by_replica[replica]
                while len(samples) > 1 and samples[0].timestamp < start:
                    samples.popleft()
                if replica not in running:
                    del by_replica[replica]
        return {name: {who: list(each) for who, each in found.items()} for name, found in self.told.items()}

    def _ask(self, current: int, target: int, now: float, running: list[ReplicaID]) -> tuple[float, dict[str, Any]]:
        """What the program's own policy says; what is wanted now if it fails, which `problem` tells."""
        config = self.config
        raw = self._figures(running, now)
        merged = {
            name: {who: self._merged([sample.value for sample in each]) for who, each in found.items()}
            for name, found in raw.items()
        }
        try:
            if self.policy is None:
                self.policy = config.policy.get_policy()
            answer = self.policy(
                AutoscalingContext(
                    config, current, target, self.requests(now), self.queued, self.running,
                    config.min_replicas, config.max_replicas, self.state, self.app, self.deployment, now,
                    running, merged, raw, self.last_up, self.last_down,
                )
            )  # fmt: skip
            wanted, state = answer if isinstance(answer, tuple) else (answer, self.state)
            number = float(wanted)
        except Exception as error:  # noqa: BLE001  it is the program's code: the rest must go on
            self.problem = f"The autoscaling policy failed: {type(error).__name__}: {error}"
            return float(target), self.state
        self.problem = ""
        return number, state

    def _merged(self, values: list[float]) -> float:
        if self.config.aggregation_function == "max":
            return max(values)
        return min(values) if self.config.aggregation_function == "min" else sum(values) / len(values)

    def _smoothed(self, raw: float, target: int) -> int:
        """A part of the way from what there is to what is asked for, at least one step down."""
        factor = self.config.get_upscaling_factor() if raw > target else self.config.get_downscaling_factor()
        # what is left of a division is no request
        there = math.ceil(round(target + factor * (raw - target), 9))
        if there == target and math.ceil(round(raw, 9)) < target:
            there -= 1
        return max(0, there)

    def _delayed(self, desired: int, target: int, now: float) -> int:
        side = (desired > target) - (desired < target)
        if side != self.side:
            self.side, self.since = side, now if side else None
        if not side:
            return target
        if side > 0:
            delay = self.config.upscale_delay_s
        elif target == 1 and self.config.downscale_to_zero_delay_s is not None:
            delay = self.config.downscale_to_zero_delay_s
        else:
            delay = self.config.downscale_delay_s
        if side < 0 and target > 1:
            desired = max(1, desired)  # the last one goes by itself, after a delay of its own
        assert self.since is not None
        if now - self.since < delay:
            return target
        self.side, self.since = 0, None
        if side > 0:
            self.last_up = now
        else:
            self.last_down = now
        return desired
