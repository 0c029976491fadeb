"""The hub: all state of a session, changed by events, with commands as the result.

Events are calls of its methods: by the driver's engine directly, by a worker's messages through `receive`, by the pool
when processes start and die. Commands leave through worker links (`Link.send`) and through `Ports`. The hub does no I/O
and never blocks; whoever calls it holds the engine's lock.
"""

from __future__ import annotations

import heapq
import itertools
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from skate.core.resources import as_floats
from skate.core.settings import Settings
from skate.core.spec import TaskOptions
from skate.engines.local import errors, state
from skate.engines.local.actors import Actors
from skate.engines.local.arena import Arena
from skate.engines.local.messages import (
    Cancel,
    Define,
    Done,
    DoneMany,
    Export,
    Failed,
    Feed,
    Grant,
    Item,
    Leave,
    Resume,
    Stored,
    TaskSpec,
    Using,
    Yield,
)
from skate.engines.local.rows import FAILED, READY, Family, Row, Stream, Worker
from skate.engines.local.scheduler import SHORT, Assign, Scheduler, Start

LARGEST_GRANT = 4 << 20
INSIST_AFTER = 0.02
"""Seconds after which a cancel that had no effect is repeated."""
STUCK_AFTER = 0.02
"""Seconds without a result after which a worker must give back the calls queued in it."""


class Ports(Protocol):
    """What the hub needs done by others."""

    def start(self, environment: str) -> Worker:
        """Start a worker process; `Hub.arrived` follows, or `Hub.died`."""

    def signal(self, worker: Worker, number: int) -> None:
        """Send a signal to a worker's process, if it still lives."""

    def warn(self, text: str) -> None:
        """Tell the user something on the driver's standard error."""

    def collect(self) -> None:
        """Count the references that the driver has dropped."""


class Hub(Actors):
    """Tasks: from submission to their results. Actors are in `actors.py`, objects in `table.py`."""

    def __init__(self, settings: Settings, total: dict[str, int], arena: Arena, ports: Ports) -> None:
        super().__init__(arena)
        self.settings = settings
        self.ports = ports
        self.scheduler = Scheduler(total)
        self.workers: dict[int, Worker] = {}
        self.definitions: dict[bytes, Export] = {}
        self.urgent: list[Worker] = []
        """Workers that were idle and have just been given something: flush them at once."""
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = itertools.count()
        self._families: dict[int, tuple[Any, Family]] = {}
        self._warned: set[Any] = set()
        self._watching = False
        self.finished = 0

    # --------------------------------------------------------------- submission

    def submit(self, spec: TaskSpec, options: TaskOptions, owner: Worker | None, parent: int = 0) -> None:
        """A new task. Its returns count one reference each, of the owner."""
        row = self.rows[spec.task] = Row(spec=spec, options=options, owner=owner, parent=parent)
        if spec.returns != 1:
            self._more_returns(spec, row, owner)
        elif owner is not None:
            owner.held.add(spec.task)
        if spec.deps or spec.refs or type(spec.args) is Stored:
            self.pin(row, spec, self._ready)
            if row.missing:
                return
        self._ready(row)

    def _more_returns(self, spec: TaskSpec, row: Row, owner: Worker | None) -> None:
        if spec.returns == 0:
            row.count = 0
            return
        for key in range(spec.task + 1, spec.task + spec.returns):
            self.rows[key] = Row(maker=spec.task)
        if owner is not None:
            owner.held.update(range(spec.task, spec.task + max(1, spec.returns)))
        if spec.returns == -1 and spec.task not in self.streams:
            self.streams[spec.task] = Stream()

    def _ready(self, row: Row) -> None:
        """All dependencies are there: queue the task, or fail it as they failed."""
        spec = row.spec
        if spec is None:
            return
        if spec.deps:
            source = self.failed_input(spec)
            if source is not None:
                self.finish(row, FAILED, source.value)
                return
        self.enqueue(row)

    def enqueue(self, row: Row) -> None:
        """Queue a call that needs a worker, and set going what can go."""
        family = self._family(row.options)
        scheduler = self.scheduler
        scheduler.add(family, row)
        if family.infeasible:
            self._warn_infeasible(family, row)
            return
        queued = len(family.queue)
        # With no worker idle and others queued before it, nothing can go now that could not before; a longer
        # queue may be worth another worker.
        if scheduler.idle.get(family.environment) or not queued & (queued - 1):
            self.decide()

    def _family(self, options: Any) -> Family:
        """The family of a call; options objects are shared by all calls of a function, so remember it by identity."""
        known = self._families.get(id(options))
        if known is not None and known[0] is options:
            return known[1]
        family = self.scheduler.family(options.resources, options.environment, not isinstance(options, TaskOptions))
        if not isinstance(options, TaskOptions) and not errors.fits_node(options.placement, self.scheduler.total):
            family = self.scheduler.family(options.placement, options.environment, True)
        if len(self._families) > 4096:
            self._families.clear()
        self._families[id(options)] = (options, family)
        return family

    def _warn_infeasible(self, family: Family, row: Row) -> None:
        if family not in self._warned:
            self._warned.add(family)
            self.ports.warn(errors.infeasible(self.label(row), family.need, self.scheduler.total))

    def decide(self) -> None:
        """Set going everything that can go now."""
        if not self.scheduler.waiting:
            return
        for decision in self.scheduler.decide():
            if type(decision) is Assign:
                self.assign(decision.worker, decision.row)
            elif type(decision) is Start:
                for _ in range(decision.workers):
                    worker = self.ports.start(decision.environment)
                    self.workers[worker.client] = worker

    def assign(self, worker: Worker, row: Row) -> None:
        """Send a call to a worker that is leased for it."""
        spec = row.spec
        assert spec is not None
        running = worker.running
        if not running:
            self.urgent.append(worker)
        elif not self._watching:
            self._watching = True
            self.at(time.monotonic() + STUCK_AFTER, self._free_stuck)
        running[spec.task] = row
        row.worker = worker
        if spec.actor:
            self.host(worker, row)
            return
        send = worker.link.send
        if spec.function not in worker.known:
            self.define(worker, spec.function)
        worker.last = spec.function
        options = row.options
        if worker.options is not options or row.attempt or worker.gpus:
            worker.options = options if not row.attempt else None
            send(Using(options, worker.gpus, row.attempt))
        if spec.deps:
            send(Feed([self.rows[key].value for key in spec.deps]))
        send(spec)

    def _free_stuck(self) -> None:
        """Take back what waits behind a call that turned out to be long, though its function had been short."""
        self._watching = False
        for worker in self.workers.values():
            if len(worker.running) < 2 or worker.actor is not None or worker.blocked:
                continue
            if worker.progress == worker.progress_seen:
                row = next(iter(worker.running.values()))
                if row.spec is not None:  # its function is no longer taken for short
                    self.scheduler.speed[row.spec.function] = 2 * SHORT
                worker.link.send(Yield())
                self.ports.signal(worker, signal.SIGINT)
            worker.progress_seen = worker.progress
            self._watching = True
        if self._watching:
            self.at(time.monotonic() + STUCK_AFTER, self._free_stuck)

    def define(self, worker: Worker, function: bytes) -> None:
        """Send a definition that the worker does not know yet."""
        worker.known.add(function)
        export = self.definitions[function]
        worker.link.send(Define(function, export.blob, export.name))

    def label(self, row: Row) -> str:
        """A call's name for messages."""
        spec, options = row.spec, row.options
        if spec is None:
            return "a finished task"
        if spec.actor:
            return self.actor_label(spec)
        export = self.definitions.get(spec.function)
        return options.name or (export.name if export is not None else "a task")

    # --------------------------------------------------------------------- ends

    def done(self, worker: Worker, message: Done) -> None:
        """A call with one return ended well."""
        row = worker.running.pop(message.task, None)
        worker.progress += 1
        if type(message.value) is Stored:
            self.own_block(worker, message.value)
        if row is None:
            self.discard(message.value)
            return
        spec = row.spec
        if spec is None:  # ended before, by a cancel
            self.discard(message.value)
        else:
            actor = worker.actor
            if actor is None:
                self.scheduler.measured(spec.function, message.took)
            elif not spec.method:
                self.constructed(worker, message.took < 0)
                return
            self.finish(row, READY, message.value, message.refs)
            if actor is not None:
                self.call_ended(actor)
        if type(message.value) is Stored and message.value.size <= LARGEST_GRANT:
            self._grant(worker, message.value.size)
        if worker.actor is None:
            self._refill(worker)

    def finish(self, row: Row, state: int, value: Any, refs: tuple[int, ...] = ()) -> None:
        """A call has ended: fill its return, or fail all of them."""
        spec = row.spec
        if spec is None:
            return
        row.spec = row.options = row.worker = row.owner = None
        self.finished += 1
        task = spec.task
        if refs or row.waiters is not None or row.state or row.count <= 0 or state == FAILED:
            self.fill(task, state, value, refs)
        else:  # the common case, in line
            row.value = value
            row.state = state
        if spec.returns != 1:
            if state == FAILED:
                self.fill_all(range(task + 1, task + spec.returns), FAILED, value)
            if spec.returns == -1:
                self.end_stream(task)
        if spec.deps or spec.refs or type(spec.args) is Stored:
            self.unpin(spec)

    def done_many(self, worker: Worker, message: DoneMany) -> None:
        """A call with no return, several, or a stream ended well."""
        row = worker.running.pop(message.task, None)
        spec = row.spec if row is not None else None
        if row is None or spec is None:
            for value in message.values:
                self.discard(value)
        else:
            if worker.actor is None:
                self.scheduler.measured(spec.function, message.took)
            for i in range(1, len(message.values)):
                self.fill(spec.task + i, READY, message.values[i], message.refs[i])
            first, refs = (message.values[0], message.refs[0]) if message.values else (errors.NONE, ())
            self.finish(row, READY, first, refs)
            if worker.actor is not None:
                self.call_ended(worker.actor)
        self._refill(worker)

    def failed(self, worker: Worker, message: Failed) -> None:
        """A call raised."""
        row = worker.running.pop(message.task, None)
        spec = row.spec if row is not None else None
        if row is None or spec is None:
            self._refill(worker)
            return
        if spec.actor:
            self.call_failed(worker, row, spec, message)
        else:
            self.scheduler.measured(spec.function, message.took)
            if message.retry and not row.cancelled and self._may_retry(row):
                self._again(row, spec)
            else:
                self.finish(row, FAILED, message.error)
        self._refill(worker)

    def _may_retry(self, row: Row) -> bool:
        limit: int = row.options.max_retries
        return limit < 0 or row.attempt < limit

    def _again(self, row: Row, spec: TaskSpec) -> None:
        row.attempt += 1
        row.worker = None
        self.rewind(spec.task)
        self.enqueue(row)

    def rewind(self, task: int) -> None:
        """A new attempt yields a stream's items from the start: those delivered are skipped."""
        stream = self.streams.get(task)
        if stream is not None:
            stream.skip = stream.made

    def _refill(self, worker: Worker) -> None:
        """Keep a worker busy, or let it rest."""
        if worker.family is None or worker.actor is not None or len(worker.running) > worker.low:
            return
        for _, row in self.scheduler.refill(worker):
            self.assign(worker, row)
        if not worker.running and not worker.leaving:
            self.scheduler.dry(worker, time.monotonic())
            self.decide()

    def own_block(self, worker: Worker, value: Any) -> None:
        """A block that the worker was granted has become a value's."""
        if type(value) is Stored:
            worker.granted = [grant for grant in worker.granted if grant[0] != value.offset]

    def _grant(self, worker: Worker, size: int) -> None:
        """A worker that made a large result will likely make another: give it the block ahead."""
        if any(length == size for _, length in worker.granted):
            return
        offset = self.arena.allocate(size)
        if offset is not None:
            worker.granted.append((offset, size))
            worker.link.send(Grant(offset, size))

    def made(self, worker: Worker, message: Item) -> None:
        """A stream's item arrived."""
        stream = self.streams.get(message.task)
        if stream is None:
            self.discard(message.value)
            return
        if stream.skip:
            stream.skip -= 1
            self.discard(message.value)
            return
        self.item(stream, FAILED if message.failed else READY, message.value, message.refs)

    def read_on(self, task: int) -> None:
        """A reader took an item: its maker may go on, if it waits for that."""
        row, stream = self.rows.get(task), self.streams.get(task)
        if row is None or stream is None or row.worker is None or row.options is None:
            return
        if row.options.backpressure > 0:
            row.worker.link.send(Resume(task, stream.read + row.options.backpressure))
            self.urgent.append(row.worker)

    # ------------------------------------------------------------------- cancel

    def cancel(self, key: int, force: bool, recursive: bool) -> None:
        """Cancel the task that makes an object; harmless when it has ended."""
        row = self.rows.get(key)
        if row is not None and row.maker > 0:
            row = self.rows.get(row.maker)
        if row is not None and row.maker < 0 and force:
            raise ValueError("force=True is not supported for actor tasks: use ray.kill to end the actor itself.")
        if row is None or row.spec is None or row.actor is not None:
            return
        self._cancel(row, row.spec, force, recursive)

    def _cancel(self, row: Row, spec: TaskSpec, force: bool, recursive: bool) -> None:
        if recursive:
            for child in [r for r in self.rows.values() if r.parent == spec.task and r.spec is not None]:
                if child.actor is None and child.spec is not None:
                    self._cancel(child, child.spec, force and not child.spec.actor, True)
        row.cancelled = True
        worker = row.worker
        if worker is not None and force and not spec.actor:
            self.ports.signal(worker, signal.SIGKILL)
            return
        if worker is not None:
            worker.link.send(Cancel(spec.task))
            self.urgent.append(worker)
            self.ports.signal(worker, signal.SIGINT)
            if not spec.actor:
                self.at(time.monotonic() + INSIST_AFTER, partial(self._insist, row, worker, INSIST_AFTER))
            if not spec.actor or worker.is_async:
                return  # the worker says how it ended
        # Not begun, or a sync method, which cannot be stopped half way: whoever waits for it need not wait on.
        self.finish(row, FAILED, errors.cancelled(self.label(row)))
        actor = self.actors.get(spec.actor)
        if actor is not None:
            self.call_ended(actor)

    def _insist(self, row: Row, worker: Worker, delay: float) -> None:
        """Signal again: one that comes just before a system call begins does not interrupt it."""
        if row.spec is not None and row.worker is worker and delay < 5:
            self.ports.signal(worker, signal.SIGINT)
            self.at(time.monotonic() + 2 * delay, partial(self._insist, row, worker, 2 * delay))

    # ------------------------------------------------------------------ workers

    def arrived(self, worker: Worker, pid: int) -> None:
        """A worker is up."""
        worker.pid = pid
        worker.up = True
        worker.idle_since = time.monotonic()
        self.scheduler.arrived(worker)
        self.decide()

    def block(self, worker: Worker) -> None:
        """A worker's task waits for an object: take back its resources and what it has not begun."""
        self.scheduler.block(worker)
        if worker.actor is None and len(worker.running) > 1:
            worker.link.send(Yield())
        self.decide()

    def given_back(self, worker: Worker, tasks: list[int]) -> None:
        """Tasks that a worker had been sent and has not begun: queue them again, first in line."""
        for task in reversed(tasks):
            row = worker.running.pop(task, None)
            if row is None or row.spec is None:
                continue
            row.worker = None
            family = self._family(row.options)
            family.queue.appendleft(row)
            self.scheduler.waiting[family] = None
        self._refill(worker)
        self.decide()

    def died(self, worker: Worker, how: str) -> None:
        """A worker's process is gone; `how` says of what."""
        if self.workers.pop(worker.client, None) is None:
            return
        self.scheduler.gone(worker)
        running = list(worker.running.values())
        worker.running = {}
        for offset, size in worker.granted:
            self.arena.free(offset, size)
        if worker.actor is not None:
            self.host_died(worker, worker.actor, running, how)
        else:
            self._tasks_died(worker, running, how)
        for key in list(worker.held):
            self.release(key)
        worker.held.clear()
        self.decide()

    def _tasks_died(self, worker: Worker, running: list[Row], how: str) -> None:
        for position, row in enumerate(running):
            spec = row.spec
            if spec is None:
                continue
            row.worker = None
            if position or not worker.up or (worker.leaving and worker.leaving[0] == "retired"):
                self.enqueue(row)  # it had not begun
            elif row.cancelled:
                self.finish(row, FAILED, errors.cancelled(self.label(row)))
            elif self._may_retry(row):
                self._again(row, spec)
            else:
                self.finish(row, FAILED, errors.crashed(self.label(row), worker, how, row.attempt))

    def reap(self, now: float, keep: int, after: float) -> None:
        """End workers that have been idle for `after` seconds, but for the `keep` used last."""
        for workers in self.scheduler.idle.values():
            for worker in workers[: max(0, len(workers) - keep)]:
                if now - worker.idle_since > after and not worker.held:
                    self.scheduler.gone(worker)
                    worker.leaving = ("idle", False)
                    worker.link.send(Leave())

    # ------------------------------------------------------------------- timers

    def at(self, deadline: float, action: Callable[[], None]) -> None:
        """Have `action` run once when the monotonic clock passes `deadline`."""
        heapq.heappush(self.timers, (deadline, next(self._ticket), action))

    def tick(self, now: float) -> None:
        """Run the timers that are due."""
        while self.timers and self.timers[0][0] <= now:
            heapq.heappop(self.timers)[2]()

    def lost(self, key: int) -> bytes:
        """The packed error of an object that nobody knows."""
        return errors.unknown_object(key)

    def allocate(self, size: int) -> int:
        """Room in the arena; ObjectStoreFullError when there is none."""
        offset = self.arena.allocate(size)
        if offset is None:
            self.ports.collect()
            offset = self.arena.allocate(size)
        if offset is None:
            raise errors.store_full(size, self.arena.used, self.arena.capacity)
        return offset

    def hopeless(self, row: Row) -> bytes | None:
        """The packed error for one who would wait for what can never be made."""
        if row.spec is None or row.spec.method or row.missing:
            return None
        family = self._family(row.options)
        if not family.infeasible:
            return None
        return errors.unschedulable(self.label(row), family.need, self.scheduler.total, bool(row.spec.actor))

    # -------------------------------------------------------------------- state

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """Total and free resources."""
        scheduler = self.scheduler
        free = {name: max(0, units) for name, units in scheduler.free.items()}
        return as_floats(tuple(scheduler.total.items())), as_floats(tuple(free.items()))

    def state(self, kind: str) -> list[dict[str, Any]]:
        """Rows of the session's state."""
        return state.rows(self, kind)

    def pending(self) -> bool:
        """Whether anything is under way."""
        return any(worker.running for worker in self.workers.values()) or bool(self.scheduler.waiting)
