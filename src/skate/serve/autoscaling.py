"""How many replicas a deployment should have, by the requests that it holds. Pure: it is told figures and the time.

With the mean of its running and queued requests over the look-back period, `wanted` is that mean divided by
``target_ongoing_requests``; of the difference to what there is a factor is made up for; and the answer must have stayed
on one side for the delay. From zero to one there is no waiting.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skate.serve.config import AutoscalingConfig

SHORTEST, LONGEST = 0.05, 1.0
"""Seconds between two samples."""


@dataclass
class AutoscalingContext:
    """What a policy of the program's own is called with; it returns ``(replicas, state)``.

    Args:
        config: the deployment's settings.
        current_num_replicas: those that run.
        target_num_replicas: those that are wanted now.
        total_num_requests: running and queued, over the look-back period.
        total_queued_requests: those that wait in handles now.
        total_running_requests: those that replicas have in hand now.
        capacity_adjusted_min_replicas, capacity_adjusted_max_replicas: the bounds.
        policy_state: what the policy returned as its state the last time.
        app_name, deployment_name: whose it is.
        current_time: in seconds.
    """

    config: AutoscalingConfig
    current_num_replicas: int
    target_num_replicas: int
    total_num_requests: float
    total_queued_requests: float
    total_running_requests: float
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    policy_state: dict[str, Any] = field(default_factory=dict)
    app_name: str = ""
    deployment_name: str = ""
    current_time: float = 0.0


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
        self.policy = find_policy(config.policy)

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

    def wanted(self, current: int, target: int, now: float) -> int:
        """How many replicas there should be from now on.

        Args:
            current: how many run.
            target: how many are wanted so far.
            now: seconds, on the clock of `note`.
        """
        config = self.config
        least, most = config.min_replicas, config.max_replicas
        if target == 0:
            # what waits is known for certain, and nothing is served meanwhile
            at_once = math.ceil(max(self.running + self.queued, 0) / config.target_ongoing_requests)
            return max(least, min(most, at_once))
        if self.policy is None:
            raw: float = self.requests(now) / config.target_ongoing_requests
        else:
            raw, self.state = self._ask(current, target, now)
        desired = max(least, min(most, self._smoothed(raw, target)))
        return max(least, min(most, self._delayed(desired, target, now)))

    def _ask(self, current: int, target: int, now: float) -> tuple[float, dict[str, Any]]:
        config = self.config
        answer = self.policy(
            AutoscalingContext(
                config, current, target, self.requests(now), self.queued, self.running,
                config.min_replicas, config.max_replicas, self.state, self.app, self.deployment, now,
            )
        )  # fmt: skip
        wanted, state = answer if isinstance(answer, tuple) else (answer, self.state)
        return float(wanted), state

    def _smoothed(self, raw: float, target: int) -> int:
        """A part of the way from what there is to what is asked for, at least one step down."""
        factor = self.config.factor_up() if raw > target else self.config.factor_down()
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
        return desired


def find_policy(given: Any) -> Any:
    """The callable that is meant by a callable, an import path, or a dict with ``policy_function``; None: the usual."""
    if isinstance(given, Mapping):
        given = given.get("policy_function")
    if isinstance(given, str):
        from importlib import import_module

        module, _, name = given.replace(":", ".").rpartition(".")
        given = getattr(import_module(module), name)
    return given
