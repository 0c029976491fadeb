"""Which worker runs what: pure decisions, no I/O.

Tasks are grouped in families (same resources, same environment). A worker is *leased* to one family: it takes the
family's resources once, runs its tasks one after another, and gives the resources back when it runs dry or blocks. A
function that has been measured to be short may have several calls queued in its worker; of any other one call is sent
at a time, so that nothing waits behind a long call while another worker is free.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from skate.core.resources import UNIT, fits, give, take
from skate.core.spec import Resources
from skate.engines.local.rows import PENDING, Family, Row, Worker

SHORT = 1_000
"""Microseconds up to which a function counts as short."""
AHEAD = 5_000
"""Microseconds of work that a worker may have queued."""
DEEPEST = 128
BATCH = 128
"""Calls in a row that a family sends to a worker while another family waits."""
STARTING = 32
"""Workers that may be on their way up at once."""


class Assign(NamedTuple):
    """Send the call to the worker."""

    worker: Worker
    row: Row


class Start(NamedTuple):
    """Start some workers."""

    environment: str
    workers: int


class Scheduler:
    """The resources of a node, its workers, and the calls that wait for them."""

    def __init__(self, total: dict[str, int]) -> None:
        self.total = dict(total)
        self.free = dict(total)
        self.gpu_free = [UNIT] * (total.get("GPU", 0) // UNIT)
        """What each GPU has left: a fraction must fit on one of them."""
        self.families: dict[tuple[Resources, str, bool], Family] = {}
        self.waiting: dict[Family, None] = {}
        """Families with queued calls, the longest waiting first."""
        self.idle: dict[str, list[Worker]] = {}
        self.starting: dict[str, int] = {}
        self.speed: dict[bytes, float] = {}
        """Mean time of a function in microseconds, newer calls weighing more."""

    def family(self, need: Resources, environment: str, actors: bool) -> Family:
        """The family of calls with these needs."""
        key = (need, environment, actors)
        family = self.families.get(key)
        if family is None:
            family = self.families[key] = Family(need, environment, actors)
            family.infeasible = not fits(need, self.total)
        return family

    def add(self, family: Family, row: Row) -> None:
        """Queue a call whose dependencies are ready."""
        family.queue.append(row)
        self.waiting[family] = None

    def measured(self, function: bytes, took: int) -> None:
        """Learn how long a call took."""
        mean = self.speed.get(function)
        self.speed[function] = took if mean is None else mean + (took - mean) * 0.2

    def depth(self, function: bytes) -> int:
        """How many calls of a function a worker may hold."""
        mean = self.speed.get(function)
        if mean is None or not 0 <= mean <= SHORT:
            return 1
        return min(DEEPEST, max(2, int(AHEAD / (mean + 1))))

    # ------------------------------------------------------------------ workers

    def arrived(self, worker: Worker) -> None:
        """A started worker is up."""
        self.starting[worker.environment] -= 1
        self.idle.setdefault(worker.environment, []).append(worker)

    def gone(self, worker: Worker) -> None:
        """A worker died, or is about to."""
        if not worker.up:
            self.starting[worker.environment] -= 1
        idle = self.idle.get(worker.environment)
        if idle and worker in idle:
            idle.remove(worker)
        self.unlease(worker)

    def lease(self, worker: Worker, family: Family) -> None:
        """Give the worker to the family, with the family's resources."""
        worker.family = family
        worker.batch = 0
        worker.taken = family.need
        take(family.need, self.free)
        worker.gpus = self._choose_gpus(family.need) or ()
        for number in worker.gpus:
            self.gpu_free[number] -= min(UNIT, dict(family.need)["GPU"])
        family.workers[worker] = None

    def unlease(self, worker: Worker) -> None:
        """Take back what the worker holds."""
        family = worker.family
        if family is None:
            return
        family.workers.pop(worker, None)
        worker.family = None
        give(worker.taken, self.free)
        if worker.blocked:
            take(_cpus(worker.taken), self.free)  # they were given back already
        for number in worker.gpus:
            self.gpu_free[number] += min(UNIT, dict(family.need)["GPU"])
        worker.taken = ()
        worker.gpus = ()

    def block(self, worker: Worker) -> None:
        """The worker waits for an object: others may use its CPUs. Memory and devices it holds on to, as in Ray."""
        worker.blocked += 1
        if worker.blocked == 1:
            give(_cpus(worker.taken), self.free)

    def unblock(self, worker: Worker) -> None:
        """The worker goes on."""
        worker.blocked -= 1
        if worker.blocked == 0:
            # may go below zero: oversubscribing beats deadlock
            take(_cpus(worker.taken), self.free)

    # ---------------------------------------------------------------- decisions

    def refill(self, worker: Worker) -> Iterator[Assign]:
        """More calls for a leased worker whose queue is short; none if it should be given up."""
        family = worker.family
        if family is None or worker.blocked:
            return
        queue, running = family.queue, worker.running
        worker.low = 0
        while queue:
            row = queue[0]
            if row.state != PENDING or row.spec is None:
                queue.popleft()
                continue
            if running:
                head = next(iter(running.values())).spec
                if head is None or self.depth(head.function) == 1:
                    return  # what it runs may take long: nothing waits behind that while another worker is to be had
                if worker.batch >= BATCH and len(self.waiting) > 1 and self._somebody_older(family):
                    return  # it runs dry, and the others have their turn
                share = len(queue) // len(family.workers) + 1
                held = len(running)
                if held >= self.depth(row.spec.function) or held > share or row.options.max_calls:
                    worker.low = held // 2
                    return
            elif len(self.waiting) > 1 and self._somebody_older(family):
                return
            queue.popleft()
            worker.batch += 1
            yield Assign(worker, row)
        self.waiting.pop(family, None)

    def dry(self, worker: Worker, now: float) -> None:
        """A leased worker has nothing to run: it is idle."""
        self.unlease(worker)
        worker.idle_since = now
        self.idle.setdefault(worker.environment, []).append(worker)

    def decide(self) -> Iterator[Assign | Start]:
        """Everything that can be set going now."""
        for family in list(self.waiting):
            queue = family.queue
            while queue and (queue[0].state != PENDING or queue[0].spec is None):
                queue.popleft()
            if not queue:
                del self.waiting[family]
                continue
            yield from self._serve(family)

    def _serve(self, family: Family) -> Iterator[Assign | Start]:
        queue = family.queue
        idle = self.idle.get(family.environment)
        while queue and idle and self._fits(family.need):
            row = queue.popleft()
            if row.state != PENDING or row.spec is None:
                continue
            worker = idle.pop()
            self.lease(worker, family)
            yield Assign(worker, row)
        if not queue:
            self.waiting.pop(family, None)
            return
        if not family.actors:
            for worker in list(family.workers):
                yield from self.refill(worker)
            if not queue:
                return
        if idle and not self._fits(family.need):
            return  # another worker would be idle too
        more = self._room(family) - self.starting.get(family.environment, 0)
        if more > 0:
            self.starting[family.environment] = self.starting.get(family.environment, 0) + more
            yield Start(family.environment, more)

    def _room(self, family: Family) -> int:
        """How many workers could be running the family's queued calls at once, besides those that do."""
        room = min(len(family.queue), STARTING)
        for name, units in family.need:
            if name != "GPU":
                room = min(room, self.free.get(name, 0) // units)
            elif units < UNIT:
                room = min(room, sum(free // units for free in self.gpu_free))
            else:
                room = min(room, self.gpu_free.count(UNIT) * UNIT // units)
        return room

    def _somebody_older(self, family: Family) -> bool:
        """Whether another family waits for what this one holds; if so this one goes to the back."""
        for other in self.waiting:
            if other is not family and other.queue and not other.infeasible:
                self.waiting.pop(family, None)
                if family.queue:
                    self.waiting[family] = None
                return True
        return False

    # --------------------------------------------------------------------- GPUs

    def _fits(self, need: Resources) -> bool:
        return fits(need, self.free) and self._choose_gpus(need) is not None

    def _choose_gpus(self, need: Resources) -> tuple[int, ...] | None:
        """Numbers of the GPUs for a lease; None when what is free lies on the wrong ones."""
        units = next((units for name, units in need if name == "GPU"), 0)
        if not units:
            return ()
        if units < UNIT:  # the fullest that has room, so that whole ones stay whole
            room = [(free, number) for number, free in enumerate(self.gpu_free) if free >= units]
            return (min(room)[1],) if room else None
        whole = [number for number, free in enumerate(self.gpu_free) if free == UNIT]
        return tuple(whole[: units // UNIT]) if len(whole) >= units // UNIT else None


def _cpus(need: Resources) -> Resources:
    return tuple(part for part in need if part[0] == "CPU")
