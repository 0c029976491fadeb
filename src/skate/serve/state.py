"""What is to be done for one deployment. Pure: it is told what happened and the time, and gives commands.

`DeploymentState.decide` compares the replicas that there are with those that are wanted. It starts nothing and ends
nothing itself; the controller does what the commands say, and reports what came of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from skate.serve.gang import GangContext
from skate.serve.target import (
    ApplicationStatus,
    Command,
    DeploymentStatus,
    Drain,
    Introduction,
    Kill,
    Phase,
    Reconfigure,
    Replica,
    Start,
    Target,
    gang_size,
)

PATIENCE = 5.0
"""Seconds for which a new replica may wait for room before an old one makes it."""
SHORT_LIFE = 5.0
"""Seconds; a replica that ends sooner counts as one that failed to start."""
FIRST_WAIT, LONGEST_WAIT = 0.05, 30.0
"""Seconds between tries to start a replica: doubled each time."""
GROUP = "SKATE_SERVE_GROUP::"
"""Begins the names of placement groups; Ray Serve's own, in the same cluster, are not ours."""
TRIES_PER_REPLICA = 3
"""So many failures for each replica wanted, at most ``max_constructor_retry_count``, and deploying has failed."""
SICK = 3
"""Health checks that fail one after another before a replica is replaced."""


class DeploymentState:
    """The replicas of one deployment, and what is wanted."""

    def __init__(self, app: str, name: str, salt: str = "") -> None:
        self.app = app
        self.name = name
        self.salt = salt
        """Begins the names of the replicas, which no others may have had."""
        self.target: Target | None = None
        """None: it is being deleted."""
        self.replicas: dict[str, Replica] = {}
        self.status = DeploymentStatus.UPDATING
        self.trigger = "CONFIG_UPDATE_STARTED"
        self.message = ""
        self.failures = 0
        self.retry_at = 0.0
        self.deploying = True
        """Whether the target has not been reached yet since it was last deployed."""
        self.fallback: Target | None = None
        """What was reached last: kept up when the target cannot be had."""
        self._next = 0

    # ------------------------------------------------------------------ what happens

    def deploy(self, target: Target, now: float) -> None:
        """Another target: new code, options or number of replicas."""
        old, self.target = self.target, target
        if old == target and self.status is DeploymentStatus.HEALTHY:
            return
        self.failures, self.retry_at, self.deploying = 0, now, True
        self.message, self.trigger = "", "CONFIG_UPDATE_STARTED"
        self.status = DeploymentStatus.UPDATING
        if old is not None and replace(old, replicas=target.replicas, config=target.config) == target:
            same_options = replace(old.config, num_replicas=target.config.num_replicas) == target.config
            if same_options and old.replicas != target.replicas:
                up = target.replicas > old.replicas
                self.status = DeploymentStatus.UPSCALING if up else DeploymentStatus.DOWNSCALING

    def scale(self, replicas: int) -> bool:
        """Another number of replicas, by autoscaling; whether that is a change. Gangs are whole."""
        target = self.target
        if target is None:
            return False
        size = gang_size(target)
        replicas = -(-replicas // size) * size
        if target.replicas == replicas:
            return False
        up = replicas > target.replicas
        self.target = replace(target, replicas=replicas)
        if self.fallback is not None and self.fallback.version == target.version:
            self.fallback = self.target
        if self.status in (DeploymentStatus.HEALTHY, DeploymentStatus.UPSCALING, DeploymentStatus.DOWNSCALING):
            self.status = DeploymentStatus.UPSCALING if up else DeploymentStatus.DOWNSCALING
            self.trigger, self.message = "AUTOSCALING", f"{'Up' if up else 'Down'}scaling to {replicas} replicas."
        return True

    def delete(self) -> None:
        """Nothing of it is wanted any more."""
        self.target = self.fallback = None
        self.status, self.trigger = DeploymentStatus.UPDATING, "DELETING"

    def placed(self, replica: str) -> None:
        """A new replica's process is there; its constructor may still run."""
        found = self.replicas.get(replica)
        if found is not None:
            found.placed = True

    def started(self, replica: str, now: float) -> None:
        """A replica's constructor has ended well."""
        found = self.replicas.get(replica)
        if found is not None and found.phase is Phase.STARTING:
            found.phase, found.since, found.placed = Phase.RUNNING, now, True

    def adopt(self, replica: str, found: Introduction, now: float) -> None:
        """A replica was found when the controller came back."""
        assert found.target is not None
        phase = Phase.RUNNING if found.info is not None else Phase.STARTING
        entry = Replica(replica, found.target, phase, now, True, found.target.light, found.rank, gang=found.gang)
        self.replicas[replica] = entry
        if found.leaving:
            self._to_be_ended(entry, now)

    def mend_gangs(self, now: float) -> None:
        """All replicas were found: gangs of which some are missing are of no use."""
        for entry in self.live():
            gang = entry.gang
            if gang is not None and not all(name in self.replicas for name in gang.member_replica_ids):
                self._end_gang(entry, now)
                self._to_be_ended(entry, now)

    def _end_gang(self, lost: Replica, now: float) -> None:
        """One of a gang is gone: so go the others."""
        for entry in self.live():
            if lost.gang is not None and entry.gang is not None and entry.gang.gang_id == lost.gang.gang_id:
                self._to_be_ended(entry, now)

    @staticmethod
    def _to_be_ended(entry: Replica, now: float) -> None:
        entry.hasty = entry.phase is Phase.STARTING
        entry.phase, entry.since, entry.told = Phase.STOPPING, now, False

    def failed(self, replica: str, why: str, now: float) -> None:
        """A replica could not start, or take its new options: it is of no use."""
        found = self.replicas.pop(replica, None)
        if found is None or found.phase is Phase.STOPPING or self.target is None:
            return
        self._end_gang(found, now)
        self.failures += 1
        self.retry_at = now + min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(20, self.failures - 1))
        if found.target.version != self.target.version:
            return
        most = min(self.target.config.max_constructor_retry_count, TRIES_PER_REPLICA * max(1, self.target.replicas))
        if self.deploying and self.failures >= most:
            self.status, self.trigger = DeploymentStatus.DEPLOY_FAILED, "REPLICA_STARTUP_FAILED"
            self.message = f"The deployment failed to start {self.failures} times in a row. The last error was:\n{why}"
        else:
            if not self.deploying:
                self.status, self.trigger = DeploymentStatus.UNHEALTHY, "REPLICA_STARTUP_FAILED"
            self.message = f"A replica failed to start ({self.failures} in a row; tried again). The error was:\n{why}"

    def died(self, replica: str, why: str, now: float) -> None:
        """A replica's process has ended."""
        found = self.replicas.get(replica)
        if found is None:
            return
        if found.phase is Phase.STARTING or (
            found.phase is Phase.RUNNING and now - found.since < SHORT_LIFE and self.failures
        ):
            self.failed(replica, why, now)
            return
        del self.replicas[replica]
        if found.phase is not Phase.STOPPING:
            self._end_gang(found, now)
        if found.phase is Phase.STOPPING or self.target is None or found.target.version != self.target.version:
            return
        if now - found.since < SHORT_LIFE:
            self.failures, self.retry_at = 1, now + FIRST_WAIT
        if not self.deploying:
            self.status, self.trigger = DeploymentStatus.UNHEALTHY, "UNSPECIFIED"
        self.message = f"Replica {replica} died and is replaced: {why}"

    def reconfigured(self, replica: str, light: int) -> None:
        """A replica has taken over new options."""
        found = self.replicas.get(replica)
        if found is not None:
            found.light = light

    def checked(self, replica: str, problem: str, now: float) -> bool:
        """A health check has ended; `problem` is empty if it went well. Whether the replica is given up."""
        found = self.replicas.get(replica)
        if found is None or found.phase is not Phase.RUNNING:
            return False
        found.sick = found.sick + 1 if problem else 0
        if found.sick < SICK:
            return False
        self.status, self.trigger = DeploymentStatus.UNHEALTHY, "HEALTH_CHECK_FAILED"
        self.message = f"Replica {replica} failed {SICK} health checks and is replaced: {problem}"
        self._to_be_ended(found, now)
        self._end_gang(found, now)
        return True

    # ------------------------------------------------------------------ what is to be done

    def decide(self, now: float) -> list[Command]:
        """What is to be done now."""
        commands: list[Command] = list(self._ends(now))
        if self.target is None:
            commands += self._stop(self.live(), now)
            return commands
        commands += self._replacing(self.target, now)
        if self.status is not DeploymentStatus.DEPLOY_FAILED:
            commands += self._lightly(self.target)
        self._look()
        return commands

    def live(self) -> list[Replica]:
        """Replicas that are not told to end."""
        return [entry for entry in self.replicas.values() if entry.phase is not Phase.STOPPING]

    def _ends(self, now: float) -> Iterator[Command]:
        """Replicas that were told to go and did not."""
        for entry in self.replicas.values():
            if entry.phase is Phase.STOPPING and not entry.told:
                entry.told = True
                yield Kill(entry.name) if entry.hasty else Drain(entry.name)
            elif entry.phase is Phase.STOPPING and now >= self._deadline(entry):
                entry.since = now  # once more, should it not be gone by then
                yield Kill(entry.name)

    def _deadline(self, entry: Replica) -> float:
        return entry.since + entry.target.config.graceful_shutdown_timeout_s + 1.0

    def _stop(self, entries: list[Replica], now: float) -> Iterator[Command]:
        for entry in entries:
            starting = entry.phase is Phase.STARTING
            entry.phase, entry.since = Phase.STOPPING, now
            yield Kill(entry.name) if starting else Drain(entry.name)

    def _replacing(self, target: Target, now: float) -> Iterator[Command]:
        live = self.live()
        new = [entry for entry in live if entry.target.version == target.version]
        old = [entry for entry in live if entry.target.version != target.version]
        # those that serve are worth most, the oldest of them first
        new = _in_order(new)
        yield from self._stop(new[target.replicas :], now)
        new = new[: target.replicas]
        if self.status is DeploymentStatus.DEPLOY_FAILED:
            yield from self._fall_back(live, now)
            return
        yield from self._stop([entry for entry in old if entry.phase is Phase.STARTING], now)
        old = [entry for entry in old if entry.phase is Phase.RUNNING]
        spare = self._spare(target, new, old, now)
        if spare > 0:
            size = max((gang_size(entry.target) for entry in old), default=1)
            gone = _in_order(old)[: spare // size * size]
            yield from self._stop(gone, now)
            old = [entry for entry in old if entry not in gone]
        if now >= self.retry_at:
            missing = target.replicas - len(new)
            if old:
                missing = min(missing, target.replicas + _surge(target) - len(new) - len(old))
            yield from self._begin(missing, target, now)

    def _spare(self, target: Target, new: list[Replica], old: list[Replica], now: float) -> int:
        """How many of the old replicas are not needed any more."""
        least = target.replicas
        if not _surge(target):
            size = max(gang_size(target), max((gang_size(entry.target) for entry in old), default=1))
            least -= -(-max(1, int(target.config.rolling_update_percentage * target.replicas)) // size) * size
        least -= sum(_waits_for_room(entry, now) for entry in new)  # old ones make room for these
        return sum(entry.phase is Phase.RUNNING for entry in new) + len(old) - least

    def _fall_back(self, live: list[Replica], now: float) -> Iterator[Command]:
        """The target cannot be had: keep up what there was before."""
        back = self.fallback
        if back is not None and now >= self.retry_at:
            yield from self._begin(back.replicas - len(live), back, now)

    def _begin(self, number: int, target: Target, now: float) -> Iterator[Command]:
        size = gang_size(target)
        for _ in range(number // size):
            names = [self._name() for _ in range(size)]
            for place, name in enumerate(names):
                taken = {entry.rank for entry in self.live()}
                rank = next(rank for rank in range(len(taken) + 1) if rank not in taken)
                gang = self._gang(names, place) if target.config.gang_scheduling_config is not None else None
                entry = Replica(name, target, Phase.STARTING, now, light=target.light, rank=rank, gang=gang)
                self.replicas[entry.name] = entry
                yield Start(entry.name, target, rank, gang)

    def _gang(self, names: list[str], place: int) -> GangContext:
        group = f"{GROUP}{self.app}#{self.name}#gang-{names[0]}"
        return GangContext(names[0], place, len(names), names, group)

    def _name(self) -> str:
        self._next += 1
        return f"{self.salt}{self._next:x}"

    def _lightly(self, target: Target) -> Iterator[Command]:
        for entry in self.live():
            same = entry.phase is Phase.RUNNING and entry.target.version == target.version
            if same and entry.target.light != target.light:
                entry.target = target
                yield Reconfigure(entry.name, target)

    def _look(self) -> None:
        """Whether all is as it should be."""
        if self.reached() and self.status is not DeploymentStatus.DEPLOY_FAILED:
            if self.status is not DeploymentStatus.HEALTHY:
                scaled = self.status in (DeploymentStatus.UPSCALING, DeploymentStatus.DOWNSCALING)
                self.trigger = (
                    "UPSCALE_COMPLETED" if self.status is DeploymentStatus.UPSCALING
                    else "DOWNSCALE_COMPLETED" if scaled
                    else "CONFIG_UPDATE_COMPLETED"
                )  # fmt: skip
                self.status, self.message = DeploymentStatus.HEALTHY, ""
            self.failures, self.deploying, self.fallback = 0, False, self.target

    def reached(self) -> bool:
        """Whether the replicas that are wanted run, and no others."""
        target = self.target
        if target is None:
            return not self.replicas
        live = self.live()
        return len(live) == target.replicas and all(
            entry.phase is Phase.RUNNING and entry.target.version == target.version and entry.light == target.light
            for entry in live
        )

    def next_look(self, now: float) -> float | None:
        """When `decide` may have something new to say without anything happening; None: never."""
        times = [self._deadline(entry) for entry in self.replicas.values() if entry.phase is Phase.STOPPING]
        if self.target is not None:
            over = self.status is DeploymentStatus.DEPLOY_FAILED and self.fallback is None
            if self.retry_at > now and not over:
                times.append(self.retry_at)
            times += [
                entry.since + PATIENCE
                for entry in self.replicas.values()
                if entry.phase is Phase.STARTING and not entry.placed and entry.since + PATIENCE > now
            ]
        return min(times, default=None)

    # ------------------------------------------------------------------ what it looks like

    def running(self) -> list[Replica]:
        """The replicas that routers may send to."""
        return [entry for entry in self.replicas.values() if entry.phase is Phase.RUNNING]

    def targets(self) -> list[Target]:
        """Those that may still be needed."""
        targets = [self.target, self.fallback, *(entry.target for entry in self.replicas.values())]
        return [target for target in targets if target is not None]

    def codes(self) -> set[str]:
        """Names of the pickled code that may still be needed."""
        return {target.code for target in self.targets()}

    def versions(self) -> set[str]:
        """Versions that may still be needed."""
        return {target.version for target in self.targets()}

    def counts(self) -> dict[str, int]:
        """How many replicas are in each phase."""
        found: dict[str, int] = {}
        for entry in self.replicas.values():
            stale = self.target is not None and entry.light != self.target.light and entry.phase is Phase.RUNNING
            name = "UPDATING" if stale else entry.phase.value
            found[name] = found.get(name, 0) + 1
        return found


def _surge(target: Target) -> int:
    """How many replicas more than wanted there may be while a version is replaced; whole gangs."""
    size = gang_size(target)
    return math.ceil(target.replicas * target.config.max_surge_percent / 100 / size) * size


def _in_order(entries: list[Replica]) -> list[Replica]:
    """Those that serve first, the oldest of them before others; gangs together."""
    weight: dict[str, tuple[bool, float]] = {}
    for entry in entries:
        key = entry.gang.gang_id if entry.gang is not None else entry.name
        own = (entry.phase is not Phase.RUNNING, entry.since)
        weight[key] = max(weight.get(key, own), own)
    keys = {entry.name: entry.gang.gang_id if entry.gang is not None else entry.name for entry in entries}
    return sorted(entries, key=lambda entry: (weight[keys[entry.name]], keys[entry.name]))


def _waits_for_room(entry: Replica, now: float) -> bool:
    return entry.phase is Phase.STARTING and not entry.placed and now - entry.since >= PATIENCE


def application_status(deployments: list[DeploymentState], deleting: bool) -> tuple[ApplicationStatus, str]:
    """The status of an application by those of its deployments, and what there is to say."""
    if deleting:
        return ApplicationStatus.DELETING, ""
    for status, verdict in (
        (DeploymentStatus.DEPLOY_FAILED, ApplicationStatus.DEPLOY_FAILED),
        (DeploymentStatus.UNHEALTHY, ApplicationStatus.UNHEALTHY),
    ):
        bad = [entry for entry in deployments if entry.status is status]
        if bad:
            return verdict, "\n".join(f"{entry.name}: {entry.message}" for entry in bad)
    if any(entry.deploying for entry in deployments):
        return ApplicationStatus.DEPLOYING, ""
    return ApplicationStatus.RUNNING, ""
