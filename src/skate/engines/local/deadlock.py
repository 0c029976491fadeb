"""Seeing that a wait can never end: calls that wait for each other in a circle, or for what can never run.

A worker whose only thread waits is *stuck* when what it waits for can only be made by calls that are in stuck workers,
queued for them, or that wait for such calls. The search proves the opposite: it walks from the waiting worker along
everything that has to go on first, and stops as soon as something is found that can. Only what the hub sees counts. A
wait with a timeout ends by itself; threads, and coroutines that await, are never taken for stuck, nor is a call that
somebody has cancelled. So there are no false alarms, and some circles stay unseen (docs/architecture.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from skate.engines.local.rows import GROUP, PENDING, Actor, Family, Row, Worker

if TYPE_CHECKING:
    from skate.engines.local.hub import Hub


class Wait(NamedTuple):
    """Somebody of whom the hub knows no more waits until so many of these objects are ready."""

    rows: list[Row]
    number: int


class Share(NamedTuple):
    """A resource of which too little is free: one of those who hold some has to end."""

    name: str


class Slot(NamedTuple):
    """A worker process, of which there may be no more: one of these workers has to end."""

    name: str
    workers: list[Worker]


Node = Row | Worker | Share | Slot | Wait
"""What has to go on: a call (the row that has its spec), a worker; or a wait that the search begins with."""
AT_ONCE = 500
"""Nodes that a worker's wait may cost when it begins; a search that needs more is put off."""


class Needs(NamedTuple):
    """A node goes on once so many of these have; with none needed it can go on now."""

    number: int
    of: list[Node]


GOES_ON = Needs(0, [])


class Never(NamedTuple):
    """Why a wait can never end."""

    path: list[Node]
    """From who waits to what makes it hopeless: the first node again, or a call that nothing can ever run."""
    hopeless: Row | None = None
    """That call."""


class Unfinished(Exception):
    """The search was allowed too few steps."""


def possible(hub: Hub, worker: Worker) -> bool:
    """Whether a circle may run through a worker at all; in ordinary nested calls the answer costs next to nothing."""
    running = worker.running
    if len(running) > 1 or (worker.actor is not None and worker.actor.queues):
        return True
    for row in running.values():
        if row.waiters is not None or (row.spec is not None and row.spec.returns != 1):
            return True
    limit = hub.scheduler.limit
    return any(name != "CPU" for name, _ in worker.taken) or (limit is not None and limit.full)


def never(hub: Hub, start: Node, most: int = 0) -> Never | None:
    """Why a worker's wait, or a call, can never end; None when it may. Unfinished when that takes `most` nodes."""
    return _Search(hub, start).run(most)


class _Search:
    """Collects nodes until the start is known to go on, or everything it needs is known."""

    def __init__(self, hub: Hub, start: Node) -> None:
        self.hub = hub
        self.start = start
        self.nodes: dict[int, Node] = {id(start): start}
        self.missing: dict[int, int] = {}
        """How many more of its needs a node waits for; 0: it goes on."""
        self.needed: dict[int, list[int]] = {}
        """Who needs a node, once for each time that it does."""
        self.shares: dict[str, Share] = {}
        self.slots: dict[Any, Slot | None] = {}
        """Worker processes for the calls of a job."""
        self.before: dict[int, Row] = {}
        """Of a call queued for an actor: the nearest call before it that is not ready to be sent."""
        self.lines: set[int] = set()
        """Queues that `before` covers."""

    def run(self, most: int) -> Never | None:
        """Search; None as soon as the start can go on."""
        start = id(self.start)
        line = deque([start])
        while line:
            number = line.popleft()
            needs = self.needs(self.nodes[number])
            self.missing[number] = needs.number
            ahead = 0
            for node in needs.of:
                key = id(node)
                if self.missing.get(key) == 0:
                    ahead += 1
                elif key in self.nodes:
                    self.needed.setdefault(key, []).append(number)
                else:
                    self.nodes[key] = node
                    self.needed[key] = [number]
                    line.append(key)
            self.go_on(number, ahead)
            if self.missing[start] == 0:
                return None
            if most and len(self.missing) >= most:
                raise Unfinished
        return self.explain()

    def go_on(self, number: int, count: int) -> None:
        """So many of a node's needs are met: pass on that it goes on, to all that follows from it."""
        self.missing[number] = max(0, self.missing[number] - count)
        if self.missing[number]:
            return
        news = [number]
        while news:
            for waiting in self.needed.pop(news.pop(), ()):
                if self.missing[waiting]:
                    self.missing[waiting] -= 1
                    if not self.missing[waiting]:
                        news.append(waiting)

    def explain(self) -> Never | None:
        """The shortest way from the start back to itself, or to a call that can never run.

        None when the start only waits for a circle of others: once one of those is told, the start may go on.
        """
        came: dict[int, int] = {}
        line = deque([id(self.start)])
        while line:
            number = line.popleft()
            of = [id(node) for node in self.needs(self.nodes[number]).of]
            node = self.nodes[number]
            if not of and isinstance(node, Row):
                return Never(self._way(came, number), node)
            for following in of:
                if following == id(self.start):
                    return Never([*self._way(came, number), self.start])
                if following not in came and self.missing[following]:
                    came[following] = number
                    line.append(following)
        return None

    def _way(self, came: dict[int, int], number: int) -> list[Node]:
        way = [self.nodes[number]]
        while number != id(self.start):
            number = came[number]
            way.append(self.nodes[number])
        return way[::-1]

    # -------------------------------------------------------------------- needs

    def needs(self, node: Node) -> Needs:
        """What has to go on before a node can."""
        if isinstance(node, Worker):
            return self.of_worker(node)
        if isinstance(node, Wait):
            calls = self.calls(node.rows)
            return GOES_ON if calls is None else Needs(node.number, calls)
        if isinstance(node, Share):
            if self.hub.scheduler.groups.hold(node.name):
                return GOES_ON  # a group that has some of it may be removed
            workers = self.hub.workers.values()
            return Needs(1, [worker for worker in workers if any(node.name == held for held, _ in worker.taken)])
        if isinstance(node, Slot):
            return Needs(1, list(node.workers))
        return self.of_call(node)

    def of_worker(self, worker: Worker) -> Needs:
        """A worker that does not wait goes on; one that waits needs what it waits for."""
        if not worker.blocked or worker.leaving or len(worker.questions) != 1:
            return GOES_ON
        (question,) = worker.questions
        head = _head(worker)
        if question.message.timeout is not None or (head is not None and head.cancelled and worker.actor is None):
            return GOES_ON
        calls = self.calls(question.rows)
        if calls is None:
            return GOES_ON
        # A `get` ends with the first that fails, so any of them that goes on may end it.
        return Needs(1 if question.message.values else max(1, question.missing), calls)

    def calls(self, rows: Iterable[Row]) -> list[Node] | None:
        """The calls that make the pending ones of some objects; None when one of them comes from elsewhere."""
        makers: list[Node] = []
        for row in rows:
            if row.state != PENDING:
                continue
            if row.maker == GROUP:
                makers.append(row)
                continue
            maker = row if row.spec is not None else self.hub.rows.get(row.maker)
            if maker is None or maker.spec is None or maker.state != PENDING:
                return None
            makers.append(maker)
        return makers

    def of_call(self, row: Row) -> Needs:
        """A call needs its worker, or all that has to happen before it gets one."""
        spec, worker = row.spec, row.worker
        if row.maker == GROUP:
            return Needs(1, []) if row.options.hopeless else GOES_ON
        if spec is None or (row.cancelled and not spec.actor):
            return GOES_ON
        if worker is not None and (worker.actor is not None or _head(worker) is row):
            return Needs(1, [worker])
        inputs = self.calls(filter(None, map(self.hub.rows.get, spec.deps))) if row.missing else []
        if inputs is None:
            return GOES_ON
        if spec.method:
            return self.of_method(row, spec.actor, inputs)
        family = self.hub._family(row.options)
        if family.infeasible:
            return Needs(1, [])
        if not family.places:
            return GOES_ON  # its placement group waits for room, which its owner may make
        # CPUs come free while others wait, what else it needs does not.
        short = [
            name
            for name, units in family.need
            if name != "CPU" and all(units > place.free.get(name, 0) for place in family.places)
        ]
        inputs += [self.shares.setdefault(name, Share(name)) for name in short]
        slot = self.slot(family)
        if slot is not None:
            if not slot.workers:
                return Needs(1, [])
            inputs.append(slot)
        return Needs(len(inputs), inputs)

    def slot(self, family: Family) -> Slot | None:
        """The worker process that a family's calls need, if they cannot have one as things are."""
        limit = self.hub.scheduler.limit
        if limit is None:
            return None
        job = self.hub.ports.jobs.of(family.environment)
        if job not in self.slots:
            workers = limit.in_the_way(self.hub, job)
            name = f"a worker process (max_workers={limit.most})"
            self.slots[job] = None if workers is None else Slot(name, workers)
        return self.slots[job]

    def of_method(self, row: Row, key: int, needs: list[Node]) -> Needs:
        """A method call that is not sent needs its arguments, the calls of its caller before it, and its actor."""
        actor = self.hub.actors.get(key)
        if actor is None or actor.dead:
            return GOES_ON
        earlier = self.earlier(row, actor)
        if earlier is not None:
            needs.append(earlier)
        needs.append(actor.worker or self.hub.rows[actor.key])
        return Needs(len(needs), needs)

    def earlier(self, row: Row, actor: Actor) -> Row | None:
        """The nearest call that holds up a queued one because it is from the same caller and not ready."""
        queue = actor.queues.get(row.owner)
        if queue is None or actor.info.options.out_of_order:
            return None
        if id(queue) not in self.lines:
            self.lines.add(id(queue))
            last: Row | None = None
            for queued in queue:
                if last is not None:
                    self.before[id(queued)] = last
                if queued.missing and queued.spec is not None:
                    last = queued
        return self.before.get(id(row))


def _head(worker: Worker) -> Row | None:
    """The call that a plain worker, or an ordinary actor, runs."""
    return next(iter(worker.running.values()), None)


def for_room(path: list[Node]) -> bool:
    """Whether more worker processes would help."""
    return any(isinstance(node, Slot) for node in path)


def in_words(hub: Hub, path: list[Node]) -> str:
    """Who waits for whom."""
    parts = [_name(hub, path[0])]
    for node, following in pairwise(path):
        how = _how(node, following)
        if how:
            parts.append(f"{', which ' if len(parts) > 1 else ' '}{how} {_name(hub, following)}")
    return "".join(parts)


def _how(node: Node, following: Node) -> str:
    """How one waits for the next; nothing for a call that runs in it, for they have one name."""
    if isinstance(node, Share | Slot):
        return "is held by"
    if not isinstance(node, Row) or isinstance(following, Share | Slot):
        return "waits for"
    if isinstance(following, Row):
        if following.actor is not None:
            return "waits for"
        return "needs the result of" if node.missing else "comes after"
    assert isinstance(following, Worker)
    if node.worker is following and (following.actor is None or (_head(following) is node and not following.is_async)):
        return ""
    return "waits in the queue of"


def _name(hub: Hub, node: Node) -> str:
    """What runs in a worker, with its pid; or a call."""
    if isinstance(node, Wait | Share | Slot):
        return "the caller" if isinstance(node, Wait) else node.name
    worker = node if isinstance(node, Worker) else node.worker
    if isinstance(node, Row) and (worker is None or _head(worker) is not node):
        return hub.label(node)
    assert worker is not None
    head = _head(worker)
    if worker.actor is not None and (worker.is_async or head is None or head.spec is None):
        return f"{worker.actor.info.options.class_name} (pid {worker.pid})"
    return f"{hub.label(head) if head is not None else 'a worker'} (pid {worker.pid})"
