"""The memory monitor at work: looks at memory while something runs, and has workers ended.

It decides nothing by itself: whom to end is `monitor.py`'s affair, what becomes of the calls is `shortage.py`'s. A
session in which nothing runs is left asleep.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from skate.core.memory_rules import MemoryRules
from skate.engines.local.meters import Meter, Reading, in_words, machine_meter, own_memory
from skate.engines.local.monitor import Candidate, choose
from skate.engines.local.rows import Doom, Worker

if TYPE_CHECKING:
    from skate.engines.local.host import Host

TOP = 5
"""Processes that an error names."""
REMEDY = "Have fewer at once (num_cpus=, memory=), let each take less, or drop references that are no longer needed."


class MemoryWatch:
    """Looks every `refresh_ms`, from the pump, with the hub's lock held."""

    def __init__(self, host: Host, rules: MemoryRules, meter: Meter | None = None) -> None:
        self.host = host
        self.rules = rules
        self.meter = meter
        self.interval = rules.refresh_ms / 1000
        self.resting = bool(rules.refresh_ms)
        """No timer is set. Without a monitor we never rest, and never look either."""
        self.looks = 0
        self.seen: dict[int, tuple[int, int]] = {}
        """What each worker runs, and since which look."""
        self.helpless = False
        if rules.enforce:
            host.meter = lambda worker: own_memory(worker.pid)

    def arm(self) -> None:
        """Look in a while if something runs."""
        for worker in self.host.hub.workers.values():
            if worker.running:
                self.resting = False
                self.host.hub.timers.at(time.monotonic() + self.interval, self._look)
                return

    def _look(self) -> None:
        self.resting = True
        try:
            self.look()
        except (OSError, ValueError, KeyError) as problem:
            self.resting = False  # for good
            self.host.warn(
                f"the memory monitor is off, for it cannot read how much memory is in use: {problem}", "MEMORY"
            )
            return
        self.arm()

    def look(self) -> None:
        """Look once, and act if that is needed."""
        self.looks += 1
        workers = list(self.host.hub.workers.values())
        self.seen = {worker.client: self._since(worker) for worker in workers if worker.running or worker.actor}
        if any(worker.doom is not None for worker in workers):
            return  # what they have is not free yet
        if self.rules.enforce:
            for worker in workers:
                self._hold_to_limit(worker)
            workers = [worker for worker in workers if worker.doom is None]
        reading = self._reading(workers)
        bound = self.rules.bound(reading.total)
        if reading.used > bound:
            self._relieve(workers, reading, bound)
        else:
            self.helpless = False

    def _since(self, worker: Worker) -> tuple[int, int]:
        head = worker.actor.key if worker.actor is not None else next(iter(worker.running))
        look, before = self.seen.get(worker.client, (0, -1))
        return (look, before) if before == head else (self.looks, head)

    def _reading(self, workers: list[Worker]) -> Reading:
        if self.meter is None:
            self.meter = machine_meter()
        reading = self.meter()
        if self.rules.limit:
            used = sum(size for size, _ in self._processes(workers)) + self.host.arena.used
            session = Reading(used, self.rules.limit, "the session's memory_limit")
            reading = max(session, reading, key=lambda one: one.share)
        return reading

    def _processes(self, workers: list[Worker]) -> list[tuple[int, str]]:
        """What each process of the session has for itself, and its name."""
        host = self.host
        found = [(own_memory(os.getpid()), f"the driver (pid {os.getpid()})")]
        found += [(own_memory(pid), f"the zygote (pid {pid})") for pid in host.zygotes()]
        found += [
            (own_memory(worker.pid), f"{self._name(worker)} (pid {worker.pid})") for worker in workers if worker.pid
        ]
        return found

    def _name(self, worker: Worker) -> str:
        if worker.actor is not None:
            return worker.actor.info.options.class_name
        row = next(iter(worker.running.values()), None)
        return self.host.hub.label(row) if row is not None else "an idle worker"

    # ------------------------------------------------------------------- shortage

    def _relieve(self, workers: list[Worker], reading: Reading, bound: int) -> None:
        inherited = own_memory(self.host.pool.pid)
        found = [self._candidate(worker, inherited) for worker in workers if worker.up and worker.leaving is None]
        verdicts = choose(found, reading.used, bound, reading.total)
        state = (
            f"{in_words(reading.used)} of the {in_words(reading.total)} of {reading.where} are in use, "
            f"{in_words(bound)} may be (memory_usage_threshold={self.rules.threshold:g})"
        )
        if not verdicts and not self.helpless:
            self.helpless = True  # said once
            self.host.warn(f"memory is short: {state}. No worker has much of it. {self._top(workers)}", "MEMORY")
        by_client = {worker.client: worker for worker in workers}
        for verdict in verdicts:
            worker = by_client[verdict.client]
            had, name = in_words(own_memory(worker.pid)), self._name(worker)
            self.host.warn(f"memory is short: {state}. Ended {name} (pid {worker.pid}), which had {had}.", "MEMORY")
            why = f"had {had} when memory was short: {state}. {self._top(workers)} {REMEDY}"
            self.host.hub.doom(worker, Doom(why, True, verdict.counts))

    def _candidate(self, worker: Worker, inherited: int) -> Candidate:
        size = max(0, own_memory(worker.pid) - inherited)
        actor = worker.actor
        if actor is None and not worker.running:
            return Candidate(worker.client, size, idle=True)
        if actor is not None:
            retriable = actor.info.options.max_restarts != 0
        else:
            options = next(iter(worker.running.values())).options
            retriable = options is not None and options.max_retries != 0
        since = self.seen.get(worker.client, (0, 0))
        return Candidate(worker.client, size, since, retriable=retriable, busy=bool(worker.running))

    def _top(self, workers: list[Worker]) -> str:
        largest = sorted(self._processes(workers), reverse=True)[:TOP]
        told = ", ".join(f"{name} {in_words(size)}" for size, name in largest)
        return f"Most had: {told}; objects in shared memory {in_words(self.host.arena.used)}."

    # --------------------------------------------------------------- memory= enforced

    def _hold_to_limit(self, worker: Worker) -> None:
        """End a worker that took more than its call, or its actor, has asked for."""
        if worker.actor is not None:
            resources = worker.actor.info.options.resources
        else:
            row = next(iter(worker.running.values()), None)
            resources = row.options.resources if row is not None and row.options is not None else ()
        limit = dict(resources).get("memory", 0)
        took = own_memory(worker.pid) - worker.base if limit else 0
        if took <= limit or not worker.up or worker.leaving is not None:
            return
        name = self._name(worker)
        why = f"took {in_words(took)}, more than the {in_words(limit)} that memory={limit} allows (enforce_memory)."
        self.host.warn(f"ended {name} (pid {worker.pid}): it {why}", "MEMORY")
        self.host.hub.doom(worker, Doom(why, False, True))
