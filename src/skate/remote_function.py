"""`RemoteFunction`: what ``@remote`` makes of a function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, overload

from skate.core import engine as engines
from skate.core.call_options import (
    backpressure,
    generates,
    is_coroutine,
    number_of_returns,
    retry_rule,
    where_of,
)
from skate.core.environment import pack_environment
from skate.core.options import STREAMING, check_task_options, merge
from skate.core.resources import task_resources
from skate.core.signature import Arguments, parameters_of
from skate.core.spec import Definition, TaskOptions

if TYPE_CHECKING:
    from skate.dag.function_node import FunctionNode

P = ParamSpec("P")
Q_co = TypeVar("Q_co", covariant=True)


class RemoteFunction(Generic[P, Q_co]):
    """A function whose calls run as tasks; `P` are its parameters, `Q_co` is what `remote` returns.

    ``f.remote(1)`` returns an `ObjectRef` at once; ``f.options(num_cpus=2).remote(1)`` does so with
    other options; ``f.__wrapped__`` is the function itself.
    """

    __name__: str
    __qualname__: str
    __wrapped__: Callable[P, Any]

    def __init__(
        self,
        function: Callable[P, Any],
        options: dict[str, Any],
        definition: Definition | None = None,
        arguments: Arguments | None = None,
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self._function_name = f"{function.__module__}.{function.__qualname__}"
        self._default_options = options
        self._definition = definition or Definition(function, function.__name__)
        self._arguments = arguments or Arguments(function.__name__, parameters_of(function))
        self._fewest, self._most = self._arguments.fewest, self._arguments.most
        self._task_options = _task_options(function, options)

    @overload
    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> Q_co: ...
    @overload
    def remote(self, /, *args: Any, **kwargs: Any) -> Q_co: ...
    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Start a task; returns at once: a reference, or what ``num_returns`` says.

        0 gives None, 2 and more a list of references, ``"streaming"`` an `ObjectRefGenerator`.
        Raises TypeError when the arguments do not fit the function or cannot be pickled.
        """
        if kwargs or not self._fewest <= len(args) <= self._most:
            self._arguments.check(args, kwargs)
        engine = engines._current or engines.current()
        return engine.submit(self._definition, args, kwargs, self._task_options)

    @overload
    def options(self, *, num_returns: Any, **options: Any) -> RemoteFunction[P, Any]: ...
    @overload
    def options(self, **options: Any) -> RemoteFunction[P, Q_co]: ...
    def options(self, **options: Any) -> RemoteFunction[P, Any]:
        """The same function with other options, which go over those it has.

        Raises ValueError, TypeError or NotImplementedError as `remote` does.
        """
        check_task_options(options, again=True, generator=generates(self._function))
        merged = merge(self._default_options, options)
        return RemoteFunction(self._function, merged, self._definition, self._arguments)

    def bind(self, /, *args: Any, **kwargs: Any) -> FunctionNode:
        """A call of the function in a graph, which runs when the graph does; see `skate.dag`."""
        from skate.dag.function_node import FunctionNode

        return FunctionNode.of(self, args, kwargs)

    def _remote(self, args: Any = None, kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """TypeError: a task is started with `remote`."""
        name = self.__name__
        raise TypeError(
            f"A remote function cannot be called directly: write {name}.remote(...) to run it as a "
            f"task, or {name}.__wrapped__(...) to run it here."
        )

    def __repr__(self) -> str:
        return f"<remote function {self._function_name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self._function, self._default_options, self._definition.own)


def _arrive(function: Callable[..., Any], options: dict[str, Any], own: bytes) -> RemoteFunction[..., Any]:
    """A remote function that came inside a value."""
    return RemoteFunction(function, options, Definition(function, function.__name__, own))


def make_remote_function(function: Callable[P, Any], options: dict[str, Any]) -> RemoteFunction[P, Any]:
    """`function` as a remote one; ValueError for an option it does not know or an ``async def``."""
    if is_coroutine(function):
        raise ValueError(
            f"{function.__qualname__} is an 'async def', which cannot run as a task: wrap its body "
            "in asyncio.run(...), or make it a method of an actor."
        )
    check_task_options(options, generator=generates(function))
    return RemoteFunction(function, options)


def _task_options(function: Callable[..., Any], options: dict[str, Any]) -> TaskOptions:
    defaults = TaskOptions()
    retry, retry_on = retry_rule(options.get("retry_exceptions"))
    retries = options.get("max_retries")
    default = STREAMING if generates(function) else 1
    resources = task_resources(options)
    return TaskOptions(
        name=options.get("name") or "",
        resources=resources,
        returns=number_of_returns(options.get("num_returns"), default),
        max_retries=defaults.max_retries if retries is None else retries,
        retry_exceptions=retry,
        retry_on=retry_on,
        max_calls=options.get("max_calls") or 0,
        environment=pack_environment(options.get("runtime_env"), job=False),
        where=where_of(options, resources),
        backpressure=backpressure(options),
        priority=options.get("priority") or 0,
        events=options.get("enable_task_events", True),
    )
