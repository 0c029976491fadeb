"""A driver's waits and reads: `get`, `wait`, callbacks and futures, by looking at the hub's own rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from skate import exceptions
from skate.core import refs
from skate.core.engine import Ready
from skate.core.generator import asyncio_ready
from skate.core.refs import ObjectRef
from skate.core.serialization import unpack, unpack_value
from skate.core.settings import Settings
from skate.engines.local import errors, spills
from skate.engines.local.boot import Boot
from skate.engines.local.client import Client
from skate.engines.local.host import Host, clients
from skate.engines.local.outcomes import raise_outcome
from skate.engines.local.rows import FAILED, READY, Row

if TYPE_CHECKING:
    import asyncio


class DriverReads(Client):
    """What a driver has around its hub, and how it comes by values."""

    def __init__(self, settings: Settings, boot: Boot) -> None:
        super().__init__(next(clients))
        self.host = Host(settings, boot, self.lock)
        self.hub, self.pump, self.arena = self.host.hub, self.host.pump, self.host.arena
        self.rows = self.hub.rows
        self.flush_due = False
        """Whether a running event loop is about to send what was posted."""
        self.closed = False

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
                data = spills.read(self.host.spill_folder(), key, value.size, ~value.offset)
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

    def asyncio_ready(self, ref: ObjectRef[Any]) -> Any:
        """A future of the running loop."""
        return asyncio_ready(self, ref)

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

    def _check_open(self) -> None:
        if self.closed:
            raise exceptions.RaySystemError("The session was shut down while this thread waited.")
