"""``@remote()``: work that would block, away from the event loop."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic, ParamSpec, TypeVar

from skate.plugin import calls, telemetry

P = ParamSpec("P")
R = TypeVar("R")


class RemoteCallable(Generic[P, R]):
    """A function or method that was marked with `remote`. Calling it runs it here."""

    def __init__(self, function: Any, owner: Any = None, bound: tuple[Any, ...] = ()) -> None:
        self._wrapped = function
        self._function: Callable[..., Any] = getattr(function, "__func__", function)
        self._owner = owner
        self._bound = bound
        functools.update_wrapper(self, self._function)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if isinstance(self._wrapped, staticmethod):
            return RemoteCallable(self._wrapped, owner)
        if isinstance(self._wrapped, classmethod):
            return RemoteCallable(self._wrapped, owner, (owner,))
        if instance is None:
            return self
        return RemoteCallable(self._wrapped, owner, (instance,))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*self._bound, *args, **kwargs)  # type: ignore[no-any-return]

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """Run it away from the event loop: in a thread, or as a task in another process. ``await`` gives the result.

        Raises what it raises; TypeError at once if the arguments do not fit.
        """
        everything = (*self._bound, *args)
        inspect.signature(self._function).bind(*everything, **kwargs)
        work: Awaitable[R]
        if calls.has_runtime():
            work = calls.runtime().work(self._function, everything, kwargs)
        else:
            work = in_thread(self._function, everything, kwargs)
        if telemetry.current is not None:
            work = telemetry.current.work(self._function.__qualname__, work)
        return work


def remote() -> Callable[[Callable[P, R] | staticmethod[P, R]], RemoteCallable[P, R]]:
    """Mark a function, or an instance, class or static method, as work that runs away from the event loop.

    ``await f.remote(...)`` runs it: in a thread where the service is one process, as a task of its own where the engine
    has processes. Then its arguments, with the instance of a method, are sent by pickle.
    """

    def decorate(function: Any) -> RemoteCallable[P, R]:
        if isinstance(function, RemoteCallable):
            return function
        if not callable(getattr(function, "__func__", function)):
            raise TypeError(f"@remote() marks a function or method, not {function!r}")
        return RemoteCallable(function)

    return decorate


async def in_thread(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
    """Run a function in a thread; a coroutine function on an event loop of its own there."""
    import asyncio

    return await asyncio.to_thread(run_here, function, args, kwargs)


def run_here(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
    """Run a function to its end, be it a coroutine function or not."""
    value = function(*args, **kwargs)
    if inspect.isawaitable(value):
        import asyncio

        return asyncio.run(_awaited(value))
    return value


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def by_name(function: Callable[..., Any]) -> tuple[str, str] | None:
    """Module and qualified name, where looking those up gives the marked function; pickle could not tell."""
    import sys

    found: Any = sys.modules.get(function.__module__)
    if function.__module__ == "__main__":
        return None
    for part in function.__qualname__.split("."):
        found = inspect.getattr_static(found, part, None)
    same = isinstance(found, RemoteCallable) and found._function is function
    return (function.__module__, function.__qualname__) if same else None


def run_named(module: str, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
    """Run a marked function of a module."""
    import importlib

    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    return run_here(found._function, args, kwargs)
