"""`InlineEngine`: the protocol. What begins and ends calls is in `calls.py`."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from skate.core import engine as engines
from skate.core import ids
from skate.core.engine import Context, Ready
from skate.core.environment import shown_environment
from skate.core.generator import asyncio_ready
from skate.core.groups import no_such_name
from skate.core.locations import of_rows
from skate.core.nodes import NodeSpec
from skate.core.refs import ObjectRef, make_ref
from skate.core.serialization import pack
from skate.core.settings import Settings
from skate.core.spec import GroupSpec
from skate.engines.execution import as_raised, full_name
from skate.engines.inline.actors import Actor
from skate.engines.inline.calls import Calls
from skate.engines.inline.groups import await_group, reserve, unreserve, where_of
from skate.engines.inline.lanes import JOIN
from skate.engines.inline.records import END, FAILED, PENDING, Row, current, success
from skate.engines.inline.running import cancelled, stored
from skate.engines.inline.session import Session
from skate.engines.inline.state import actor_row, rows_of
from skate.engines.inline.unpacking import read
from skate.engines.inline.waiting import until
from skate.exceptions import GetTimeoutError


class InlineEngine(Calls):
    """Runs everything in this process; see the package's own words."""

    name = "inline"
    address = "local"

    def __init__(self, settings: Settings) -> None:
        for spec in settings.nodes:
            self.add_node(spec)
        settings = msgspec.structs.replace(settings, environment=shown_environment(settings.environment))
        super().__init__(Session(settings))
        self.folder = settings.folder
        self.session.remember = self._remember

    def _remember(self, actor: Actor) -> None:
        self.session.history.actors.append(actor_row(self.session, actor))

    # ----------------------------------------------------------------- objects

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a copy."""
        session = self.session
        session.enter()
        packed = pack(value)
        session.check_room(packed)
        return stored(session, success(packed))

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values."""
        session = self.session
        session.enter()
        with session.lock:
            rows = [session.row(ref) for ref in refs]
        if not until(session, rows, len(rows), timeout, stop_at_failure=True):
            waiting = sum(row.state == PENDING for row in rows)
            raise GetTimeoutError(f"{waiting} of {len(rows)} values were not ready within {timeout:g} seconds.")
        for row in rows:
            if row.state == FAILED:
                _raise(row)
        return [read(row.data) for row in rows]

    def wait(
        self, refs: Sequence[ObjectRef[Any]], count: int, timeout: float | None, fetch: bool = True
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Which are ready, and which are not."""
        session = self.session
        session.enter()
        with session.lock:
            rows = [session.row(ref) for ref in refs]
        until(session, rows, count, timeout, stop_at_failure=False)
        ready: list[ObjectRef[Any]] = []
        rest: list[ObjectRef[Any]] = []
        for ref, row in zip(refs, rows, strict=True):
            (ready if row.state != PENDING and len(ready) < count else rest).append(ref)
        return ready, rest

    def on_ready(self, ref: ObjectRef[Any], callback: Ready) -> None:
        """Have `callback` called when the object is ready."""
        session = self.session
        session.enter()
        row = session.row(ref)
        until(session, [row], 1, 0, stop_at_failure=False)  # what runs on demand runs now
        with session.lock:
            if row.state == PENDING:
                row.watchers.append(callback)
                return
        callback()

    def asyncio_future(self, ref: ObjectRef[Any]) -> Any:
        """A future of the running loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def settle() -> None:
            if future.done():
                return
            try:
                (value,) = self.get([ref], 0)
            except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the future
                future.set_exception(error)
            else:
                future.set_result(value)

        def ready() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle)

        if self.wait([ref], 1, 0)[0]:
            settle()
        else:
            self.on_ready(ref, ready)
        return future

    def asyncio_ready(self, ref: ObjectRef[Any]) -> Any:
        """A future of the running loop."""
        return asyncio_ready(self, ref)

    def next_item(self, stream: int) -> ObjectRef[Any]:
        """The next item of a stream; one that is made on demand is made now."""
        session = self.session
        session.enter()
        found = session.streams[stream]
        ref: ObjectRef[Any] = make_ref(found.next_key())
        if found.pulled and not found.ended:
            if found.call.actor is None:
                found.pull()
            else:
                found.call.actor.dispatch()
        return ref

    def is_end(self, item: ObjectRef[Any]) -> bool:
        """Whether an item lies past the end."""
        return self.session.row(item).state == END

    def carry(self, actor: int) -> Any:
        """None: a handle needs no more than its key."""

    def adopt(self, carried: Any) -> int:
        """Nothing is carried here."""
        raise TypeError(f"{carried!r} stands for no actor of this session.")

    def borrow(self, key: int) -> None:
        """One more reference."""
        with self.session.lock:
            self.session.hold([key])

    # -------------------------------------------------------------------- facts

    def context(self) -> Context:
        """Where the calling code runs."""
        session, call = self.session, current.get()
        namespace, node = session.settings.namespace, session.machine.node
        worker = ids.worker_hex(session.client)
        if call is None:
            return Context(namespace, node, worker, environment=session.settings.environment)
        actor = call.actor
        where = where_of(call)
        return Context(
            namespace,
            node,
            worker,
            task=call.key,
            task_name=call.name or call.label,
            function_name=f"{full_name(actor.cls)}.{call.function_name}"
            if actor is not None
            else full_name(call.target),
            attempt=call.attempt,
            actor=actor.info if actor is not None else None,
            reconstructed=actor is not None and actor.restarts > 0,
            resources=call.assigned(),
            gpus=call.gpus,
            environment=call.environment,
            driver=False,
            group=where.group if where is not None else 0,
            capture=where is not None and where.capture,
        )

    def is_cancelled(self) -> bool:
        """Whether the calling call was cancelled."""
        call = current.get()
        return call is not None and call.cancelled

    def reserve(self, spec: GroupSpec) -> int:
        """A new placement group."""
        self.session.enter()
        return reserve(self.session, spec)

    def unreserve(self, group: int) -> None:
        """Remove a placement group."""
        self.session.enter()
        unreserve(self.session, group)

    def await_group(self, group: int, value: Any) -> ObjectRef[Any]:
        """An object that becomes ready with a group."""
        self.session.enter()
        return make_ref(await_group(self.session, group, success(pack(value))))

    def find_group(self, name: str, namespace: str) -> int:
        """A named placement group."""
        with self.session.lock:
            group = self.session.groups.names.get((namespace, name))
            if group is None:
                raise no_such_name(name, namespace)
            return group.key

    def group(self, group: int) -> dict[str, Any] | None:
        """A placement group's row."""
        groups = self.session.groups
        with self.session.lock:
            found = groups.live.get(group) or groups.gone.get(group)
            return groups.row(found) if found is not None else None

    def state(self, kind: str) -> list[dict[str, Any]]:
        """Rows of what the session holds."""
        self.session.enter()
        with self.session.lock:
            return rows_of(self.session, kind)

    def locations(
        self, refs: Sequence[ObjectRef[Any]], timeout: float | None, ask: bool
    ) -> list[dict[str, Any] | None]:
        """All objects are in this process."""
        return of_rows(self.state("objects"), refs)

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """``(total, free)``."""
        self.session.enter()
        with self.session.lock:
            return self.session.machine.resources()

    def add_node(self, spec: NodeSpec) -> str:
        """There is one process, and so one node."""
        raise NotImplementedError(
            "The inline engine has one node, for everything runs in this process: use engine='local' for virtual nodes."
        )

    def remove_node(self, node: str) -> None:
        """The only node is the driver's own."""
        known = node == self.session.machine.node
        raise ValueError(
            "The driver's own node cannot be removed." if known else f"There is no node of the id {node!r} to remove."
        )

    def close(self) -> None:
        """End the actors and their threads."""
        session = self.session
        if session.closed:
            return
        for actor in list(session.actors.values()):
            actor.die("The session has ended.", graceful=True)
        for call in list(session.live.values()):
            session.fail(call, cancelled(call, "by the end of the session"))
        for stream in list(session.streams.values()):
            stream.unreferenced()
        session.closed = True
        session.machine.close()
        deadline = time.monotonic() + JOIN
        for thread in session.threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        session.rows.clear()
        if engines.running() is self:
            engines.use(None)


def _raise(row: Row) -> None:
    raise as_raised(read(row.data))  # a variable would keep the caller's frames alive
