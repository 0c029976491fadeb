"""Handles of actors and their methods: what callers hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, NoReturn, TypeVar

import msgspec

from skate.core import engine as engines
from skate.core import ids
from skate.core.call_options import call_options
from skate.core.refs import ActorID, note_travelling, released
from skate.core.signature import ANYTHING, Arguments
from skate.core.spec import ActorInfo, ActorOptions, CallOptions, MethodInfo

T_co = TypeVar("T_co", covariant=True)

SYSTEM_METHODS = (
    MethodInfo("__ray_ready__"),
    MethodInfo("__ray_terminate__"),
    MethodInfo("__ray_call__", parameters=(("function", 0, False), *ANYTHING)),
)
"""What every actor answers: that it lives; by leaving for good; ``function(instance, ...)``."""


class Shape:
    """The methods of an actor class, shared by the handles that one class or one message made."""

    __slots__ = ("_arguments", "class_name", "groups", "methods")

    def __init__(self, class_name: str, groups: Iterable[str], methods: Iterable[MethodInfo]) -> None:
        self.class_name = class_name
        self.groups = frozenset(groups)
        self.methods = {method.name: method for method in (*SYSTEM_METHODS, *methods)}
        self._arguments: dict[str, Arguments] = {}

    def arguments(self, name: str) -> Arguments:
        """What the method takes."""
        known = self._arguments.get(name)
        if known is None:
            shown = f"{self.class_name}.{name}"
            known = self._arguments[name] = Arguments(shown, self.methods[name].parameters)
        return known


class _Held:
    """One counted reference to an actor; a handle and the methods taken from it share it."""

    __slots__ = ("info", "key", "packed", "shape")

    def __init__(self, info: ActorInfo, shape: Shape) -> None:
        self.key = info.actor
        self.info = info
        self.shape = shape
        self.packed = b""

    def __del__(self) -> None:
        try:
            released.append(self.key)
        except (AttributeError, TypeError):
            return  # never finished being made, or the interpreter is going away


class _Found(_Held):
    """A reference to an actor found by name: as in Ray, it does not keep the actor alive."""

    __slots__ = ()

    def __del__(self) -> None:
        """Nothing was counted."""


class ActorMethod:
    """A method of a remote actor: ``handle.method.remote(...)`` calls it."""

    __slots__ = ("_arguments", "_fewest", "_held", "_key", "_most", "_name", "_options")

    def __init__(self, held: _Held, name: str, options: CallOptions) -> None:
        self._held = held
        self._key = held.key
        self._name = name
        self._options = options
        self._arguments = held.shape.arguments(name)
        self._fewest, self._most = self._arguments.fewest, self._arguments.most

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method; returns a reference, or as ``num_returns`` says, at once.

        Raises:
            TypeError: the arguments do not fit the method, or cannot be pickled.
            PendingCallsLimitExceeded: ``max_pending_calls`` are waiting (in a worker, `get` raises it).
        """
        if kwargs or not self._fewest <= len(args) <= self._most:
            self._arguments.check(args, kwargs)
        engine = engines._current or engines.current()
        return engine.call(self._key, self._name, args, kwargs, self._options)

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options: ``num_returns``, ``concurrency_group``, ``name``,
        ``max_task_retries``, ``retry_exceptions``; see `method`.

        Raises ValueError for a wrong value or a group that the actor does not have, TypeError for a
        wrong type, and what is both for another name.
        """
        shape = self._held.shape
        merged = call_options(self._options, options, shape.methods[self._name].generates)
        if merged.group and merged.group not in shape.groups:
            known = ", ".join(sorted(shape.groups)) or "none"
            raise ValueError(f"{shape.class_name} has no concurrency group {merged.group!r}; it has: {known}.")
        return ActorMethod(self._held, self._name, merged)

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        """A call of the method in a graph, which runs when the graph does; see `skate.dag`.

        A node, or a tuple of nodes for a method with several values. Raises TypeError as `remote` does.
        """
        self._arguments.check(args, kwargs)
        from skate.dag.class_node import bind_method

        return bind_method(self, args, kwargs)

    def _remote(self, args: Any = None, kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """TypeError: a method is called with `remote`."""
        raise TypeError(f"An actor's method cannot be called directly: write handle.{self._name}.remote(...).")

    def __repr__(self) -> str:
        return f"<method {self._name} of {_text(self._held)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _bound, (handle_of(self._held), self._name, msgspec.msgpack.encode(self._options))


class ActorHandle(Generic[T_co]):
    """A reference to an actor. It may be copied, sent and stored; when the last one is dropped, an
    actor that is not detached ends once it has answered what it was asked."""

    _skate: _Held

    def __init__(self) -> None:
        raise TypeError("Handles are not made by hand: Class.remote() and get_actor() give them.")

    def __getattr__(self, name: str) -> ActorMethod:
        held = self.__dict__.get("_skate")
        if held is None:
            raise AttributeError(name)
        method = held.shape.methods.get(name)
        if method is None:
            raise AttributeError(
                f"The actor class {held.shape.class_name} has no method {name!r} (attributes and "
                f"properties of the instance are not visible from outside). {_methods(held.shape)}"
            )
        bound = ActorMethod(held, name, method.options)
        self.__dict__[name] = bound
        return bound

    @property
    def _actor_id(self) -> ActorID:
        return ActorID(ids.actor_binary(self._skate.key))

    @property
    def _ray_actor_id(self) -> ActorID:
        return self._actor_id

    def __dir__(self) -> list[str]:
        return sorted(self._skate.shape.methods)

    def __hash__(self) -> int:
        return hash(("actor", self._skate.key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._skate.key == self._skate.key

    def __repr__(self) -> str:
        return _text(self._skate)

    def __reduce__(self) -> tuple[Any, ...]:
        held = self._skate
        carried = engines.current().carry(held.key)
        if carried is not None:
            return adopt_handle, (carried, held.info.options, held.info.methods)
        note_travelling(held.key)
        if not held.packed:
            held.packed = msgspec.msgpack.encode(held.info)
        return arrive_handle, (held.packed,)


def make_handle(info: ActorInfo, shape: Shape | None = None) -> ActorHandle[Any]:
    """A handle whose count the engine has taken already."""
    if shape is None:
        groups = (name for name, _ in info.options.groups)
        shape = Shape(info.options.class_name, groups, info.methods)
    return handle_of(_Held(info, shape))


def found_handle(info: ActorInfo) -> ActorHandle[Any]:
    """A handle of an actor found by name."""
    groups = (name for name, _ in info.options.groups)
    return handle_of(_Found(info, Shape(info.options.class_name, groups, info.methods)))


def handle_of(held: _Held) -> ActorHandle[Any]:
    """The handle around what is known of an actor."""
    handle: ActorHandle[Any] = ActorHandle.__new__(ActorHandle)
    handle.__dict__["_skate"] = held
    return handle


def arrive_handle(packed: bytes) -> ActorHandle[Any]:
    """A handle that came inside a value."""
    info = msgspec.msgpack.decode(packed, type=ActorInfo)
    engines.current().borrow(info.actor)
    return make_handle(info)


def adopt_handle(carried: Any, options: ActorOptions, methods: tuple[MethodInfo, ...]) -> ActorHandle[Any]:
    """A handle that came inside a value, with what its engine knows the actor by."""
    return make_handle(ActorInfo(engines.current().adopt(carried), options, methods))


def _bound(handle: ActorHandle[Any], name: str, options: bytes) -> ActorMethod:
    return ActorMethod(handle._skate, name, msgspec.msgpack.decode(options, type=CallOptions))


def _text(held: _Held) -> str:
    return f"Actor({held.shape.class_name}, {ids.actor_binary(held.key).hex()})"


def _methods(shape: Shape) -> str:
    names = sorted(name for name in shape.methods if not name.startswith("__"))
    return f"Its methods: {', '.join(names)}." if names else "It has no methods."
