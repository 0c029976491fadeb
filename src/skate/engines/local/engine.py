"""The driver's engine: the engine protocol, by direct calls of the hub. What waits for values is `driver_reads.py`."""

from __future__ import annotations

import hashlib  # noqa: F401  see below
import os
import time
from typing import TYPE_CHECKING, Any

import cloudpickle  # noqa: F401  the first call needs both: here they load beside the zygote, and no fork meets them halfway

from skate.core import ids, preloads, refs
from skate.core.engine import Context
from skate.core.nodes import NodeSpec
from skate.core.refs import ObjectRef, make_ref
from skate.core.serialization import pack
from skate.core.settings import Settings
from skate.core.spec import ActorInfo, CallOptions, GroupSpec, TaskOptions
from skate.engines.local import sites
from skate.engines.local.boot import Boot
from skate.engines.local.driver_reads import DriverReads
from skate.engines.local.history import Card
from skate.engines.local.messages import Export, Stored, TaskSpec, Value
from skate.engines.local.rows import END, HEAD

if TYPE_CHECKING:
    from skate.engines.local.trace import Recorder

LOOK_EVERY = 64
"""Submissions after which the submitting thread looks what has come back."""


def start(settings: Settings, boot: Boot) -> LocalEngine:
    """Start a session of the embedded engine around a zygote that was launched."""
    return LocalEngine(settings, boot)


class LocalEngine(DriverReads):
    """The embedded engine, as a driver has it."""

    name = "local"
    address = "local"

    def __init__(self, settings: Settings, boot: Boot) -> None:
        super().__init__(settings, boot)
        self.settings = settings
        self.folder = settings.folder
        node, worker_id = ids.node_hex(HEAD), ids.worker_hex(self.ids.following >> ids.CLIENT_SHIFT)
        self.driver = Context(settings.namespace, node, worker_id, environment=settings.environment)
        if not settings.alone:
            now, client = time.monotonic(), self.ids.following >> ids.CLIENT_SHIFT
            self.hub.history.drivers.append(Card(client, node, os.getpid(), driver=True, launched=now, up=now))
        if settings.keeping.sites:
            sites.record(self, self._note_site)
        self.submitted = 0
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

    # ------------------------------------------------------------------- streams

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

    def borrow(self, key: int) -> None:
        """One more reference lives in this process."""
        with self.lock:
            self.hub.hold(key)

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
