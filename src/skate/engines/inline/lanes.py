"""Where the calls of an actor run: in the caller, in threads, or on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import queue
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from skate.core.gpus import shown
from skate.core.serialization import pack
from skate.core.spec import ActorOptions
from skate.engines.inline.records import Call, current, success
from skate.engines.inline.running import arguments, cancelled, failed, finish, function_of, results, run, source_of
from skate.engines.inline.surroundings import applied

if TYPE_CHECKING:
    from skate.engines.inline.session import Session

JOIN = 0.5
"""Seconds that the end of a session waits for its threads."""


def has_coroutines(cls: type) -> bool:
    """Whether a class has a method that is a coroutine function or an async generator."""
    return any(
        inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
        for _, member in inspect.getmembers(cls, callable)
    )


class Threads:
    """A threaded actor: each concurrency group has its threads, started as they are needed."""

    def __init__(self, session: Session, options: ActorOptions) -> None:
        self.session = session
        self.groups = {"": _Group(session, options.class_name, max(1, options.max_concurrency))}
        self.groups.update((name, _Group(session, options.class_name, size)) for name, size in options.groups)

    def construct(self, work: Callable[[], None]) -> None:
        """Run the constructor; calls are posted once it has ended."""
        self.groups[""].post(work)

    def post(self, call: Call) -> None:
        """Have a call run in its group."""
        self.groups[getattr(call.options, "group", "")].post(lambda: self._run(call))

    def _run(self, call: Call) -> None:
        if call.stream is not None and not call.ended:
            call.stream.push_all()
        else:
            run(self.session, call)

    def cancel(self, call: Call) -> None:
        """A thread cannot be interrupted: the call's result is discarded."""

    def hosts(self, call: Call) -> list[int]:
        """Threads one of which has to come free before a queued call can run; empty when one is free."""
        return self.groups[getattr(call.options, "group", "")].busy_threads()

    def stop(self) -> list[threading.Thread]:
        """Have the threads end when they have finished what they run."""
        return [thread for group in self.groups.values() for thread in group.stop()]


class _Group:
    def __init__(self, session: Session, name: str, size: int) -> None:
        self._session = session
        self._name = name
        self._size = size
        self._line: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy: set[int] = set()
        self._queued = 0

    def post(self, work: Callable[[], None]) -> None:
        with self._session.lock:
            self._queued += 1
            self._line.put(work)
            if self._queued + len(self._busy) > len(self._threads) < self._size:
                thread = threading.Thread(
                    target=self._serve, name=f"skate-{self._name}-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _serve(self) -> None:
        me = threading.get_ident()
        while (work := self._line.get()) is not None:
            with self._session.lock:
                self._queued -= 1
                self._busy.add(me)
            try:
                work()
            finally:
                del work
                with self._session.lock:
                    self._busy.discard(me)

    def busy_threads(self) -> list[int]:
        return list(self._busy) if len(self._busy) >= self._size else []

    def stop(self) -> list[threading.Thread]:
        for _ in self._threads:
            self._line.put(None)
        return self._threads


class Loop:
    """An async actor: an event loop in a thread of its own. Methods that are not coroutines run there too."""

    def __init__(self, session: Session, options: ActorOptions) -> None:
        self.session = session
        self.loop = asyncio.new_event_loop()
        self.limits = {"": asyncio.Semaphore(options.max_concurrency or 1000)}
        self.limits.update((name, asyncio.Semaphore(size)) for name, size in options.groups)
        self.thread = threading.Thread(target=self._serve, name=f"skate-{options.class_name}-loop", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=JOIN))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def _soon(self, work: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the actor has ended
            self.loop.call_soon_threadsafe(work, *args)

    def construct(self, work: Callable[[], None]) -> None:
        """Run the constructor with the loop running, as it may expect."""
        self._soon(work)

    def post(self, call: Call) -> None:
        """Start a call on the loop."""
        self._soon(self._start, call)

    def _start(self, call: Call) -> None:
        if not call.ended:
            call.task = self.loop.create_task(self._run(call))

    async def _run(self, call: Call) -> None:
        try:
            async with self.limits[getattr(call.options, "group", "")]:
                current.set(call)
                call.thread = threading.get_ident()
                while not call.ended and await self._attempt(call):
                    call.attempt += 1
        except asyncio.CancelledError:  # while it waited for its turn
            self.session.fail(call, cancelled(call, "before it began"))
        finally:
            call.task = None
            call.thread = 0

    async def _attempt(self, call: Call) -> bool:
        session = self.session
        try:
            found = arguments(session, call)
            if found is None:
                return False
            with applied(call.setup, call.gpus):
                value = function_of(call)(*found[0], **found[1])
            found = None
            if inspect.isawaitable(value):
                value = await _Stepped(call, value)
            if call.stream is not None:
                return await self._stream(call, value)
            outcomes = results(session, call, value)
            value = None
        except BaseException as error:  # noqa: BLE001  whatever user code raises is its caller's
            return failed(session, call, error)
        finish(session, call, outcomes)
        return False

    async def _stream(self, call: Call, value: Any) -> bool:
        stream = call.stream
        assert stream is not None
        room = asyncio.Event()
        stream.on_room = lambda: self._soon(room.set)
        items = value if inspect.isasyncgen(value) else _as_async(value, call.label)
        try:
            async for item in items:
                packed = pack(item)
                self.session.check_room(packed)
                stream.push(success(packed))
                while not stream.has_room():
                    room.clear()
                    if not stream.has_room():
                        await room.wait()
                if stream.ended:
                    return False
        except BaseException as error:  # noqa: BLE001  whatever user code raises is its caller's
            again = failed(self.session, call, error)
            if again:
                stream.start_again()
                call.attempt -= 1  # counted by the loop over attempts
            return again
        finally:
            await items.aclose()
        stream.finish()
        return False

    def cancel(self, call: Call) -> None:
        """Interrupt a call where it awaits."""
        task = call.task
        if task is not None:
            self._soon(task.cancel)

    def hosts(self, call: Call) -> list[int]:
        """The loop's thread: when it is stuck, so is the call."""
        return [self.thread.ident or 0]

    def stop(self) -> list[threading.Thread]:
        """End the loop."""
        self._soon(self.loop.stop)
        return [self.thread]


class _Stepped:
    """Awaits a coroutine with its runtime environment in force in each of its steps, and not between them."""

    def __init__(self, call: Call, awaitable: Any) -> None:
        self._call, self._awaitable = call, awaitable

    def __await__(self) -> Generator[Any, Any, Any]:
        if self._call.setup is None and shown(self._call.gpus, os.environ) is None:
            return (yield from self._awaitable.__await__())
        return (yield from self._steps(self._awaitable.__await__()))

    def _steps(self, inner: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        resume: Callable[[Any], Any] = inner.send
        answer: Any = None
        while True:
            try:
                with applied(self._call.setup, self._call.gpus):
                    waiting = resume(answer)
            except StopIteration as end:
                return end.value
            try:
                answer = yield waiting
                resume = inner.send
            except BaseException as error:  # noqa: BLE001  it is the coroutine's, which gets it
                answer, resume = error, inner.throw


async def _as_async(value: Any, label: str) -> Any:
    """The items of a plain generator, with the loop's turn between them."""
    for item in source_of(value, label):
        yield item
        await asyncio.sleep(0)
