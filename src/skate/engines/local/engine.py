"""The driver's engine: the hub in this process, its pump, and the worker pool."""

from __future__ import annotations

import itertools
import math
import os
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from skate import exceptions
from skate.core import ids, refs
from skate.core.engine import Context, Ready
from skate.core.refs import ObjectRef, make_ref
from skate.core.resources import to_units
from skate.core.serialization import unpack
from skate.core.settings import Settings
from skate.core.spec import ActorInfo, CallOptions, TaskOptions
from skate.engines.local import errors, state
from skate.engines.local.arena import Arena
from skate.engines.local.boot import Boot, memory
from skate.engines.local.client import Client
from skate.engines.local.link import BrokenFrame, Link
from skate.engines.local.logs import LogPipe
from skate.engines.local.messages import Export, TaskSpec, Value, Welcome, to_hub
from skate.engines.local.outcomes import raise_outcome
from skate.engines.local.pool import Pool
from skate.engines.local.pump import Pump
from skate.engines.local.requests import Requests
from skate.engines.local.rows import END, FAILED, Row, Worker

if TYPE_CHECKING:
    import asyncio

REAP_EVERY = 2.0
REAP_AFTER = 10.0
LOOK_EVERY = 64
"""Submissions after which the submitting thread looks what has come back."""

PRELOADED = ("numpy",)
"""Modules that workers get from the zygote: costly to import, and without threads when OMP_NUM_THREADS is 1."""

_clients = itertools.count(1)
"""Client numbers: never used twice in this process, so that references of an old session mean nothing in a new one."""


def start(settings: Settings, boot: Boot) -> LocalEngine:
    """Start a session of the embedded engine around a zygote that was launched."""
    return LocalEngine(settings, boot)


class LocalEngine(Client):
    """The engine protocol, by direct calls of the hub."""

    name = "local"

    def __init__(self, settings: Settings, boot: Boot) -> None:
        super().__init__(next(_clients))
        self.settings = settings
        total = _resources(settings, boot.capacity)
        self.arena = Arena(boot.arena_fd, boot.capacity)
        self.pool = Pool(boot)
        self.pump = Pump(self.lock, self._before, self._after)
        self.hub = Requests(settings, total, self.arena, self)
        self.rows = self.hub.rows
        self.pump.watch(self.pool.control.fileno(), self._reports)
        self.logs: dict[Worker, tuple[LogPipe, LogPipe]] = {}
        self.path = [os.path.abspath(entry) for entry in sys.path]
        self.submitted = 0
        self.preloaded: set[str] = set()
        self.signals: list[tuple[Worker, int]] = []
        self.loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        """Event loops that pump."""
        self.flush_due = False
        self.closed = False
        worker_id = ids.worker_hex(self.ids.following >> ids.CLIENT_SHIFT)
        self.context_of_driver = Context(settings.namespace, ids.node_hex(state.NODE), worker_id)
        self.hub.at(time.monotonic() + REAP_EVERY, self._reap)
        self.pump.thread.start()

    # ------------------------------------------------------------ the hub's ports

    def start(self, environment: str) -> Worker:
        """Start a worker process."""
        client = next(_clients)
        pipes = self.pool.fork(client)
        link = Link(pipes.read_fd, pipes.write_fd, to_hub.decode, self.pump.dirty)
        worker = Worker(client, environment, link)
        out = LogPipe(pipes.stdout_fd, worker.tail, False, not self.settings.log_to_driver)
        err = LogPipe(pipes.stderr_fd, worker.tail, True, not self.settings.log_to_driver)
        self.logs[worker] = (out, err)
        self.pump.watch(pipes.read_fd, lambda _: self._readable(worker))
        for pipe in (out, err):
            self.pump.watch(pipe.fd, partial(self._log, worker, pipe))
        link.send(
            Welcome(
                client,
                ids.salt(),
                self.settings.namespace,
                self.context_of_driver.node,
                self.path,
                os.getcwd(),
                self.settings.environment,
                environment,
            )
        )
        return worker

    def signal(self, worker: Worker, number: int) -> None:
        """Send a signal to a worker's process, after the messages that are there for it."""
        self.signals.append((worker, number))

    def _send_signals(self) -> None:
        signals, self.signals = self.signals, []
        for worker, number in signals:
            if worker.client not in self.hub.workers:
                continue
            if worker.link.unsent and number == signal.SIGINT:
                self.signals.append((worker, number))  # it could not know yet what to stop
            elif worker.pid:
                self.pool.signal(worker.pid, number)
            else:
                self.signals.append((worker, number))

    def warn(self, text: str) -> None:
        """Tell the user something."""
        print(f"skate: {text}", file=sys.stderr, flush=True)

    def collect(self) -> None:
        """Count the references that this process has dropped; `lock` is held."""
        released, release = refs.released, self.hub.release
        while released:
            release(released.popleft())
        while refs.closed_streams:
            self.hub.abandon_stream(refs.closed_streams.popleft())

    # ----------------------------------------------------------------------- I/O

    def _before(self) -> float | None:
        if refs.released or refs.closed_streams:
            self.collect()
        self.hub.urgent.clear()
        if self.pump.dirty:
            self.pump.flush()
        if self.signals:
            self._send_signals()
        timers = self.hub.timers
        return max(0.0, timers[0][0] - time.monotonic()) if timers else None

    def _after(self) -> None:
        timers = self.hub.timers
        if timers and timers[0][0] <= time.monotonic():
            self.hub.tick(time.monotonic())
        self.hub.urgent.clear()
        self.pump.flush()
        if self.signals:
            self._send_signals()

    def _flush_urgent(self) -> None:
        """Write to workers that had nothing to do; what goes to busy ones may wait for company."""
        urgent = self.hub.urgent
        for worker in urgent:
            link = worker.link
            if link.out and not link.unsent and not link.flush():
                self.pump.resume_later(link)
        urgent.clear()
        self.pump.dirty[:] = [link for link in self.pump.dirty if link.out]
        if self.signals:
            self._send_signals()

    def _readable(self, worker: Worker) -> None:
        try:
            messages = worker.link.read()
        except BrokenFrame as problem:
            self.warn(f"worker {worker.pid} sent what is no message, and is ended: {problem}")
            messages = None
            self.signal(worker, signal.SIGKILL)
        if messages is None:
            self.pump.unwatch(worker.link.read_fd)  # its death is reported by the zygote
        elif messages:
            self.hub.receive(worker, messages)

    def _log(self, worker: Worker, pipe: LogPipe, _: int) -> None:
        if not pipe.read(self._origin(worker)):
            self.pump.unwatch(pipe.fd)

    def _origin(self, worker: Worker) -> str:
        if worker.actor is not None:
            return f"{worker.actor.info.options.class_name} pid={worker.pid}"
        export = self.hub.definitions.get(worker.last)
        return f"{export.name if export is not None else 'worker'} pid={worker.pid}"

    def _reports(self, _: int) -> None:
        if not self.pool.reports(self._report):
            self.pump.unwatch(self.pool.control.fileno())
            for worker in list(self.hub.workers.values()):
                self._bury(worker, "lost, for the process that forks workers is gone")

    def _report(self, kind: str, client: int, number: int) -> None:
        worker = self.hub.workers.get(client)
        if worker is None:
            return
        if kind == "forked":
            worker.pid = number
            self._preload()
        else:
            self._bury(worker, errors.how_it_ended(number))

    def _preload(self) -> None:
        """What this program has imported and workers will need, if it is safe to fork with."""
        modules = [name for name in PRELOADED if name in sys.modules and name not in self.preloaded]
        if modules:
            self.preloaded.update(modules)
            self.pool.preload(modules)

    def _bury(self, worker: Worker, how: str) -> None:
        """Take in the last messages and lines of a dead worker, then tell the hub."""
        link = worker.link
        readable = select.poll()
        readable.register(link.read_fd, select.POLLIN)
        while readable.poll(0):
            try:
                messages = link.read()
            except BrokenFrame:
                break
            if messages is None:
                break
            self.hub.receive(worker, messages)
        for pipe in self.logs.pop(worker):
            pipe.drain(self._origin(worker))
            self.pump.unwatch(pipe.fd)
            os.close(pipe.fd)
        self.pump.unwatch(link.read_fd)
        self.pump.unwatch(link.write_fd)
        if link in self.pump.dirty:
            self.pump.dirty.remove(link)
        link.close()
        self.hub.died(worker, how)

    def _reap(self) -> None:
        now = time.monotonic()
        keep = math.ceil(self.hub.scheduler.total.get("CPU", 0) / 10_000)
        self.hub.reap(now, keep, REAP_AFTER)
        self.hub.at(now + REAP_EVERY, self._reap)

    # ------------------------------------------------------------------- posting

    def _post_task(self, spec: TaskSpec, options: TaskOptions) -> None:
        self.hub.submit(spec, options, None)
        self._posted()

    def _post_call(self, spec: TaskSpec, options: CallOptions) -> None:
        self.hub.call(spec, options, None)
        self._posted()

    def _posted(self) -> None:
        if self.hub.urgent or self.signals:
            self._flush_urgent()
        if self.pump.asleep:
            self.pump.nudge()

    def _look(self) -> None:
        """Called without the lock after each call that was posted."""
        self.submitted += 1
        if not self.submitted % LOOK_EVERY:
            self.pump.poll()

    def _export(self, function: bytes, blob: bytes, name: str) -> None:
        self.hub.definitions.setdefault(function, Export(function, blob, name))

    def _spawn(self, spec: TaskSpec, info: ActorInfo) -> ActorInfo:
        with self.lock:
            made = self.hub.spawn(spec, info, self.settings.namespace, None)
            self._posted()
        return made

    def _allocate(self, size: int) -> int:
        with self.lock:
            if refs.released:
                self.collect()  # what was dropped last is the warmest memory there is
            return self.hub.allocate(size)

    def _block(self, offset: int, size: int) -> memoryview:
        return self.arena.map().slice(offset, size)

    def _post_put(self, key: int, value: Value, inner: tuple[int, ...]) -> None:
        self.hub.put(key, value, inner, None)

    # ------------------------------------------------------------------- objects

    def _load(self, row: Row) -> Any:
        value = row.value
        if type(value) is bytes:
            return unpack(value)
        key = value.key
        with self.lock:
            self.hub.hold(key)
        return unpack(self.arena.map().read(value.offset, value.size, lambda: refs.released.append(key)))

    def _row(self, ref: ObjectRef[Any]) -> Row:
        row = self.rows.get(ref._key)
        if row is None:
            raise unpack(errors.unknown_object(ref._key))
        return row

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values in order."""
        rows = [self._row(ref) for ref in refs]
        if any(not row.state for row in rows):
            self._await(rows, timeout)
        values = []
        for row in rows:
            if row.state == FAILED:
                raise_outcome(row.value)
            values.append(unpack(row.value) if type(row.value) is bytes else self._load(row))
        return values

    def _await(self, rows: list[Row], timeout: float | None) -> None:
        """Wait for all rows, or the first to fail."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pending = [row for row in rows if not row.state]
        if timeout is None:
            with self.lock:
                for row in pending:
                    why = self.hub.hopeless(row)
                    if why is not None:
                        raise_outcome(why)
        hub = self.hub
        failures = -1

        def arrived() -> bool:
            nonlocal failures
            if self.closed:
                return True
            if hub.failures != failures:
                failures = hub.failures
                if any(row.state == FAILED for row in rows):
                    return True
            while pending and pending[-1].state:
                pending.pop()
            return not pending

        if not self.pump.turns.until(arrived, deadline):
            missing = sum(not row.state for row in rows)
            raise exceptions.GetTimeoutError(
                f"Get timed out: {missing} of {len(rows)} objects were not ready after {timeout} seconds."
            )
        self._check_open()

    def wait(
        self, refs: Sequence[ObjectRef[Any]], count: int, timeout: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """At most `count` ready ones, and the rest."""
        rows = [self._row(ref) for ref in refs]
        if sum(1 for row in rows if row.state) < count:
            deadline = None if timeout is None else time.monotonic() + timeout
            arrivals: list[Row] = []
            with self.lock:
                missing = count - sum(1 for row in rows if row.state)
                for row in rows:
                    if not row.state:
                        self.hub.when_ready(row, arrivals.append)
            self.pump.turns.until(lambda: len(arrivals) >= missing or self.closed, deadline)
            self._check_open()
            with self.lock:
                for row in rows:
                    if row.waiters is not None and not row.state:
                        row.waiters = [waiter for waiter in row.waiters if waiter != arrivals.append] or None
        ready: list[ObjectRef[Any]] = []
        rest: list[ObjectRef[Any]] = []
        for ref, row in zip(refs, rows, strict=True):
            (ready if row.state and len(ready) < count else rest).append(ref)
        return ready, rest

    def on_ready(self, ref: ObjectRef[Any], callback: Ready) -> None:
        """Call back when `ref` is ready, from the thread that pumps."""
        row = self._row(ref)
        if row.state:
            callback()
        else:
            self._when_ready(row, partial(self._call_later, callback, ref))

    def _call_later(self, callback: Ready, _: ObjectRef[Any], __: Row) -> None:
        self.pump.calls.append(callback)

    def _when_ready(self, row: Row, waiter: Callable[[Row], None]) -> None:
        with self.lock:
            self.hub.when_ready(row, waiter)
            if self.pump.asleep:
                self.pump.nudge()

    def asyncio_future(self, ref: ObjectRef[Any]) -> asyncio.Future[Any]:
        """A future of the running loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        row = self._row(ref)

        def settle(_: Any = ref) -> None:  # the reference keeps the value until it is taken
            if future.done():
                return
            try:
                if row.state == FAILED:
                    raise_outcome(row.value)
                future.set_result(self._load(row))
            except BaseException as error:  # noqa: BLE001  it belongs to whoever awaits
                future.set_exception(error)

        if row.state:
            settle()
            return future

        thread = threading.get_ident()

        def ready() -> None:
            if thread == threading.get_ident():
                settle()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(settle)

        self._attach(loop)
        self._when_ready(row, lambda _: self.pump.calls.append(ready))
        return future

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have a running event loop pump while it waits."""
        if loop not in self.loops:
            self.loops.add(loop)
            loop.add_reader(self.pump.epoll.fileno(), self.pump.poll)
        if self.pump.dirty and not self.flush_due:
            self.flush_due = True
            loop.call_soon(self._flush_all)

    def _flush_all(self) -> None:
        self.flush_due = False
        with self.lock:
            self._before()

    def borrow(self, key: int) -> None:
        """One more reference lives in this process."""
        with self.lock:
            self.hub.hold(key)

    # ------------------------------------------------------------------- streams

    def next_item(self, stream: int) -> ObjectRef[Any]:
        """Name the next item of a stream."""
        with self.lock:
            key = self.ids.take()
            self.hub.promise(stream, key, None)
            self.hub.read_on(stream)
            self._posted()
        return make_ref(key)

    def is_end(self, item: ObjectRef[Any]) -> bool:
        """Whether a ready item lies past its stream's end."""
        return self._row(item).state == END

    # -------------------------------------------------------------------- others

    def find(self, name: str, namespace: str) -> ActorInfo:
        """A named actor that lives."""
        with self.lock:
            self.collect()
            return self.hub.find(name, namespace or self.settings.namespace)

    def kill(self, actor: int, no_restart: bool) -> None:
        """End an actor's process."""
        with self.lock:
            self.hub.kill(actor, no_restart)
            self._posted()

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """Cancel the task that makes `ref`."""
        self.pump.poll()
        with self.lock:
            self.hub.cancel(ref._key, force, recursive)
            self._posted()

    def context(self) -> Context:
        """The driver's own."""
        return self.context_of_driver._replace(environment=self.settings.environment)

    def is_cancelled(self) -> bool:
        """A driver is never cancelled."""
        return False

    def exit_actor(self) -> None:
        """Only actors can."""
        raise TypeError("exit_actor can only be called inside an actor.")

    def state(self, kind: str) -> list[dict[str, Any]]:
        """Rows of the session's state."""
        self.pump.poll()
        with self.lock:
            self.collect()
            return self.hub.state(kind)

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """Total and free resources."""
        self.pump.poll()
        with self.lock:
            self.collect()
            return self.hub.resources()

    def _check_open(self) -> None:
        if self.closed:
            raise exceptions.RaySystemError("The session was shut down while this thread waited.")

    def _detach(self) -> None:
        if not self.loops:
            return
        import asyncio

        descriptor = self.pump.epoll.fileno()
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for loop in self.loops:
            if loop.is_closed():
                continue
            if loop.is_running() and loop is not here:
                loop.call_soon_threadsafe(loop.remove_reader, descriptor)
            else:
                loop.remove_reader(descriptor)

    def close(self) -> None:
        """End every process and free every byte of the session."""
        if self.closed:
            return
        self.closed = True
        self._detach()
        self.pump.close()
        self.pool.close()
        with self.lock:
            for worker in list(self.hub.workers.values()):
                for pipe in self.logs.pop(worker, ()):
                    pipe.drain(self._origin(worker))
                    os.close(pipe.fd)
                worker.link.close()
            self.hub.workers.clear()
            self.arena.close()


def _resources(settings: Settings, store: int) -> dict[str, int]:
    """What the node has, in units."""
    total = memory()
    cpus = settings.num_cpus if settings.num_cpus is not None else len(os.sched_getaffinity(0))
    amounts = {
        "CPU": cpus,
        "GPU": settings.num_gpus or 0,
        "memory": int(total * 0.7),
        "object_store_memory": store,
        "node:127.0.0.1": 1,
        **settings.resources,
    }
    return {name: to_units(amount, name) for name, amount in amounts.items() if amount}
