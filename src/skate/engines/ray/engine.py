"""`RayEngine`: the verbs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import ray

from skate.core import ids, refs
from skate.core.engine import Context, Ready
from skate.core.generator import DynamicObjectRefGenerator
from skate.core.groups import name_taken
from skate.core.nodes import NodeSpec
from skate.core.refs import ObjectRef
from skate.core.settings import Settings
from skate.core.signature import ANYTHING
from skate.core.spec import ActorInfo, ActorOptions, CallOptions, Definition, GroupSpec, MethodInfo, TaskOptions
from skate.engines import hosted
from skate.engines.ray import groups, state
from skate.engines.ray import options as as_ray
from skate.engines.ray.errors import translated
from skate.engines.ray.joining import connect
from skate.engines.ray.refs import make_ray_ref, native_of, on_done, results
from skate.engines.ray.shipping import check_worker

SWEEP_EVERY = 0.2
"""Seconds after which handles that were dropped are let go, if nothing is asked of the engine meanwhile."""


PLAIN = CallOptions()
"""Of methods that are called as they are. What Ray makes of options is more work, and Ray 2.53 keeps it, and the actor
with it, until the garbage collector finds it."""


class Known:
    """An actor that handles of this process stand for."""

    __slots__ = ("count", "found", "handle", "methods")

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.count = 0
        """How many handles of ours keep it alive."""
        self.found: Any = None
        """Ray's handle from a lookup by name, which does not."""
        self.methods: dict[tuple[str, int], tuple[Any, CallOptions]] = {}
        """Methods with options, ready to be called; with the options, so that their ids stay theirs."""


class RayEngine:
    """Verbs, options and errors in Ray's words."""

    name = "ray"

    def __init__(self, settings: Settings) -> None:
        self.driver = not hosted()
        self.closed = threading.Event()
        self.lock = threading.RLock()
        self.actors: dict[int, Known] = {}
        self.functions: dict[tuple[int, int], tuple[Any, Any, Any]] = {}
        """What Ray made of a function with options; with both, so that their ids stay theirs."""
        if not self.driver:
            check_worker()
        self.address_info: dict[str, Any] = connect(settings) if self.driver else {}
        """What Ray's own `init` told."""
        self.address = self.address_info.get("address") or ray.get_runtime_context().gcs_address
        self.folder = self.address_info.get("session_dir") or state.own_folder()
        threading.Thread(target=self._sweep, name="skate-handles", daemon=True).start()

    # ------------------------------------------------------------------- calls

    def submit(self, function: Definition, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions) -> Any:
        """Run a function."""
        known = self.functions.get((id(function), id(options)))
        remote = known[0] if known is not None else self._remote_function(function, options)
        if kwargs:
            kwargs = {name: _plain(value) for name, value in kwargs.items()}
        return results(remote(*[_plain(arg) for arg in args], **kwargs))

    def _remote_function(self, function: Definition, options: TaskOptions) -> Any:
        given = as_ray.task(options, groups.native)
        if options.max_calls:
            given["max_calls"] = options.max_calls
        remote = ray.remote(**given)(function.target).remote
        if len(self.functions) > 4096:
            self.functions.clear()
        self.functions[id(function), id(options)] = (remote, function, options)
        return remote

    # ------------------------------------------------------------------ actors

    def spawn(
        self,
        definition: Definition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: ActorOptions,
        methods: tuple[MethodInfo, ...],
    ) -> ActorInfo:
        """Start an actor."""
        given = as_ray.actor(options, groups.native)
        as_ray.mark_methods(definition.target, methods)
        if options.groups:
            given["concurrency_groups"] = dict(options.groups)
        try:
            handle = ray.remote(**given)(definition.target).remote(
                *[_plain(arg) for arg in args], **{name: _plain(value) for name, value in kwargs.items()}
            )
        except (ray.exceptions.RayError, ValueError) as error:
            raise translated(error) from None
        return ActorInfo(self.hold(handle), options, methods)

    def call(self, actor: int, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Any:
        """Call an actor's method."""
        if refs.released:
            self._let_go()
        known = self.actors[actor]
        ready = known.methods.get((method, id(options)))
        if ready is None:
            bound = getattr(known.handle, method)
            if options != PLAIN or as_ray.of_method(known.handle, method) != PLAIN:
                bound = bound.options(**as_ray.call(options))
            ready = known.methods[method, id(options)] = (bound.remote, options)
        if kwargs:
            kwargs = {name: _plain(value) for name, value in kwargs.items()}
        try:
            return results(ready[0](*[_plain(arg) for arg in args], **kwargs))
        except ray.exceptions.RayError as error:
            raise translated(error) from None

    def find(self, name: str, namespace: str) -> ActorInfo:
        """A named actor that lives."""
        handle = ray.get_actor(name, namespace or None)
        key = self.hold(handle, 0)
        self.actors[key].found = handle
        return self.described(key, handle, ActorOptions(name=name, namespace=namespace))

    def kill(self, actor: int, no_restart: bool) -> None:
        """End an actor's process at once."""
        ray.kill(self.actors[actor].handle, no_restart=no_restart)

    def hold(self, handle: Any, count: int = 1) -> int:
        """Remember an actor, and that so many more handles of ours stand for it; its key."""
        key = ids.foreign(handle._actor_id.binary())
        with self.lock:
            known = self.actors.get(key)
            if known is None:
                known = self.actors[key] = Known(handle)
            elif count and not known.count:
                known.handle = handle  # the one of before keeps nothing alive
                known.methods.clear()
            known.count += count
        return key

    @staticmethod
    def described(key: int, handle: Any, options: ActorOptions) -> ActorInfo:
        """What is known of an actor that another process has made: its class's name and those of its methods."""
        names = [name for name in dir(handle) if not name.startswith("__ray")]
        methods = tuple(MethodInfo(name, as_ray.of_method(handle, name), ANYTHING) for name in names)
        class_name = repr(handle).removeprefix("Actor(").partition(",")[0]
        return ActorInfo(key, msgspec.structs.replace(options, class_name=class_name), methods)

    def carry(self, actor: int) -> Any:
        """Ray's own handle of an actor."""
        return self.actors[actor].handle

    def adopt(self, carried: Any) -> int:
        """A handle of Ray's has arrived."""
        return self.hold(carried)

    def borrow(self, key: int) -> None:
        """One more handle of an actor lives in this process. (References count themselves.)"""
        with self.lock:
            if key in self.actors:
                self.actors[key].count += 1

    def _let_go(self) -> None:
        """Forget actors whose last handle was dropped."""
        with self.lock:
            while refs.released:
                known = self.actors.get(key := refs.released.popleft())
                if known is None:
                    continue
                known.count -= 1
                if known.count > 0:
                    continue
                if known.found is None:
                    del self.actors[key]
                else:
                    known.handle = known.found
                    known.methods.clear()

    def _sweep(self) -> None:
        while not self.closed.wait(SWEEP_EVERY):
            self._let_go()

    # ----------------------------------------------------------------- objects

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a copy."""
        try:
            return make_ray_ref(ray.put(value))
        except ray.exceptions.RayError as error:
            raise translated(error) from None

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values in order."""
        try:
            values = ray.get([native_of(ref) for ref in refs], timeout=timeout)
        except Exception as error:  # noqa: BLE001  an error of a task is an instance of whatever class it raised
            raise translated(error) from None
        return [_value(value) for value in values]

    def wait(
        self, refs: Sequence[ObjectRef[Any]], count: int, timeout: float | None, fetch: bool = True
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """At most `count` ready ones, and the rest."""
        ours = {native_of(ref): ref for ref in refs}
        ready, rest = ray.wait(list(ours), num_returns=count, timeout=timeout, fetch_local=fetch)
        return [ours[native] for native in ready], [ours[native] for native in rest]

    def on_ready(self, ref: ObjectRef[Any], callback: Ready) -> None:
        """Call back when `ref` is ready."""
        on_done(native_of(ref), lambda _: callback())

    def asyncio_future(self, ref: ObjectRef[Any]) -> asyncio.Future[Any]:
        """A future of the running loop."""

        async def value() -> Any:
            try:
                return _value(await native_of(ref))
            except Exception as error:  # noqa: BLE001  as in `get`
                raise translated(error) from None

        return asyncio.ensure_future(value())

    def asyncio_ready(self, ref: ObjectRef[Any]) -> Any:
        """As `next_item`."""
        raise NotImplementedError

    def next_item(self, stream: int) -> ObjectRef[Any]:
        """Ray's streams give their items themselves."""
        raise NotImplementedError

    def is_end(self, item: ObjectRef[Any]) -> bool:
        """As `next_item`."""
        raise NotImplementedError

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """Cancel the task that makes `ref`."""
        ray.cancel(native_of(ref), force=force, recursive=recursive)

    # ------------------------------------------------------------- surroundings

    def context(self) -> Context:
        """Where the calling code runs."""
        return state.context(self)

    def is_cancelled(self) -> bool:
        """Whether the calling actor task was cancelled."""
        return bool(ray.get_runtime_context().is_canceled())

    def exit_actor(self) -> None:
        """End the calling actor for good."""
        ray.actor.exit_actor()

    def reserve(self, spec: GroupSpec) -> int:
        """A new placement group."""
        try:
            return groups.reserve(spec)
        except ray.exceptions.RaySystemError as error:
            raise name_taken(spec) from error

    def unreserve(self, group: int) -> None:
        """Remove a placement group."""
        groups.unreserve(group)

    def await_group(self, group: int, value: Any) -> ObjectRef[Any]:
        """An object that becomes ready with a group."""
        return make_ray_ref(groups.ready(group, value))

    def find_group(self, name: str, namespace: str) -> int:
        """A named placement group of this process's namespace."""
        return groups.find(name)

    def group(self, group: int) -> dict[str, Any] | None:
        """A placement group's row."""
        return groups.row(group)

    def state(self, kind: str) -> list[dict[str, Any]]:
        """Rows of the cluster's state."""
        return state.rows(kind, self.address)

    def locations(
        self, refs: Sequence[ObjectRef[Any]], timeout: float | None, ask: bool
    ) -> list[dict[str, Any] | None]:
        """Where objects lie."""
        return state.locations([native_of(ref) for ref in refs], timeout, ask)

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """``(total, free)`` of the cluster."""
        return ray.cluster_resources(), ray.available_resources()

    def add_node(self, spec: NodeSpec) -> str:
        """Not from here: `ray start` adds a machine to a cluster."""
        raise NotImplementedError("The engine 'ray' has real nodes: add one with `ray start --address=...` on it.")

    def remove_node(self, node: str) -> None:
        """Not from here either."""
        raise NotImplementedError("The engine 'ray' has real nodes: end one with `ray stop` on it.")

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self.closed.set()
        self.actors.clear()
        self.functions.clear()
        ray.shutdown()


def _plain(value: Any) -> Any:
    """An argument as Ray takes it: a reference of its own, where ours is an argument by itself."""
    return native_of(value) if isinstance(value, ObjectRef) else value


def _value(value: Any) -> Any:
    if isinstance(value, ray.DynamicObjectRefGenerator):
        return DynamicObjectRefGenerator([make_ray_ref(native) for native in value])
    return value
