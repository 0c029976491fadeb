"""Streams of results: what a generator task gives its caller."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Generic, NoReturn, Protocol

from skate.core import engine as engines
from skate.core.refs import ObjectRef, R_co, TaskID, closed_streams, make_ref


class ObjectRefGenerator(Generic[R_co]):
    """Yields an `ObjectRef` for each item of a streaming task as soon as the item exists.

    A task that fails in the middle yields one last reference, whose `get` raises; then the stream
    ends. Dropping the generator stops the task.
    """

    __slots__ = ("__weakref__", "_finished", "_following", "_generator_ref", "_lock")

    def __init__(self, task: int) -> None:
        self._generator_ref: ObjectRef[Any] = make_ref(task)
        self._following: ObjectRef[R_co] | None = None
        self._finished = False
        self._lock = threading.Lock()  # several threads may read: each item goes to one of them

    def __iter__(self) -> ObjectRefGenerator[R_co]:
        return self

    def __next__(self) -> ObjectRef[R_co]:
        while (item := self._peek()) is not None:
            engines.current().wait([item], 1, None)
            if self._take(item):
                return item
        raise StopIteration

    def __aiter__(self) -> ObjectRefGenerator[R_co]:
        return self

    async def __anext__(self) -> ObjectRef[R_co]:
        while (item := self._peek()) is not None:
            await engines.current().asyncio_ready(item)
            if self._take(item):
                return item
        raise StopAsyncIteration

    def completed(self) -> ObjectRef[Any]:
        """A reference that is ready when the task has ended."""
        return self._generator_ref

    def next_ready(self) -> bool:
        """Whether `next` would return a reference at once."""
        item = self._peek()
        return item is not None and _is_ready(item) and not self._at_end(item)

    def is_finished(self) -> bool:
        """Whether every item was taken and the task has ended."""
        item = self._peek()
        return item is None or (_is_ready(item) and self._at_end(item))

    def task_id(self) -> TaskID:
        """The id of the task that makes the items."""
        return self._generator_ref.task_id()

    def send(self, value: Any) -> NoReturn:
        """Not possible, as in Ray: the generator runs elsewhere and waits for nobody."""
        raise _one_way("send")

    def throw(self, *error: Any) -> NoReturn:
        """Not possible: see `send`."""
        raise _one_way("throw")

    def close(self) -> NoReturn:
        """Not possible: see `send`. Dropping the generator ends its task."""
        raise _one_way("close")

    async def asend(self, value: Any) -> NoReturn:
        """Not possible: see `send`."""
        raise _one_way("asend")

    async def athrow(self, *error: Any) -> NoReturn:
        """Not possible: see `send`."""
        raise _one_way("athrow")

    async def aclose(self) -> NoReturn:
        """Not possible: see `send`."""
        raise _one_way("aclose")

    def _peek(self) -> ObjectRef[R_co] | None:
        """The item that `next` gives, ready or not; None past the end."""
        with self._lock:
            if not self._finished and self._following is None:
                self._following = engines.current().next_item(self._generator_ref._key)
            return self._following

    def _take(self, item: ObjectRef[R_co]) -> bool:
        """Take a ready item; False when another thread was quicker, or it lies past the end."""
        with self._lock:
            if self._following is not item or self._at_end(item):
                return False
            self._following = None
            return True

    def _at_end(self, item: ObjectRef[R_co]) -> bool:
        if engines.current().is_end(item):
            self._finished, self._following = True, None
        return self._finished

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._generator_ref.hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "An ObjectRefGenerator cannot be sent to another process: its items belong to the "
            "caller of the task. Send the references that it yields, or what get gives for them"
        )

    def __del__(self) -> None:
        try:
            closed_streams.append(self._generator_ref._key)
        except (AttributeError, TypeError):
            return  # never finished being made, or the interpreter is going away


def _one_way(verb: str) -> NotImplementedError:
    return NotImplementedError(
        f"{verb}() does not reach a remote generator: items come one way. To stop it, drop the generator or cancel it."
    )


def _is_ready(item: ObjectRef[Any]) -> bool:
    return bool(engines.current().wait([item], 1, 0)[0])


class Waits(Protocol):
    """The part of an engine that tells when objects are ready."""

    def wait(
        self, refs: Sequence[ObjectRef[Any]], count: int, timeout: float | None, fetch: bool = True
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """As `Engine.wait`."""

    def on_ready(self, ref: ObjectRef[Any], callback: engines.Ready) -> None:
        """As `Engine.on_ready`."""


def asyncio_ready(engine: Waits, ref: ObjectRef[Any]) -> Any:
    """`Engine.asyncio_ready` by way of `Engine.on_ready`."""
    import asyncio

    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    if engine.wait([ref], 1, 0)[0]:
        woken.set_result(None)
        return woken

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    def ready() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(wake)

    engine.on_ready(ref, ready)
    return woken


class DynamicObjectRefGenerator(Generic[R_co]):
    """The value of a task with ``num_returns="dynamic"``: a reference for each item it yielded."""

    __slots__ = ("_refs",)

    def __init__(self, refs: list[ObjectRef[R_co]]) -> None:
        self._refs = refs

    def __iter__(self) -> Iterator[ObjectRef[R_co]]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)

    def __repr__(self) -> str:
        return f"DynamicObjectRefGenerator({len(self._refs)} references)"
