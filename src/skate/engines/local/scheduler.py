"""Which worker runs what: pure decisions, no I/O.

A worker is *leased* to a family of calls (`leases.py`) and runs its tasks one after another. A function that has been
measured to be short may have several calls queued in its worker; of any other one call is sent at a time, so that
nothing waits behind a long call while another worker is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from skate.core.resources import fits
from skate.engines.local.leases import Leases
from skate.engines.local.placing import by_tiers, crowding, has_room, room
from skate.engines.local.rows import PENDING, Family, Node, Place, Row, Worker

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
    """Start some workers on a node."""

    node: Node
    environment: str
    workers: int


class Retire(NamedTuple):
    """Have an idle worker end: it makes room for another."""

    worker: Worker


class Scheduler(Leases):
    """The calls that wait for workers, and where each of them goes."""

    def __init__(self, total: dict[str, int], labels: dict[str, str] | None = None) -> None:
        super().__init__(total, labels)
        self.booked: dict[tuple[int, str], int] = {}
        """Workers that calls in bundles wait for in this round, by node and environment."""
        self.speed: dict[bytes, float] = {}
        """Mean time of a function in microseconds, newer calls weighing more."""

    # ---------------------------------------------------------------------- calls

    def add(self, family: Family, row: Row) -> None:
        """Queue a call whose dependencies are ready."""
        if self.limit is not None and row.parent:
            self._add_first(family, row)
            return
        family.queue.append(row)
        self.waiting[family] = None

    def at_once(self, family: Family) -> Worker | None:
        """An idle worker, leased, for a call that leaves nothing to decide; None: it is queued like others."""
        place = family.only
        if place is None or self.waiting or self.limit is not None or self.groups.due:
            return None
        idle = place.node.idle.get(family.environment)
        if not idle or not fits(family.need, place.free):
            return None
        worker = idle.pop()
        self.resting[family.environment] -= 1
        self.lease(worker, family, place)
        return worker

    def give_back(self, family: Family, row: Row) -> None:
        """Queue a call again that a worker has not begun: first in line, but for those that a caller may wait for."""
        if self.limit is None:
            family.queue.appendleft(row)
            self.waiting[family] = None
        else:
            self.add(family, row)

    def _add_first(self, family: Family, row: Row) -> None:
        """Queue a call made inside a call ahead of all others: its caller keeps a process until it has ended."""
        family.queue.appendleft(row)
        if next(iter(self.waiting), None) is not family:
            self.waiting.pop(family, None)
            self.waiting = {family: None, **self.waiting}

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

    # ---------------------------------------------------------------- decisions

    def refill(self, worker: Worker) -> Iterator[Assign]:
        """More calls for a leased worker whose queue is short; none if it should be given up."""
        family = worker.family
        if family is None or worker.blocked or family.spreads:
            return  # where calls are spread, each goes to the place that has its turn
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
            elif (len(self.waiting) > 1 and self._somebody_older(family)) or (
                self.limit is not None and _too_many(worker)
            ):
                return
            queue.popleft()
            worker.batch += 1
            yield Assign(worker, row)
        self.waiting.pop(family, None)

    def decide(self) -> Iterator[Assign | Start | Retire]:
        """Everything that can be set going now."""
        waiting = list(self.waiting)
        if self.booked:
            self.booked.clear()
        if self.ranked:
            waiting.sort(key=lambda family: -family.priority)
        for family in waiting:
            queue = family.queue
            while queue and (queue[0].state != PENDING or queue[0].spec is None):
                queue.popleft()
            if not queue:
                del self.waiting[family]
                continue
            yield from self._spread(family) if family.spreads else self._serve(family)

    def _serve(self, family: Family) -> Iterator[Assign | Start | Retire]:
        queue = family.queue
        while queue and self.resting.get(family.environment):
            place = self._place_with_worker(family)
            if place is None:
                break
            yield from self._assign_at(family, place)
        if not queue:
            self.waiting.pop(family, None)
            return
        if family.least is None:
            for worker in list(family.workers):
                yield from self.refill(worker)
            if not queue:
                return
        shares = by_tiers(family.need, family.tiers, min(len(queue), STARTING))
        if family.where is not None and family.where.group:
            yield from self._start_in_group(family, shares)
            return
        for place, number in shares:
            yield from self._start(family, place, number)

    def _place_with_worker(self, family: Family) -> Place | None:
        """Where a queued call can begin at once."""
        for tier in family.tiers:
            best, least = None, 2.0
            for place in tier:
                if place.node.idle.get(family.environment) and has_room(family.need, place):
                    crowded = crowding(family.need, place) if len(tier) > 1 else 0.0
                    if crowded < least:
                        best, least = place, crowded
                    if not crowded:
                        break
            if best is not None or (len(family.tiers) > 1 and any(has_room(family.need, place) for place in tier)):
                return best  # None: a worker is to be started there, though there may be one in a later tier
        return None

    def _assign_at(self, family: Family, place: Place) -> Iterator[Assign]:
        """Give the next queued call to an idle worker there."""
        row = family.queue.popleft()
        if row.state != PENDING or row.spec is None:
            return
        worker = place.node.idle[family.environment].pop()
        self.resting[family.environment] -= 1
        self.lease(worker, family, place)
        yield Assign(worker, row)

    def _start(self, family: Family, place: Place, number: int) -> Iterator[Start | Retire]:
        """Have so many workers on their way to a place."""
        starting = place.node.starting
        more = number - starting.get(family.environment, 0)
        if more > 0 and self.limit is not None:
            more, idle = self.limit.share(self, more)
            for worker in idle:
                self.gone(worker)
                yield Retire(worker)
        if more > 0:
            starting[family.environment] = starting.get(family.environment, 0) + more
            yield Start(place.node, family.environment, more)

    def _start_in_group(self, family: Family, shares: Iterable[tuple[Place, int]]) -> Iterator[Start | Retire]:
        """The same for bundles. Nobody else can take their room: workers that others wait for do not count."""
        wanted: dict[Node, int] = {}
        for place, number in shares:
            wanted[place.node] = wanted.get(place.node, 0) + number
        for node, number in wanted.items():
            booked = self.booked.get((node.key, family.environment), 0) + number
            self.booked[node.key, family.environment] = booked
            yield from self._start(family, node, min(booked, STARTING))

    def _spread(self, family: Family) -> Iterator[Assign | Start | Retire]:
        """Promise queued calls to the places in turn, and keep the promises that can be kept now."""
        need, queue, promised = family.need, family.queue, family.promised
        for place, count in list(promised.items()):
            promised[place] = room(need, place, min(count, len(queue)))
        left, refused = len(queue) - sum(promised.values()), 0
        name, units = need[0] if need else ("", 0)  # enough to see that a place is full, as most are while many wait
        places = family.places
        while left > 0 and refused < len(places):
            place = places[family.turn % len(places)]
            family.turn += 1
            if units > place.free.get(name, 0):
                refused += 1
                continue
            count = promised.get(place, 0) + 1
            if room(need, place, count) < count or count > STARTING:
                refused += 1
                continue
            promised[place] = count
            left -= 1
            refused = 0
        for place in list(promised):
            while promised[place] and queue and place.node.idle.get(family.environment) and has_room(need, place):
                yield from self._assign_at(family, place)
                promised[place] -= 1
            if promised[place]:
                yield from self._start(family, place, min(promised[place], STARTING))
            else:
                del promised[place]
        if not queue:
            self.waiting.pop(family, None)
            promised.clear()

    def _somebody_older(self, family: Family) -> bool:
        """Whether another family waits for what this one holds; if so this one goes to the back."""
        for other in self.waiting:
            if other is not family and other.queue and other.places and other.priority >= family.priority:
                self.waiting.pop(family, None)
                if family.queue:
                    self.waiting[family] = None
                return True
        return False


def _too_many(worker: Worker) -> bool:
    """Whether more run at a worker's place than it has CPUs for: with few processes, the next call waits then.

    Calls that were blocked go on at once, so there may be too many. Were others to begin meanwhile that will block in
    turn, no process would be left for those that all of them wait for.
    """
    return worker.place.free.get("CPU", 0) < 0
