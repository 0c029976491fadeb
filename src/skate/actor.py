"""Actor classes: what ``@remote`` makes of a class, and what its methods may be told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import FunctionType, MethodType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NoReturn,
    ParamSpec,
    TypeVar,
    overload,
)

from skate.actor_handle import ActorHandle, ActorMethod, Shape, make_handle
from skate.core import engine as engines
from skate.core.call_options import call_options, generates, where_of
from skate.core.environment import pack_environment
from skate.core.options import STREAMING, check_actor_options, check_method_options, merge
from skate.core.resources import actor_resources
from skate.core.signature import Arguments, Parameters, parameters_of
from skate.core.spec import ActorOptions, CallOptions, Definition, MethodInfo

if TYPE_CHECKING:
    from skate.core.generator import ObjectRefGenerator
    from skate.core.refs import ObjectRef
    from skate.dag.class_node import ClassNode
    from skate.typed import LooseMethodDecorator, MarkedMethod, MethodDecorator

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "exit_actor",
    "method",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__skate_method__"
_NOT_METHODS = frozenset({"__init__", "__new__", "__init_subclass__", "__class_getitem__"})


class ActorClassInheritanceException(TypeError):
    """A class was derived from an actor class rather than from the plain one."""


class ActorClass(Generic[T]):
    """A class whose instances live in processes of their own.

    ``A.remote(1)`` starts an actor and returns its handle; ``A.options(num_cpus=2).remote(1)`` does
    so with other options; ``A.__ray_actor_class__`` is the class itself.
    """

    __ray_actor_class__: type[T]

    def __init__(self, name: str, bases: tuple[Any, ...], namespace: dict[str, Any]) -> None:
        for base in bases:
            if isinstance(base, ActorClass):
                plain = base.__ray_actor_class__.__name__
                raise ActorClassInheritanceException(
                    f"{name} cannot derive from {plain}, which is an actor class. Derive from the "
                    f"plain class ({plain}.__ray_actor_class__), then apply @remote to {name}."
                )
        raise TypeError("Actor classes are made with @remote.")

    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle[T]:
        """Start an actor; returns its handle at once, before the constructor has run.

        Raises:
            TypeError: the arguments do not fit the constructor, or cannot be pickled.
            ActorAlreadyExistsError: the name is taken (a ValueError).
            ValueError: a method's concurrency group does not exist.
        """
        made: _Made = self.__dict__["_skate"]
        made.arguments.check(args, kwargs)
        made.check_groups()
        engine = engines._current or engines.current()
        info = engine.spawn(made.definition, args, kwargs, made.options, made.methods)
        return make_handle(info, made.shape)

    def options(self, **options: Any) -> ActorClass[T]:
        """The same class with other options, which go over those it has.

        Raises ValueError, TypeError or NotImplementedError as `remote` does.
        """
        check_actor_options(options, again=True)
        made: _Made = self.__dict__["_skate"]
        return _wrap(made.with_options(merge(self._default_options, options)))

    def bind(self, /, *args: Any, **kwargs: Any) -> ClassNode:
        """An actor in a graph, which is started when the graph runs; see `skate.dag`."""
        from skate.dag.class_node import ClassNode

        return ClassNode.of(self, args, kwargs)

    def _remote(self, args: Any = None, kwargs: dict[str, Any] | None = None, **options: Any) -> ActorHandle[T]:
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    @property
    def _default_options(self) -> dict[str, Any]:
        return dict(self.__dict__["_skate"].given)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """TypeError: an actor is started with `remote`."""
        name = self.__ray_actor_class__.__name__
        raise TypeError(
            f"An actor cannot be made directly: write {name}.remote(...) to start one, or "
            f"{name}.__ray_actor_class__(...) for a plain instance here."
        )

    def __getattr__(self, name: str) -> Any:
        plain = self.__dict__.get("__ray_actor_class__")
        if plain is None or name in ("__name__", "__qualname__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        try:
            return getattr(plain, name)
        except AttributeError:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}") from None

    def __repr__(self) -> str:
        plain = self.__ray_actor_class__
        return f"<actor class {plain.__module__}.{plain.__qualname__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return make_actor_class, (self.__ray_actor_class__, self._default_options)


class _Made:
    """What is worked out once per actor class and set of options."""

    __slots__ = ("arguments", "definition", "given", "methods", "options", "shape")

    def __init__(
        self,
        definition: Definition,
        methods: tuple[MethodInfo, ...],
        arguments: Arguments,
        given: dict[str, Any],
    ) -> None:
        self.definition = definition
        self.methods = methods
        self.arguments = arguments
        self.given = given
        self.options = _actor_options(definition.name, given)
        groups = (name for name, _ in self.options.groups)
        self.shape = Shape(definition.name, groups, methods)

    def with_options(self, given: dict[str, Any]) -> _Made:
        """The same class with the options `given`."""
        return _Made(self.definition, self.methods, self.arguments, given)

    def check_groups(self) -> None:
        """ValueError when a method belongs to a concurrency group that the actor does not have."""
        for info in self.methods:
            if info.options.group and info.options.group not in self.shape.groups:
                known = ", ".join(sorted(self.shape.groups)) or "none"
                raise ValueError(
                    f"{self.definition.name}.{info.name} belongs to the concurrency group "
                    f"{info.options.group!r}, which is not in concurrency_groups (those: {known})."
                )


def make_actor_class(plain: type[T], options: dict[str, Any]) -> ActorClass[T]:
    """`plain` as an actor class; ValueError for an option it does not know, TypeError for an abstract class."""
    check_actor_options(options)
    missing = sorted(getattr(plain, "__abstractmethods__", ()))
    if missing:
        raise TypeError(f"{plain.__qualname__} is abstract, and cannot be an actor: it lacks {', '.join(missing)}.")
    name = plain.__name__
    arguments = Arguments(name, _constructor_parameters(plain))
    return _wrap(_Made(Definition(plain, name), tuple(_method_infos(plain)), arguments, options))


def _wrap(made: _Made) -> ActorClass[Any]:
    plain: Any = made.definition.target
    kind: Any = type(f"ActorClass({plain.__name__})", (ActorClass,), {"__module__": plain.__module__})
    wrapped: ActorClass[Any] = kind.__new__(kind)
    wrapped.__dict__.update(_skate=made, __ray_actor_class__=plain, __doc__=plain.__doc__)
    return wrapped


def _constructor_parameters(plain: Any) -> Parameters:
    if plain.__init__ is object.__init__ and plain.__new__ is object.__new__:
        return ()
    if plain.__init__ is object.__init__:
        return parameters_of(plain.__new__, skip=1)
    return parameters_of(plain.__init__, skip=1)


def _method_infos(plain: type[Any]) -> list[MethodInfo]:
    found = []
    for name in dir(plain):
        value = getattr(plain, name, None)
        if name in _NOT_METHODS or not isinstance(value, FunctionType | MethodType):
            continue
        # A class method has its first argument already; a static one has none of ours.
        bound = isinstance(value, MethodType) or _is_static(plain, name)
        generator = generates(value)
        base = CallOptions(returns=STREAMING) if generator else CallOptions()
        options = call_options(base, getattr(value, _MARK, {}), generator)
        parameters = parameters_of(value, skip=0 if bound else 1)
        found.append(MethodInfo(name, options, parameters, generator))
    return found


def _is_static(plain: type[Any], name: str) -> bool:
    home = next(base for base in plain.__mro__ if name in vars(base))
    return isinstance(vars(home)[name], staticmethod)


def _actor_options(class_name: str, options: dict[str, Any]) -> ActorOptions:
    placement, running = actor_resources(options)
    groups = options.get("concurrency_groups") or {}
    if isinstance(groups, list):
        groups = {group["name"]: group["max_concurrency"] for group in groups}
    for name in ("name", "namespace"):
        if options.get(name) == "":
            raise ValueError(f"An actor's {name} must not be empty: leave it out to have none.")
    return ActorOptions(
        class_name=class_name,
        name=options.get("name") or "",
        namespace=options.get("namespace") or "",
        detached=options.get("lifetime") == "detached",
        get_if_exists=bool(options.get("get_if_exists")),
        placement=placement,
        resources=running,
        max_restarts=options.get("max_restarts") or 0,
        max_task_retries=options.get("max_task_retries") or 0,
        max_concurrency=options.get("max_concurrency") or 0,
        groups=tuple(sorted(groups.items())),
        max_pending_calls=_or(options.get("max_pending_calls"), -1),
        out_of_order=bool(options.get("allow_out_of_order_execution")),
        events=options.get("enable_task_events", True),
        environment=pack_environment(options.get("runtime_env"), job=False),
        where=where_of(options, placement, running),
    )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


@overload
def method(  # type: ignore[overload-overlap]
    function: Callable[Concatenate[Any, P], AsyncIterator[R]], /
) -> MarkedMethod[P, AsyncIterator[R], ObjectRefGenerator[R]]: ...
@overload
def method(  # type: ignore[overload-overlap]
    function: Callable[Concatenate[Any, P], Iterator[R]], /
) -> MarkedMethod[P, Iterator[R], ObjectRefGenerator[R]]: ...
@overload
def method(
    function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
) -> MarkedMethod[P, Coroutine[Any, Any, R], ObjectRef[R]]: ...
@overload
def method(function: Callable[Concatenate[Any, P], R], /) -> MarkedMethod[P, R, ObjectRef[R]]: ...
@overload
def method(*, num_returns: Any, **options: Any) -> LooseMethodDecorator: ...
@overload
def method(**options: Any) -> MethodDecorator: ...
def method(*args: Any, **options: Any) -> Any:
    """Default options for an actor's method: ``@method(num_returns=2)``.

    Args:
        num_returns: number of references; 1, or a stream for a generator, when not given.
        concurrency_group: name of the group whose limit the method counts against.
        max_task_retries: new tries, -1: no limit; the actor's own when not given.
        retry_exceptions: also after an exception: True, or a list of classes; False when not given.

    Raises AssertionError for any other name or a wrong value, as in Ray, and TypeError for a wrong type.
    """
    if args and (len(args) > 1 or options or not callable(args[0])):
        raise AssertionError("@method takes keyword arguments only, as in @method(num_returns=2)")
    try:
        check_method_options(options)
    except ValueError as error:
        raise AssertionError(str(error)) from None

    def mark(function: F) -> F:
        setattr(function, _MARK, {**getattr(function, _MARK, {}), **options})
        return function

    return mark(args[0]) if args else mark


def exit_actor() -> None:
    """End the calling actor for good, once this call is over; its queued calls fail.

    Raises TypeError outside of an actor.
    """
    engine = engines.running()
    if engine is None or engine.context().actor is None:
        raise TypeError("exit_actor works inside an actor only.")
    engine.exit_actor()
