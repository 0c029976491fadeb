"""Items of a stream in groups: those that are ready at once travel together, and none waits for the next."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from types import coroutine
from typing import Any

MOST = 128
"""Items in one group."""
LARGEST = 256 * 1024
"""Bytes of text or data after which a group is not added to."""
LONGEST_S = 0.002
"""Seconds for which a generator that never waits may go on before its first items are sent."""
AHEAD = 4 * MOST
"""Items that a generator in a thread may be ahead."""


class Group(list[Any]):
    """Several items of a stream in one message."""


def size_of(item: Any) -> int:
    """Bytes of what is text or data."""
    return len(item) if isinstance(item, bytes | str | bytearray | memoryview) else 0


async def grouped(items: AsyncIterator[Any]) -> AsyncGenerator[list[Any], None]:
    """The items of an async iterator, those together that come without waiting. The first comes by itself."""
    group = Group()
    size = 0
    most = 1
    began = time.perf_counter()
    while True:
        step: Any = items.__anext__().__await__()
        try:
            waits_for = step.send(None)
        except StopIteration as ready:
            item = ready.value
        except StopAsyncIteration:
            if group:
                yield group
            return
        except BaseException:
            if group:
                yield group  # what came before it belongs to the reader
            raise
        else:
            if group:
                try:
                    yield group
                except BaseException:
                    step.close()  # nobody reads on
                    raise
                group, size = Group(), 0
            try:
                item = await _rest(step, waits_for)
            except StopAsyncIteration:
                return
            most, began = 1, time.perf_counter()
        group.append(item)
        size += size_of(item)
        if len(group) >= most or size >= LARGEST or time.perf_counter() - began > LONGEST_S:
            yield group
            await asyncio.sleep(0)  # others have their turn, and what was yielded is sent
            group, size, most, began = Group(), 0, min(MOST, most * 2), time.perf_counter()


@coroutine
def _rest(step: Any, waits_for: Any) -> Generator[Any, Any, Any]:
    """Drive a begun step to its end inside the current task."""
    go_on: Callable[[Any], Any]
    while True:
        try:
            given = yield waits_for
            go_on = step.send
        except BaseException as error:  # noqa: BLE001  a cancel, which is the step's to handle
            given, go_on = error, step.throw
        try:
            waits_for = go_on(given)
        except StopIteration as ended:
            return ended.value


class _End:
    """After the last item: how it ended."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Running:
    """A generator that runs in a thread, and what it has made that nobody took yet."""

    def __init__(self, items: Iterator[Any], ahead: int) -> None:
        self.items = items
        self.loop = asyncio.get_running_loop()
        self.ready: deque[Any] = deque()
        self.arrived = asyncio.Event()
        self.room = threading.Semaphore(ahead)
        self.stop = False

    def run(self) -> None:
        """Run the generator to its end, or until nobody reads on."""
        error: BaseException | None = None
        try:
            for item in self.items:
                self._put(item)
                self.room.acquire()
                if self.stop:
                    break
        except BaseException as raised:  # noqa: BLE001  it is raised where the items are awaited
            error = raised
        finally:
            close = getattr(self.items, "close", None)
            if close is not None:
                close()
        self._put(_End(error))

    def _put(self, item: Any) -> None:
        self.ready.append(item)
        if len(self.ready) == 1:
            self.loop.call_soon_threadsafe(self.arrived.set)

    def take(self) -> tuple[Group, _End | None]:
        """What is there, and the end if that is next."""
        group, size = Group(), 0
        while self.ready and len(group) < MOST and size < LARGEST:
            item = self.ready.popleft()
            if type(item) is _End:
                return group, item
            self.room.release()
            size += size_of(item)
            group.append(item)
        return group, None


async def grouped_in_thread(
    items: Iterator[Any], in_thread: Callable[..., Awaitable[Any]], ahead: int = AHEAD
) -> AsyncGenerator[list[Any], None]:
    """The items of a generator that may block, which runs in a thread: those together that are there.

    `ahead` is how many items it may have made that are not yet in a group.
    """
    running = _Running(items, ahead)
    task = asyncio.ensure_future(in_thread(running.run, (), {}))
    try:
        end = None
        while end is None:
            if not running.ready:
                await running.arrived.wait()
            running.arrived.clear()
            group, end = running.take()
            if group:
                yield group
        if end.error is not None:
            raise end.error
    finally:
        running.stop = True
        running.room.release()
        if not task.done():
            task.add_done_callback(_look_away)


def _look_away(running: asyncio.Future[Any]) -> None:
    """Nobody reads the stream any more: how its end came does not matter."""
    if not running.cancelled():
        running.exception()
