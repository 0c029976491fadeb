"""`@batch`: many calls of an async function become calls of it with lists. `skate.serve.batcher` says when."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from functools import wraps
from typing import Any, cast, overload

from skate.serve import context
from skate.serve.batcher import Answer, Batcher, Items, Settings, Shape, Size
from skate.serve.receiver import is_receiver

MOST_KINDS = 100
"""Classes of which is remembered whether calls with their objects are calls of methods."""

logger = logging.getLogger("skate.serve")


class Batching:
    """A batched function: its settings, and its batchers in the loops of this process."""

    def __init__(self, function: Callable[..., Any], settings: Settings) -> None:
        self.__setstate__((function, settings))

    def __getstate__(self) -> tuple[Callable[..., Any], Settings]:
        return self.function, self.settings

    def __setstate__(self, state: tuple[Callable[..., Any], Settings]) -> None:
        self.function, self.settings = state
        self.streams = inspect.isasyncgenfunction(self.function)
        self._signature = inspect.signature(self.function)
        parameters = self._signature.parameters.values()
        simple = all(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters)
        required = sum(one.default is one.empty for one in parameters)
        self._fitting = range(required, len(parameters) + 1) if simple else range(0)
        """So many arguments without names fit for sure."""
        self._receivers: dict[type, bool] = {}
        self._batchers: dict[tuple[int, int], Batcher] = {}
        self._told = 0

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer:
        """Have a call be part of a batch."""
        loop = asyncio.get_running_loop()
        named: dict[str, Any] = {}
        if kwargs or len(args) not in self._fitting:
            bound = self._signature.bind(*args, **kwargs)  # takes longer than all the rest
            args, named = bound.args, bound.kwargs
        instance = args[0] if self._on_object(args) else None
        positional = args if instance is None else args[1:]
        shape = Shape(context.request_context.get().multiplexed_model_id, len(positional), tuple(named))
        values = positional + tuple(named.values())
        if not values:
            raise TypeError(f"{self.function.__qualname__} is batched: a call needs an argument.")
        answer: Answer = Items(loop) if self.streams else loop.create_future()
        self._batcher(instance, loop).join(shape, values, answer)
        return answer

    def _on_object(self, args: tuple[Any, ...]) -> bool:
        """Is it called as a method?"""
        if not args:
            return False
        kind = type(args[0])
        known = self._receivers.get(kind)
        if known is None:
            if len(self._receivers) > MOST_KINDS:
                self._receivers.clear()
            known = self._receivers[kind] = is_receiver(self.function, args)
        return known

    def _batcher(self, instance: Any, loop: asyncio.AbstractEventLoop) -> Batcher:
        key = (id(loop), id(instance))
        batcher = self._batchers.get(key)
        if batcher is None or batcher.loop is not loop:  # a loop that was left with calls in it had the same address
            batcher = self._batchers[key] = Batcher(
                self.function, self.settings, instance, loop, idle=lambda: self._forget(key)
            )
            self._check_limits()
        return batcher

    def _forget(self, key: tuple[int, int]) -> None:
        self._batchers.pop(key, None)

    def _check_limits(self) -> None:
        """Can a batch be full at all? Told once, and again after a change of the size."""
        wanted = self.settings.size * self.settings.concurrent
        replica = context.current_replica()
        if replica is None or wanted == self._told or self.settings.size_of is not None:
            return
        self._told = wanted
        limit = replica.max_ongoing
        if limit < wanted:
            logger.warning(
                "%s: batches of %d, %d at a time, are never full, as the replica takes %d requests at a time: raise "
                "max_ongoing_requests.",
                *(self.function.__qualname__, self.settings.size, self.settings.concurrent, limit),
            )

    # ------------------------------------------------------------- at run time

    def set_max_batch_size(self, new_max_batch_size: int) -> None:
        """Take so many from the next batch on. Raises as `batch` does."""
        self.settings.size = checked_size(new_max_batch_size)
        self._resized()

    def set_batch_wait_timeout_s(self, new_batch_wait_timeout_s: float) -> None:
        """Wait so many seconds from the next batch on. Raises as `batch` does."""
        self.settings.wait = checked_wait(new_batch_wait_timeout_s)
        self._resized()

    def _resized(self) -> None:
        for batcher in list(self._batchers.values()):
            if not batcher.loop.is_closed():
                batcher.loop.call_soon_threadsafe(batcher.resized)


def checked_size(size: Any) -> int:
    """`max_batch_size`, or TypeError, ValueError."""
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"max_batch_size must be an integer >= 1, got {size!r}")
    if size < 1:
        raise ValueError(f"max_batch_size must be an integer >= 1, got {size}")
    return size


def checked_wait(wait: Any) -> float:
    """`batch_wait_timeout_s`, or TypeError, ValueError."""
    if not isinstance(wait, int | float) or isinstance(wait, bool):
        raise TypeError(f"batch_wait_timeout_s must be a float >= 0, got {wait!r}")
    if not wait >= 0:
        raise ValueError(f"batch_wait_timeout_s must be a float >= 0, got {wait}")
    return wait


def _checked(size: Any, wait: Any, concurrent: Any, size_of: Any) -> Settings:
    size, wait = checked_size(size), checked_wait(wait)
    if not isinstance(concurrent, int) or concurrent < 1:
        raise TypeError(f"max_concurrent_batches must be an integer >= 1, got {concurrent!r}")
    if size_of is not None and not callable(size_of):
        raise TypeError(f"batch_size_fn must be a callable or None, got {type(size_of)}")
    return Settings(size, wait, concurrent, size_of)


def _decorated(function: Any, settings: Settings) -> Any:
    if not callable(function):
        raise TypeError("@serve.batch is for functions and methods.")
    if not inspect.iscoroutinefunction(function) and not inspect.isasyncgenfunction(function):
        raise TypeError(f"Functions decorated with @serve.batch must be 'async def', and {function!r} is not.")
    batching = Batching(function, settings)

    async def alone(*args: Any, **kwargs: Any) -> Any:
        return await cast("asyncio.Future[Any]", batching.enter(args, kwargs))

    def streaming(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        return cast(Items, batching.enter(args, kwargs)).read()

    wrapper: Any = wraps(function)(streaming if batching.streams else alone)
    wrapper.set_max_batch_size = batching.set_max_batch_size
    wrapper.set_batch_wait_timeout_s = batching.set_batch_wait_timeout_s
    wrapper._get_max_batch_size = lambda: batching.settings.size
    wrapper._get_batch_wait_timeout_s = lambda: batching.settings.wait
    return wrapper


@overload
def batch(function: Callable[..., Any], /) -> Any: ...


@overload
def batch(
    function: None = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: Size | None = None,
) -> Callable[[Callable[..., Any]], Any]: ...


def batch(
    function: Callable[..., Any] | None = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: Size | None = None,
) -> Any:
    """Have calls of an async function, each with one item, be calls of it with lists of items.

    The function takes a list and returns a list of the same length. An async generator function yields lists of that
    length, and its callers get streams; where a list has `StopIteration` or `StopAsyncIteration`, that caller's stream
    ends. Its result has the methods `set_max_batch_size` and `set_batch_wait_timeout_s`, for `reconfigure` for example.
    Calls for different multiplexed models are never in one batch.

    Args:
        max_batch_size: members of a batch, at most.
        batch_wait_timeout_s: seconds that its first member waits for others, at most.
        max_concurrent_batches: batches that run at a time, at most.
        batch_size_fn: takes the list of items and gives the size of it, where `max_batch_size` is no number of items.
            A call that does not even fit alone gets RuntimeError.

    Raises TypeError for what is not `async def`, TypeError or ValueError for wrong settings. What the function raises
    goes to all members of that batch; RayServeException if what it returns has another length. A member that is
    cancelled before its batch begins is not part of it.

    ::

        @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.01)
        async def predict(self, prompts: list[str]) -> list[str]: ...

        answer = await self.predict("one prompt")
    """
    settings = _checked(max_batch_size, batch_wait_timeout_s, max_concurrent_batches, batch_size_fn)
    if function is not None:
        return _decorated(function, settings)
    return lambda function: _decorated(function, settings)
