"""What the driver's engine and a worker's have in common: naming results, packing calls."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from skate.core.calls import pack_call
from skate.core.generator import ObjectRefGenerator
from skate.core.ids import IdSource
from skate.core.locations import of_rows
from skate.core.refs import ObjectRef, make_ref, released
from skate.core.serialization import LARGE, Packed, dump_definition, pack
from skate.core.spec import ActorInfo, ActorOptions, CallOptions, Definition, MethodInfo, TaskOptions
from skate.engines.local import spills
from skate.engines.local.messages import Stored, TaskSpec, Value

LARGEST_DEFINITION = 512 << 20


class Client:
    """Makes calls and objects. Subclasses post them: to the hub itself, or over a link."""

    def __init__(self, client: int) -> None:
        self.ids = IdSource(client)
        self.lock = threading.Lock()
        self.exported: set[bytes] = set()

    def carry(self, actor: int) -> Any:
        """None: a handle needs no more than its key."""

    def adopt(self, carried: Any) -> int:
        """Nothing is carried here."""
        raise TypeError(f"{carried!r} stands for no actor of this session.")

    def locations(
        self, refs: Sequence[ObjectRef[Any]], timeout: float | None, ask: bool
    ) -> list[dict[str, Any] | None]:
        """Where objects lie; the hub knows it at once."""
        return of_rows(self.state("objects"), refs)

    # ------------------------------------------------ what subclasses do, `lock` held

    def _post_task(self, spec: TaskSpec, options: TaskOptions) -> None:
        raise NotImplementedError

    def _post_call(self, spec: TaskSpec, options: CallOptions) -> None:
        raise NotImplementedError

    def _look(self) -> None:
        """Called after each call, without the lock."""

    def _export(self, function: bytes, blob: bytes, name: str) -> None:
        raise NotImplementedError

    # ------------------------------------------- what subclasses do, `lock` not held

    def state(self, kind: str) -> list[dict[str, Any]]:
        """Rows of the session's state."""
        raise NotImplementedError

    def _spawn(self, spec: TaskSpec, info: ActorInfo) -> ActorInfo:
        raise NotImplementedError

    def _allocate(self, key: int, size: int) -> int:
        """Room in the arena for the value of `key`; -1 when it is to go to a file at once.

        Raises ObjectStoreFullError or OutOfDiskError when it can go nowhere.
        """
        raise NotImplementedError

    def _spill_folder(self) -> str:
        """Where files of values lie."""
        raise NotImplementedError

    def _block(self, offset: int, size: int) -> memoryview:
        """A writable view of a block."""
        raise NotImplementedError

    def _free(self, value: Stored) -> None:
        """Give a block back."""
        raise NotImplementedError

    # --------------------------------------------------------------------- calls

    def submit(self, function: Definition, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions) -> Any:
        """Post a task; its result references."""
        (pickled, buffers, refs, size), deps = pack_call(args, kwargs)
        if function._id not in self.exported:
            self._register(function)
        data: Value = pickled
        if buffers or size >= LARGE:
            data = self._lay_down(Packed(pickled, buffers, refs, size))
        count = options.returns
        ids = self.ids
        try:
            with self.lock:
                task = ids.following
                ids.following = task + (count if count > 1 else 1)
                self._post_task(TaskSpec(task, function._id, data, count, deps, refs), options)
        except KeyboardInterrupt:
            self._abandon(data)
            raise
        result = make_ref(task) if count == 1 else self._results(task, count)
        self._look()
        return result

    def call(self, actor: int, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Any:
        """Post a call of an actor's method; its result references."""
        (pickled, buffers, refs, size), deps = pack_call(args, kwargs)
        data: Value = pickled
        if buffers or size >= LARGE:
            data = self._lay_down(Packed(pickled, buffers, refs, size))
        count = options.returns
        ids = self.ids
        try:
            with self.lock:
                task = ids.following
                ids.following = task + (count if count > 1 else 1)
                self._post_call(TaskSpec(task, b"", data, count, deps, refs, actor, method, options.group), options)
        except KeyboardInterrupt:
            self._abandon(data)
            raise
        result = make_ref(task) if count == 1 else self._results(task, count)
        self._look()
        return result

    def spawn(
        self,
        definition: Definition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: ActorOptions,
        methods: tuple[MethodInfo, ...],
    ) -> ActorInfo:
        """Start an actor, or find the one of that name."""
        packed, deps = pack_call(args, kwargs)
        if definition._id not in self.exported:
            self._register(definition)
        data = self._lay_down(packed)
        with self.lock:
            actor = self.ids.take()
        spec = TaskSpec(actor, definition._id, data, 1, deps, packed.refs, actor)
        try:
            made = self._spawn(spec, ActorInfo(actor, options, methods))
        except KeyboardInterrupt:
            self._abandon(data)
            raise
        try:
            self._look()
        except KeyboardInterrupt:
            released.append(made.actor)  # nobody gets the handle that would count it
            raise
        return made

    def _results(self, task: int, count: int) -> Any:
        if count == -1:
            return ObjectRefGenerator(task)
        if count == 0:
            return None
        return [make_ref(task + i, i) for i in range(count)] if count > 0 else make_ref(task)

    def _register(self, definition: Definition) -> None:
        function, blob = definition.pickled(dump_definition)
        if len(blob) > LARGEST_DEFINITION:
            raise ValueError(
                f"{definition.name} takes {len(blob):,} bytes with all it refers to, more than {LARGEST_DEFINITION:,}: "
                f"put what is large in it with put() and pass the reference as an argument."
            )
        with self.lock:
            if function not in self.exported:
                self._export(function, blob, definition.name)
                self.exported.add(function)

    # -------------------------------------------------------------------- values

    def _lay_down(self, packed: Packed, key: int = 0, large: int = LARGE) -> Value:
        """A packed value as it travels: in shared memory when it has `large` bytes or more."""
        if packed.size < large:
            return packed.to_bytes()
        if not key:
            with self.lock:
                key = self.ids.take()
        offset = self._allocate(key, packed.size)
        if offset < 0:
            return Stored(key, ~spills.lay_down(self._spill_folder(), key, packed), packed.size)
        stored = Stored(key, offset, packed.size)
        try:
            packed.write_into(self._block(stored.offset, packed.size))
        except BaseException:
            self._abandon(stored)
            raise
        return stored

    def _abandon(self, value: Value) -> None:
        """Give back the block of a value that will not be sent."""
        if type(value) is Stored:
            self._free(value)

    def _post_put(self, key: int, value: Value, refs: tuple[int, ...]) -> None:
        raise NotImplementedError

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a copy of a value."""
        packed = pack(value)
        if packed.buffers or packed.size >= LARGE:
            with self.lock:
                key = self.ids.take()
            data = self._lay_down(packed, key)
            try:
                with self.lock:
                    self._post_put(key, data, packed.refs)
            except KeyboardInterrupt:
                self._abandon(data)
                raise
        else:
            with self.lock:
                key = self.ids.take()
                self._post_put(key, packed.pickled, packed.refs)
        ref = make_ref(key)
        self._look()
        return ref
