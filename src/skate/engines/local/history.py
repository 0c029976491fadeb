"""What a session remembers of calls, actors and workers that have ended, and of what happened. All of it is bounded.

The hub adds a record at the end of each call: one that the garbage collector need not look at, and made in one step.
Nothing here decides anything: clocks are read directly, and a replay may have other times.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from skate.core.keeping import Keeping
from skate.core.spec import ActorOptions, CallOptions, TaskOptions

if TYPE_CHECKING:
    from skate.engines.local.messages import Done, DoneMany, Failed, TaskSpec
    from skate.engines.local.rows import Actor, Row, Worker

LARGEST_ERROR = 16 << 10
"""Bytes of an error that is kept with the call that raised it."""
MOST_OF_ERRORS = 4 << 20
"""Bytes of all errors that are kept; beyond that those of the oldest calls go first."""


class Card(msgspec.Struct, gc=False):
    """A worker process, as records name it. It outlives the process."""

    client: int
    node: str = ""
    """Id of its node, in hex."""
    pid: int = 0
    job: int = 1
    driver: bool = False
    """It is no worker, but a driver that has attached."""
    actor: int = 0
    """Key of the actor that it hosts or hosted."""
    class_name: str = ""
    launched: float = 0.0
    """Seconds of the monotonic clock, here and below."""
    up: float = 0.0
    since: float = 0.0
    """When it was last given something while it had nothing."""
    at_once: int = 1
    """How many calls it may run at once."""
    ended: float = 0.0
    kind: str = ""
    """How it ended, in a word of Ray's; empty while it lives."""
    how: str = ""
    """The same in a sentence."""


class Record(msgspec.Struct, gc=False):
    """An attempt of a call that has ended. `History.spans` works out when it began and ended."""

    task: int
    name: bytes | str
    """The hash of its function, or the name of its method."""
    options: TaskOptions | ActorOptions | CallOptions
    """Their type says what kind of call it was."""
    where: Card | int
    """Its worker; without one the key of its actor, or 0."""
    parent: int
    attempt: int
    made: float
    """Seconds of the monotonic clock."""
    ended: float
    """The same: when the first call of the frame that brought its result ended."""
    took: int
    """Microseconds; below zero: it was never begun."""
    failed: bool = False


class Grave(msgspec.Struct, gc=False):
    """An actor that has ended."""

    key: int
    options: ActorOptions
    namespace: str
    restarts: int
    pid: int
    node: str
    began: float
    ended: float
    cause: bytes
    """The packed error that its calls get; empty when it was too large to be kept."""


class Event(msgspec.Struct, gc=False):
    """Something that whoever runs the session may want to know."""

    number: int
    time: float
    """Seconds since the epoch."""
    severity: str
    """INFO, WARNING or ERROR."""
    source: str
    """Which part of the session tells: WORKER, ACTOR, MEMORY, SCHEDULER, STORE or SESSION."""
    message: str
    fields: dict[str, Any]


class History:
    """The rings, and the clock that their times go by."""

    __slots__ = (
        "actors",
        "add",
        "began",
        "calls",
        "clock",
        "drivers",
        "ended",
        "environments",
        "errors",
        "errors_size",
        "events",
        "keeping",
        "most",
        "numbers",
        "offset",
        "pid",
        "sink",
        "sites",
        "workers",
    )

    def __init__(self, keeping: Keeping) -> None:
        self.keeping = keeping
        self.calls: list[Record] = []
        self.add: Callable[[Record], None] = self.calls.append
        """Called at the end of each call: no step more than it needs. `trim` keeps the list short."""
        self.most = keeping.tasks + keeping.tasks // 4 + 1000
        """How long the list may become."""
        self.errors: dict[tuple[int, int], bytes] = {}
        """Packed errors by task and attempt, oldest first."""
        self.errors_size = 0
        self.actors: deque[Grave] = deque(maxlen=keeping.actors)
        self.workers: deque[Card] = deque(maxlen=keeping.workers)
        self.events: deque[Event] = deque(maxlen=keeping.events)
        self.numbers = itertools.count(1)
        self.pid = os.getpid()
        self.drivers: list[Card] = []
        self.began = self.clock = time.monotonic()
        """`clock` is what was read last: to read it for each call that is made would cost too much."""
        self.ended = self.began
        """When the first call of the frame that is being taken in ended, by its worker's word."""
        self.offset = time.time() - self.began
        """What makes a time of the monotonic clock one since the epoch."""
        self.sink: Callable[[Event], None] | None = None
        """Writes events down, where that was asked for."""
        self.environments: Callable[[], list[dict[str, Any]]] = list
        """Tells which runtime environments are ready."""
        self.sites: dict[int, str] = {}
        """Lines of the program that made objects, by key, where they are recorded."""

    def now(self) -> float:
        """Seconds since the epoch, by the clock of the records."""
        return time.monotonic() + self.offset

    # -------------------------------------------------------------------- calls

    def trim(self) -> None:
        """Forget the oldest calls, many at once: one at a time would touch cold memory at the end of each call."""
        calls, most = self.calls, self.keeping.tasks
        del calls[: len(calls) - most]

    def failed(
        self, row: Row, spec: TaskSpec, error: Any, message: Done | DoneMany | Failed | None, worker: Worker | None
    ) -> None:
        """An attempt of a call has failed: with what its worker sent, or for another reason."""
        if message is not None:
            if message.at is not None:
                self.ended = message.at
            ended, took = self.ended, message.took
        else:
            ended = time.monotonic()
            took = int((ended - worker.card.since) * 1e6) if worker is not None else -1
        where = worker.card if worker is not None else spec.actor
        name = spec.function or spec.method
        self.add(Record(spec.task, name, row.options, where, row.parent, row.attempt, row.made, ended, took, True))
        if self.keeping.tasks and type(error) is bytes and len(error) <= LARGEST_ERROR:
            self._keep_error((spec.task, row.attempt), error)

    def constructed(self, actor: Actor, row: Row, spec: TaskSpec, worker: Worker, message: Done) -> None:
        """An actor's constructor has ended well."""
        card, options = worker.card, actor.info.options
        card.at_once = options.max_concurrency or (1000 if worker.is_async else 1)
        card.at_once += sum(size for _, size in options.groups)
        if message.at is not None:
            self.ended = message.at
        took = message.took if message.took >= 0 else int((self.ended - card.since) * 1e6)
        made, ended = row.made, self.ended
        self.add(Record(spec.task, spec.function, options, card, row.parent, actor.restarts, made, ended, took))

    def _keep_error(self, key: tuple[int, int], error: bytes) -> None:
        before = self.errors.pop(key, b"")
        self.errors[key] = error
        self.errors_size += len(error) - len(before)
        while self.errors_size > MOST_OF_ERRORS or len(self.errors) > self.keeping.tasks:
            self.errors_size -= len(self.errors.pop(next(iter(self.errors))))

    def kept(self) -> list[Record]:
        """Records, the oldest first."""
        return self.calls[-self.keeping.tasks :] if self.keeping.tasks else []

    def spans(self) -> Iterator[tuple[Record, float, float]]:
        """Records, the oldest first, each with when it began and ended; 0.0 where it was never begun.

        A worker that runs one call at a time began the second of a frame when the first ended.
        """
        last: dict[int, tuple[float, float]] = {}
        now = time.monotonic()
        for record in self.kept():
            where, ended, took = record.where, record.ended, record.took
            if not record.made <= ended <= now:  # no time that a worker of ours would tell
                ended = record.made
            if took < 0:
                yield record, 0.0, ended
                continue
            if type(where) is Card and where.at_once == 1:
                stamp, before = last.get(where.client, (0.0, 0.0))
                end = before + took * 1e-6 if stamp == ended and not record.failed else ended
                last[where.client] = ended, end
                ended = end
            yield record, ended - took * 1e-6, ended

    # ------------------------------------------------------------------- workers

    def arrived(self, worker: Worker) -> None:
        """A worker is up."""
        worker.card.pid = worker.pid
        worker.card.up = time.monotonic()

    def died(self, worker: Worker, how: str) -> None:
        """A worker's process is gone."""
        card = worker.card
        card.pid = worker.pid
        card.ended = time.monotonic()
        card.how = how
        left = worker.leaving
        job = worker.job
        if card.driver:
            card.kind = "INTENDED_USER_EXIT"
            if job is not None and not job.asked.driver:
                return  # somebody who only looked in
        elif job is not None and job.peer is None:
            card.kind = "INTENDED_SYSTEM_EXIT"  # its driver has ended
        elif worker.doom is not None and worker.doom.shortage:
            card.kind = "NODE_OUT_OF_MEMORY"
        elif left is not None:
            card.kind = "INTENDED_USER_EXIT" if left[0] not in ("idle", "retired") else "INTENDED_SYSTEM_EXIT"
            card.how = left[0]
        elif worker.actor is not None and worker.actor.dead:
            card.kind = "INTENDED_SYSTEM_EXIT"
        else:
            card.kind = "SYSTEM_ERROR"
        self.workers.append(card)
        if card.kind in ("SYSTEM_ERROR", "NODE_OUT_OF_MEMORY"):
            self.event("ERROR", "WORKER", f"worker {worker.pid} died: {how}", pid=worker.pid, exit_type=card.kind)

    # -------------------------------------------------------------------- actors

    def restarted(self, actor: Actor, text: str) -> None:
        """An actor's process is gone, and it gets another."""
        class_name = actor.info.options.class_name
        self.event("WARNING", "ACTOR", text, class_name=class_name, actor=actor.key, restarts=actor.restarts)

    def buried(self, actor: Actor, cause: bytes, lost: bool) -> None:
        """An actor is dead for good; `lost`: against its will."""
        now = time.monotonic()
        options = actor.info.options
        card = actor.worker.card if actor.worker is not None else None
        pid, node, began = (card.pid, card.node, card.up) if card is not None else (0, "", 0.0)
        kept = cause if len(cause) <= LARGEST_ERROR else b""
        self.actors.append(Grave(actor.key, options, actor.namespace, actor.restarts, pid, node, began, now, kept))
        if lost:
            text = f"the actor {options.class_name} died and is not restarted"
            self.event("ERROR", "ACTOR", text, class_name=options.class_name, actor=actor.key)

    # -------------------------------------------------------------------- events

    def event(self, severity: str, source: str, message: str, **fields: Any) -> None:
        """Note that something happened."""
        event = Event(next(self.numbers), time.time(), severity, source, message, fields)
        self.events.append(event)
        if self.sink is not None:
            self.sink(event)
