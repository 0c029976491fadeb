"""The most worker processes that a session may have: who makes room, and what waits for room that nobody makes.

A process counts from its fork until it is reaped. Where there is none left to start, idle workers end that the call
which wants one cannot use: those of environments that no other call waits for first, then those idle for longest.

A worker that runs something makes room some day. One that is blocked does when what it waits for goes on, so
`deadlock` looks further. An actor does not, as long as somebody has its handle; but the program may drop that, so
idle actors count as staying only once nothing at all has happened for a while.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from skate.engines.local.placing import has_room
from skate.engines.local.rows import Family, Worker

if TYPE_CHECKING:
    from skate.engines.local.hub import Hub
    from skate.engines.local.scheduler import Scheduler

STILL = 3.0
"""Seconds without any event after which idle actors count as staying for good."""


class Limit:
    """How many processes there may be, and those there are."""

    __slots__ = ("alive", "cut", "going", "most", "seen", "still", "watching")

    def __init__(self, most: int) -> None:
        self.most = most
        self.alive: set[int] = set()
        """Processes that were started and not reaped, by client number."""
        self.going: set[int] = set()
        """Those that were told to end, to make room."""
        self.cut = False
        """A call waits for a worker that could not be started."""
        self.watching = False
        self.seen: tuple[Any, ...] = ()
        """What had happened when it was last looked at."""
        self.still = False
        """Nothing has happened for a while, though calls wait for room."""

    @property
    def full(self) -> bool:
        """Whether no more may be started, and nobody is about to make room."""
        return len(self.alive) >= self.most and not self.going

    def ended(self, client: int) -> None:
        """A process is gone."""
        self.alive.discard(client)
        self.going.discard(client)

    def share(self, scheduler: Scheduler, wanted: int) -> tuple[int, list[Worker]]:
        """How many of the workers that are wanted may start; and idle ones that are to end for the sake of the rest."""
        granted = max(0, min(wanted, self.most - len(self.alive)))
        if granted == wanted:
            return granted, []
        self.cut = True
        short = wanted - granted - len(self.going)
        if short <= 0:
            return granted, []
        claimed = {family.environment for family in scheduler.waiting if family.queue}
        idle = [worker for node in scheduler.nodes.values() for workers in node.idle.values() for worker in workers]
        idle.sort(key=lambda worker: (worker.environment in claimed, bool(worker.held), worker.idle_since))
        self.going.update(worker.client for worker in idle[:short])
        return granted, idle[:short]

    def in_the_way(self, hub: Hub, job: Any) -> list[Worker] | None:
        """The workers of which one has to go on, so that a call of `job` gets a process; None: it may get one anyway.

        An empty list: all are held by actors that stay.
        """
        if not self.full:
            return None
        found = []
        for client in self.alive:
            worker = hub.workers.get(client)
            if worker is None or not worker.up or worker.leaving or worker.doom is not None:
                return None
            actor = worker.actor
            if worker.running:
                found.append(worker)
            elif actor is None or actor.dead or actor.ending or worker.job is not job or not self.still:
                return None
        return found


def watch(hub: Hub, limit: Limit) -> None:
    """Calls wait for room: look from time to time whether anything happens at all."""
    limit.cut = False
    if not limit.watching:
        limit.watching = True
        limit.seen = _events(hub, limit)
        hub.timers.at(hub.timers.clock() + STILL, partial(_look, hub, limit))


def _look(hub: Hub, limit: Limit) -> None:
    before, limit.seen = limit.seen, _events(hub, limit)
    limit.watching = any(_starved(family) for family in hub.scheduler.waiting)
    still = limit.watching and limit.full and before == limit.seen
    if still and not limit.still:
        limit.still = True
        hub.doubtful.add(limit)
        hub.doubt()
    elif limit.still and not still:
        limit.still = False
        hub.doubtful.discard(limit)
    if limit.watching:
        hub.timers.at(hub.timers.clock() + STILL, partial(_look, hub, limit))


def _events(hub: Hub, limit: Limit) -> tuple[Any, ...]:
    running = [(client, hub.workers[client].progress) for client in sorted(limit.alive) if client in hub.workers]
    return hub.failures, running


def _starved(family: Family) -> bool:
    """Whether a family has calls that wait for nothing but a process."""
    return bool(family.queue) and any(has_room(family.need, place) for place in family.places)
