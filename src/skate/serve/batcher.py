"""When batches begin, and what their members get. See `skate.serve.batching`.

A batch begins when it is full, or when its oldest member has waited long enough, and never while as many batches run
as may: what arrives meanwhile goes on joining the next one. So batches fill up under load, and a lone call waits for
its time and nothing else. Nothing runs in the background: a call that comes, a timer, and the end of a batch look
whether one can begin.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextvars import Context, copy_context
from itertools import islice
from typing import Any, NamedTuple, cast

from skate.serve import measures
from skate.serve.exceptions import RayServeException

Size = Callable[[list[Any]], float]
EARLY = 0.001
"""Seconds by which a timer may come too soon: event loops count in milliseconds."""


class Settings:
    """What a batched function was declared with; the two that can be changed hold for the next batch."""

    def __init__(self, size: int, wait: float, concurrent: int, size_of: Size | None) -> None:
        self.size = size
        self.wait = wait
        self.concurrent = concurrent
        self.size_of = size_of


class Shape(NamedTuple):
    """What calls must have in common to be in one batch: the model, and which arguments they give."""

    model: str
    positional: int
    named: tuple[str, ...]


class Items:
    """The items of one member of a batch of streams. To the batch it is what a Future is where there are no streams."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[Any] = deque()
        self._more: asyncio.Future[None] | None = None
        self._end: asyncio.Future[None] = loop.create_future()
        """Done when there is no more to come; cancelled when nobody reads any more."""
        self.done = self._end.done
        self.cancelled = self._end.cancelled
        self.add_done_callback = self._end.add_done_callback

    def put(self, item: Any) -> None:
        """Give one item."""
        self._items.append(item)
        self._wake()

    def finish(self) -> None:
        """There are no more."""
        self._end.set_result(None)
        self._wake()

    def set_exception(self, error: BaseException) -> None:
        """The stream fails after the items that it has."""
        self._end.set_exception(error)
        self._wake()

    def cancel(self) -> None:
        """Neither reader nor batch go on."""
        self._end.cancel()
        self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def read(self) -> AsyncGenerator[Any, None]:
        """The items as they come."""
        try:
            while True:
                while self._items:
                    yield self._items.popleft()
                if self._end.done():
                    self._end.result()  # raises what the stream failed with
                    return
                self._more = self._loop.create_future()
                await self._more
        finally:
            self._end.cancel()


Answer = asyncio.Future[Any] | Items


class Member:
    """A call that waits, or whose batch runs."""

    __slots__ = ("answer", "arrived", "context", "values")

    def __init__(self, values: tuple[Any, ...], answer: Answer, arrived: float) -> None:
        self.values = values
        self.answer = answer
        self.arrived = arrived
        self.context: Context = copy_context()


class Lane:
    """The calls of one shape that wait, oldest first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._members: OrderedDict[Member, None] = OrderedDict()
        self._fitting = 0
        """So many of the first are the next batch."""
        self.full = False
        """Would one more not fit into the next batch?"""

    def __bool__(self) -> bool:
        return bool(self._members)

    @property
    def since(self) -> float:
        """When the oldest came, by the loop's clock."""
        return next(iter(self._members)).arrived

    def add(self, member: Member) -> None:
        """Take a call in. What the size function raises is raised; so is RuntimeError for a call that never fits."""
        size_of = self._settings.size_of
        if size_of is not None and (size := size_of([member.values[0]])) > self._settings.size:
            raise RuntimeError(
                f"A call of size {size} does not fit into batches of {self._settings.size}: raise max_batch_size, "
                "or check what batch_size_fn gives."
            )
        self._members[member] = None
        try:
            self._measure()
        except BaseException:
            del self._members[member]
            raise

    def remove(self, member: Member) -> None:
        """A member is cancelled; it may be in no lane any more."""
        if member in self._members:
            del self._members[member]
            self.reset()

    def reset(self) -> None:
        """Look anew at what fits."""
        self._fitting, self.full = 0, False
        try:
            self._measure()
        except Exception:  # noqa: BLE001  of the user's function, for members that it measured when they came
            self._fitting, self.full = max(self._fitting, 1), True

    def _measure(self) -> None:
        limit, size_of = self._settings.size, self._settings.size_of
        if size_of is None:
            self._fitting = min(len(self._members), limit)
            self.full = len(self._members) >= limit
            return
        if self.full:
            return
        items = [member.values[0] for member in islice(self._members, self._fitting)]
        for member in islice(self._members, self._fitting, None):
            items.append(member.values[0])
            size = size_of(items)
            # the first one is taken whatever it measures: the limit may have been lowered since it came
            if size <= limit or len(items) == 1:
                self._fitting += 1
            if size >= limit:
                self.full = True
                return

    def take(self) -> list[Member]:
        """The next batch, full or not."""
        batch = [self._members.popitem(last=False)[0] for _ in range(self._fitting)]
        self.reset()
        return batch


class Batcher:
    """The batches of one function, for one object where it is a method, in one event loop."""

    def __init__(
        self, function: Callable[..., Any], settings: Settings, instance: Any, loop: asyncio.AbstractEventLoop,
        idle: Callable[[], None],
    ) -> None:  # fmt: skip
        self.loop = loop
        self.running: dict[asyncio.Task[None], float] = {}
        """When each batch that runs began, in seconds since the epoch."""
        self._settings = settings
        self._function = function
        self._streams = inspect.isasyncgenfunction(function)
        self._instance = instance
        self._idle = idle
        self._lanes: dict[Shape, Lane] = {}
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0

    # ------------------------------------------------------------- calls come and go

    def join(self, shape: Shape, values: tuple[Any, ...], answer: Answer) -> None:
        """Have a call be part of a batch."""
        member = Member(values, answer, self.loop.time())
        lane = self._lanes.get(shape)
        if lane is None:
            lane = self._lanes[shape] = Lane(self._settings)
        try:
            lane.add(member)
        except Exception as error:  # noqa: BLE001  whatever the user's size function raises is for this caller
            answer.set_exception(error)
            self._tidy(shape)
            return
        answer.add_done_callback(lambda done: self._leave(shape, member) if done.cancelled() else None)
        self._consider(only_full=True)

    def _leave(self, shape: Shape, member: Member) -> None:
        lane = self._lanes.get(shape)
        if lane is not None:
            lane.remove(member)
            self._tidy(shape)

    def _tidy(self, shape: Shape | None = None) -> None:
        if shape is not None and not self._lanes[shape]:
            del self._lanes[shape]
        if not self._lanes:
            self._stop_timer()
            if not self.running:
                self._idle()

    def resized(self) -> None:
        """The settings have changed."""
        for lane in self._lanes.values():
            lane.reset()
        self._stop_timer()
        self._consider()

    # ------------------------------------------------------------- when a batch begins

    def _consider(self, only_full: bool = False) -> None:
        """Begin the batches that may, those that have waited longest first; see that we look again in time."""
        while self._lanes and len(self.running) < self._settings.concurrent:
            by_age = sorted(self._lanes, key=lambda shape: self._lanes[shape].since)
            ready = [shape for shape in by_age if self._lanes[shape].full]
            due = self._lanes[by_age[0]].since + self._settings.wait
            if not only_full and due - self.loop.time() < EARLY:
                ready.insert(0, by_age[0])
            if not ready:
                self._set_timer(due)
                return
            self._begin(ready[0], self._lanes[ready[0]].take())
            self._tidy(ready[0])

    def _set_timer(self, due: float) -> None:
        if self._timer is not None and self._timer_at <= due:
            return  # it comes soon enough, and looks again
        self._stop_timer()
        self._timer_at = due
        # without a wait a batch takes along what comes in the same turn of the loop
        immediate = self._settings.wait <= 0
        self._timer = self.loop.call_soon(self._time) if immediate else self.loop.call_at(due, self._time)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time(self) -> None:
        self._timer = None
        self._consider()

    # ------------------------------------------------------------- what a batch does

    def _begin(self, shape: Shape, batch: list[Member]) -> None:
        """Run it in the surroundings of its oldest member: among them is the model, which all have in common."""
        task = self.loop.create_task(self._run(shape, batch), context=batch[0].context)
        self.running[task] = time.time()
        task.add_done_callback(lambda done: self._ended(done, batch))

    def _ended(self, task: asyncio.Task[None], batch: list[Member]) -> None:
        measures.batch_ended(self._function.__name__, time.time() - self.running.pop(task))
        if task.cancelled():
            for member in batch:
                member.answer.cancel()
        if not self.loop.is_closed():
            self._consider()
        self._tidy()

    def _measure(self, batch: list[Member]) -> None:
        size_of = self._settings.size_of
        size = len(batch) if size_of is None else size_of([member.values[0] for member in batch])
        waited = self.loop.time() - batch[0].arrived
        measures.batch_begins(self._function.__name__, waited, size, self._settings.size)

    async def _run(self, shape: Shape, batch: list[Member]) -> None:
        columns = [list(column) for column in zip(*(member.values for member in batch), strict=True)]
        positional, named = columns[: shape.positional], columns[shape.positional :]
        instance = () if self._instance is None else (self._instance,)
        answers = [member.answer for member in batch]
        try:
            self._measure(batch)
            made = self._function(*instance, *positional, **dict(zip(shape.named, named, strict=True)))
            if self._streams:
                await _deal_streams(made, cast("list[Items]", answers))
                return
            results = await made
            _check_length(results, len(batch))
            for answer, result in zip(answers, results, strict=True):
                if not answer.done():
                    cast("asyncio.Future[Any]", answer).set_result(result)
        except Exception as error:  # noqa: BLE001  it is for those who wait
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)


async def _deal_streams(made: AsyncGenerator[Any, None], answers: list[Items]) -> None:
    """Give each member its item of each list, until it has been told that there are no more."""
    try:
        async for results in made:
            _check_length(results, len(answers))
            for answer, result in zip(answers, results, strict=True):
                if answer.done():
                    continue
                if result is StopIteration or result is StopAsyncIteration:
                    answer.finish()
                else:
                    answer.put(result)
            if all(answer.done() for answer in answers):
                return
        for answer in answers:
            if not answer.done():
                answer.finish()
    finally:
        await made.aclose()


def _check_length(results: Any, wanted: int) -> None:
    if len(results) != wanted:
        raise RayServeException(
            "Batched function doesn't preserve batch size. "
            f"The input list has length {wanted} but the returned list has length {len(results)}."
        )
