"""The driver's engine: the engine protocol, by direct calls of the hub."""

from __future__ import annotations

import hashlib  # noqa: F401  see below
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import cloudpickle  # noqa: F401  the first call needs both: here they load beside the zygote, and no fork meets them halfway

from skate import exceptions
from skate.core import ids, preloads, refs
from skate.core.engine import Context, Ready
from skate.core.generator import asyncio_ready
from skate.core.nodes import NodeSpec
from skate.core.refs import ObjectRef, make_ref
from skate.core.serialization import pack, unpack, unpack_value
from skate.core.settings import Settings
from skate.core.spec import ActorInfo, CallOptions, GroupSpec, TaskOptions
from skate.engines.local import errors, sites, spills
from skate.engines.local.boot import Boot
from skate.engines.local.client import Client
from skate.engines.local.history import Card
from skate.engines.local.host import Host, clients
from skate.engines.local.messages import Export, Stored, TaskSpec, Value
from skate.engines.local.outcomes import raise_outcome
from skate.engines.local.rows import END, FAILED, READY, Row
from skate.engines.local.scheduler import HEAD

if TYPE_CHECKING:
    import asyncio

    from skate.engines.local.trace import Recorder

LOOK_EVERY = 64
"""Submissions after which the submitting thread looks what has come back."""


def start(settings: Settings, boot: Boot) -> LocalEngine:
    """Start a session of the embedded engine around a zygote that was launched."""
    return LocalEngine(settings, boot)


class LocalEngine(Client):
    """The embedded engine, as a driver has it."""

    name = "local"
    address = "local"

    def __init__(self, settings: Settings, boot: Boot) -> None:
        super().__init__(next(clients))
        self.settings = settings
        self.folder = settings.folder
        node, worker_id = ids.node_hex(HEAD), ids.worker_hex(self.ids.following >> ids.CLIENT_SHIFT)
        self.driver = Context(settings.namespace, node, worker_id, environment=settings.environment)
        self.host = Host(settings, boot, self.lock)
        self.hub, self.pump, self.arena = self.host.hub, self.host.pump, self.host.arena
        self.rows = self.hub.rows
        if not settings.alone:
            now, client = time.monotonic(), self.ids.following >> ids.CLIENT_SHIFT
            self.hub.history.drivers.append(Card(client, node, os.getpid(), driver=True, launched=now, up=now))
        if settings.keeping.sites:
            sites.record(self, self._note_site)
        self.submitted = 0
        self.flush_due = False
        self.closed = False
        self.recorder = self._record(os.environ.get("SKATE_TRACE", ""))
        for spec in settings.nodes:
            self.host.add_node(spec)
        if settings.folder and self.recorder is None:  # a replay knows no other drivers
            self.host.open_door(settings.folder)
        if not settings.alone:  # a process that is nothing but a hub pumps itself
            self.host.open()

    def _record(self, path: str) -> Recorder | None:
        """Have all that the hub hears and says written to a file, for a replay."""
        if not path:
            return None
        from skate.engines.local.trace import Recorder

        return Recorder(self.hub, path)

    def _note_site(self, keys: list[int], text: str) -> None:
        with self.lock:
            sites.note(self.hub, keys, text)

    # ------------------------------------------------------------------- posting

    def _post_task(self, spec: TaskSpec, options: TaskOptions) -> None:
        if self.pump.asleep:
            self.hub.history.clock = time.monotonic()  # nobody has read it for a while
        self.hub.submit(spec, options, None)
        self.host.posted()

    def _post_call(self, spec: TaskSpec, options: CallOptions) -> None:
        if self.pump.asleep:
            self.hub.history.clock = time.monotonic()
        self.hub.call(spec, options, None)
        self.host.posted()

    def _look(self) -> None:
        """Called without the lock after each call that was posted."""
        self.submitted += 1
        if self.pump.interrupts.waiting_since is not None:
            self.pump.interrupts.deliver()
        if not self.submitted % LOOK_EVERY:
            self.pump.poll()

    def _export(self, function: bytes, blob: bytes, name: str) -> None:
        self.hub.definitions.setdefault(function, Export(function, blob, name))

    def _spawn(self, spec: TaskSpec, info: ActorInfo) -> ActorInfo:
        with self.lock:
            self.hub.history.clock = time.monotonic()
            made = self.hub.spawn(spec, info, self.settings.namespace, None)
            self.host.posted()
        return made

    def _allocate(self, key: int, size: int) -> int:
        with self.lock:
            if refs.released:
                self.host.collect()  # what was dropped last is the warmest memory there is
            return self.hub.allocate(key, size)

    def _spill_folder(self) -> str:
        return self.host.spill_folder()

    def _block(self, offset: int, size: int) -> memoryview:
        return self.arena.map().slice(offset, size)

    def _free(self, value: Stored) -> None:
        with self.lock:
            self.hub.discard(value)

    def _post_put(self, key: int, value: Value, inner: tuple[int, ...]) -> None:
        self.hub.put(key, value, inner, None)

    # ------------------------------------------------------------------- objects

    def _load(self, ref: ObjectRef[Any], row: Row, deadline: float | None = None) -> Any:
        """The value of a row; one that was lost is waited for until it has been made again."""
        while True:
            if not row.state:
                self._await([row], None if deadline is None else max(0.0, deadline - time.monotonic()))
            if row.state == FAILED:
                raise_outcome(row.value)
            data = self._data(ref._key, row)
            if data is not None:
                return unpack_value(data)

    def _data(self, key: int, row: Row) -> bytes | memoryview | None:
        """The packed value of a ready row; None when it was lost."""
        with self.lock:
            value = self.hub.read(key, row)
            if row.state != FAILED and type(value) is bytes:
                return value
            if row.state == READY and value.offset >= 0:
                self.hub.hold_view(key)
                return self.arena.map().read(value.offset, value.size, partial(refs.released.append, ~key))
            if row.state == READY:  # there was no room to bring it back
                data = spills.read(self._spill_folder(), key, value.size, ~value.offset)
                if data is not None:
                    return memoryview(data).toreadonly()
                self.hub.lose(key)
            self.host.posted()  # what was lost is being made again
            return None

    def _row(self, ref: ObjectRef[Any]) -> Row:
        row = self.rows.get(ref._key)
        if row is None:
            raise unpack(errors.unknown_object(ref._key))
        return row

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values in order."""
        rows = [self._row(ref) for ref in refs]
        deadline = None if timeout is None else time.monotonic() + timeout
        if any(not row.state for row in rows):
            self._await(rows, timeout)
        values: list[Any] = []
        for row in rows:
            if row.state == READY and type(row.value) is bytes:  # the common case, in line
                values.append(unpack_value(row.value))
                continue
            if not row.state:  # the wait ended for the sake of another
                failed = [other.value for other in rows if other.state == FAILED]
                if failed:
                    raise_outcome(failed[0])
            values.append(self._load(refs[len(values)], row, deadline))
        return values

    def _await(self, rows: list[Row], timeout: float | None) -> None:
        """Wait for all rows, or the first to fail."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pending = [row for row in rows if not row.state]
        hub = self.hub
        failures = -1
        why: bytes | None = None

        def arrived() -> bool:
            nonlocal failures, why
            if self.closed:
                return True
            if hub.failures != failures:
                failures = hub.failures
                if any(row.state == FAILED for row in rows):
                    return True
                why = self._hopeless(rows, len(rows)) if timeout is None else None
                if why is not None:
                    return True
            while pending and pending[-1].state:
                pending.pop()
            return not pending

        if not self.pump.turns.until(arrived, deadline):
            missing = sum(not row.state for row in rows)
            raise exceptions.GetTimeoutError(
                f"Get timed out: {missing} of {len(rows)} objects were not ready after {timeout} seconds."
            )
        if why is not None:
            raise_outcome(why)
        self._check_open()

    def _hopeless(self, rows: list[Row], count: int) -> bytes | None:
        """The packed error for one who would wait for ever until `count` of these are ready."""
        if not self.hub.doubtful:
            return None
        with self.lock:
            pending = [row for row in rows if not row.state]
            hopeless = self.hub.hopeless(pending, count - (len(rows) - len(pending)))
            if hopeless is None:
                return None
            self.hub.give_up(*hopeless)
            return hopeless[1]

    def refuse_hopeless(self, ref: ObjectRef[Any]) -> None:
        """As one who waits for it: it fails if nothing can ever run it."""
        self._hopeless([self._row(ref)], 1)

    def wait(
        self, refs: Sequence[ObjectRef[Any]], count: int, timeout: float | None, fetch: bool = True
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
            failures, why = -1, None

            def arrived() -> bool:
                nonlocal failures, why
                if timeout is None and why is None and self.hub.failures != failures:
                    failures = self.hub.failures
                    why = self._hopeless(rows, count)
                return len(arrivals) >= missing or self.closed or why is not None

            self.pump.turns.until(arrived, deadline)
            self._check_open()
            with self.lock:
                for row in rows:
                    if row.waiters is not None and not row.state:
                        row.waiters = [waiter for waiter in row.waiters if waiter != arrivals.append] or None
            if why is not None:
                raise_outcome(why)
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
                future.set_result(self._load(ref, row))
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
        self.pump.join_loop(loop)
        if self.pump.dirty and not self.flush_due:
            self.flush_due = True
            loop.call_soon(self._flush_all)

    def _flush_all(self) -> None:
        self.flush_due = False
        with self.lock:
            self.host.before()

    def borrow(self, key: int) -> None:
        """One more reference lives in this process."""
        with self.lock:
            self.hub.hold(key)

    # ------------------------------------------------------------------- streams

    def asyncio_ready(self, ref: ObjectRef[Any]) -> Any:
        """A future of the running loop."""
        return asyncio_ready(self, ref)

    def next_item(self, stream: int) -> ObjectRef[Any]:
        """Name the next item of a stream."""
        with self.lock:
            key = self.ids.take()
            self.hub.promise(stream, key, None)
            self.hub.read_on(stream)
            self.host.posted()
        return make_ref(key)

    def is_end(self, item: ObjectRef[Any]) -> bool:
        """Whether a ready item lies past its stream's end."""
        return self._row(item).state == END

    # -------------------------------------------------------------------- others

    def find(self, name: str, namespace: str) -> ActorInfo:
        """A named actor that lives."""
        with self.lock:
            self.host.collect()
            return self.hub.find(name, namespace or self.settings.namespace)

    def kill(self, actor: int, no_restart: bool) -> None:
        """End an actor's process."""
        with self.lock:
            self.hub.kill(actor, no_restart)
            self.host.posted()

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """Cancel the task that makes `ref`."""
        self.pump.poll()
        with self.lock:
            self.hub.cancel(ref._key, force, recursive)
            self.host.posted()

    def context(self) -> Context:
        """The driver's own."""
        return self.driver

    def is_cancelled(self) -> bool:
        """A driver is never cancelled."""
        return False

    def exit_actor(self) -> None:
        """Only actors can."""
        raise TypeError("exit_actor can only be called inside an actor.")

    def reserve(self, spec: GroupSpec) -> int:
        """A new placement group."""
        with self.lock:
            key = self.ids.take()
            self.hub.reserve(key, spec, None)
            self.host.posted()
        return key

    def unreserve(self, group: int) -> None:
        """Remove a placement group."""
        with self.lock:
            self.hub.unreserve(group)
            self.host.posted()

    def await_group(self, group: int, value: Any) -> ObjectRef[Any]:
        """An object that becomes ready with a group."""
        data = pack(value).to_bytes()
        with self.lock:
            key = self.ids.take()
            self.hub.await_group(key, group, data, None)
        return make_ref(key)

    def find_group(self, name: str, namespace: str) -> int:
        """A named placement group."""
        with self.lock:
            return self.hub.find_group(name, namespace)

    def group(self, group: int) -> dict[str, Any] | None:
        """A placement group's row."""
        with self.lock:
            return self.hub.group_row(group)

    def state(self, kind: str) -> list[dict[str, Any]]:
        """Rows of the session's state."""
        self.pump.poll()
        with self.lock:
            self.host.collect()
            return self.hub.state(kind)

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """Total and free resources."""
        self.pump.poll()
        with self.lock:
            self.host.collect()
            return self.hub.resources()

    def add_node(self, spec: NodeSpec) -> str:
        """A virtual node joins."""
        with self.lock:
            return self.host.add_node(spec).hex

    def remove_node(self, node: str) -> None:
        """A virtual node goes."""
        self.pump.poll()
        with self.lock:
            key = next((known.key for known in self.hub.scheduler.nodes.values() if known.hex == node), 0)
            if not key:
                raise ValueError(f"There is no node of the id {node!r} to remove.")
            removed = self.hub.remove_node(key)
            self.host.posted()
        workers = self.hub.workers
        self.pump.turns.until(
            lambda: self.closed or all(worker.node is not removed for worker in list(workers.values())), None
        )
        self._check_open()

    def _check_open(self) -> None:
        if self.closed:
            raise exceptions.RaySystemError("The session was shut down while this thread waited.")

    def close(self) -> None:
        """End every process and free every byte of the session."""
        if self.closed:
            return
        self.closed = True
        self.pump.leave_loops()
        self.host.close()
        preloads.modules.clear()
        if self.recorder is not None:
            self.recorder.close()
