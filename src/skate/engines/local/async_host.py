"""An actor with coroutines: one event loop on the worker's main thread reads the link and runs the calls."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextvars import Context, copy_context
from types import CoroutineType, GeneratorType, coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from skate.core.calls import NO_ARGUMENTS, fill_call
from skate.core.spec import ActorOptions, CallOptions
from skate.engines.local.mailbox import Running, running
from skate.engines.local.messages import Calling, Item, TaskSpec, Value
from skate.engines.local.worker_client import ActorExit

if TYPE_CHECKING:
    from skate.engines.local.worker import Worker

Started = tuple[Coroutine[Any, Any, Any], Context, Any, float]
"""A coroutine that has taken its first step, its context, what it waits for, and when it began."""
Job = tuple[TaskSpec, list[Value], Calling | None]
USUAL = CallOptions()
clock = time.perf_counter
NO_FEED: list[Value] = []
TURN = 100
"""Calls begun in a row before the loop looks at anything else."""


class AsyncHost:
    """Runs calls as asyncio tasks, at most ``max_concurrency`` of a group at once."""

    def __init__(self, worker: Worker, options: ActorOptions) -> None:
        self.worker = worker
        self.client = worker.client
        self.client.may_block = False
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.free = {"": options.max_concurrency or 1000, **dict(options.groups)}
        self.waiting: dict[str, deque[Job]] = {group: deque() for group in self.free}
        self.coroutine_functions: dict[str, Any] = {}
        """Bound methods that are ``async def``, by name; None: one of another kind."""
        self.jobs: deque[Job] = deque()
        """Calls to begin."""
        self.runner: asyncio.Task[None] | None = None
        """The task that begins them."""
        self.tasks: dict[int, asyncio.Task[None]] = {}
        """The tasks of calls that wait for something."""
        self.resumed: dict[int, asyncio.Event] = {}
        self.flush_due = False
        self.clock = 0.0
        """When the last call ended, if the next begins at once; else 0."""
        self.leaving: BaseException | None = None

    def construct(self, cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make the instance with the loop running, as its constructor may expect."""

        async def make() -> Any:
            if not inspect.iscoroutinefunction(inspect.getattr_static(cls, "__init__")):
                return cls(*args, **kwargs)
            instance: Any = cls.__new__(cls, *args, **kwargs)
            await instance.__init__(*args, **kwargs)
            return instance

        return self.loop.run_until_complete(make())

    def run(self) -> NoReturn:
        """Serve calls until the actor leaves."""
        client, loop = self.client, self.loop
        client.on_inbox = self._take_soon
        client.on_cancel = self._cancel
        client.on_resume = self._resume
        loop.add_reader(client.link.read_fd, self._readable)
        loop.call_soon(self._take)
        loop.run_forever()
        if isinstance(self.leaving, EOFError):
            raise self.leaving
        self.worker.leave("it called exit_actor" if isinstance(self.leaving, ActorExit) else "retired", final=True)

    def _take_soon(self) -> None:
        self.loop.call_soon_threadsafe(self._take)

    def _readable(self) -> None:
        client = self.client
        on_inbox, client.on_inbox = client.on_inbox, _nothing
        try:
            client.readable()
        except (EOFError, OSError) as error:
            self.leaving = EOFError(str(error))
            self.loop.stop()
            return
        finally:
            client.on_inbox = on_inbox
        self._take()

    def _take(self) -> None:
        worker, inbox, jobs, free = self.worker, self.client.inbox, self.jobs, self.free
        cancelled = self.client.cancelled
        while inbox and self.leaving is None:
            message = inbox.popleft()
            # What `step` and `accept` would do with a call that nothing special came before, in line.
            if (
                type(message) is TaskSpec
                and message.method
                and worker.calling is None
                and not worker.feed
                and free.get(message.group, 0) > 0
                and not cancelled
            ):
                free[message.group] -= 1
                jobs.append((message, NO_FEED, None))
            else:
                worker.step(message)
        if jobs and self.runner is None:
            self.runner = asyncio.Task(self._run_jobs(), loop=self.loop, name="skate-calls")
        self._flush_soon()

    def accept(self, spec: TaskSpec, feed: list[Value], calling: Calling | None) -> None:
        """Start a call, or queue it when its group is full."""
        if spec.task in self.client.cancelled:
            self.worker.refuse(spec)
            return
        group = spec.group
        if group not in self.free:
            self.worker.refuse_group(spec, self.free)
            return
        if self.free[group] <= 0:
            self.waiting[group].append((spec, feed, calling))
            return
        self.free[group] -= 1
        self.jobs.append((spec, feed, calling))
        if self.runner is None:
            self.runner = asyncio.Task(self._run_jobs(), loop=self.loop, name="skate-calls")

    async def _run_jobs(self) -> None:
        """Begin calls one after another; the first that has to wait keeps this task, and another takes over.

        Most calls never wait, and need no task of their own. Each has its own context, as in a task.
        """
        jobs, begun = self.jobs, 0
        self.clock = 0.0
        while jobs and self.leaving is None:
            job = jobs.popleft()
            started = self._begin(*job)
            if started is None:
                begun += 1
                if begun % TURN == 0:
                    self._flush()
                    await asyncio.sleep(0)
                    self.clock = 0.0
                continue
            me = self.runner
            assert me is not None
            self.tasks[job[0].task] = me
            self.runner = None
            if job[0].task in self.client.cancelled:  # it came while the call took its first step
                me.cancel()
            if jobs:
                self.runner = asyncio.Task(self._run_jobs(), loop=self.loop, name="skate-calls")
            await self._end(job[0], *started)
            self.tasks.pop(job[0].task, None)
            return
        self.runner = None

    def _begin(self, spec: TaskSpec, feed: list[Value], calling: Calling | None) -> Started | None:
        """A call's first step; None when it was its last as well."""
        method = self._coroutine_function(spec.method) if calling is None and spec.returns == 1 else None
        began = self.clock or clock()
        self.clock = 0.0
        if method is None:
            call: Coroutine[Any, Any, Any] = self._run(spec, feed, calling)
            context = copy_context()
            try:
                return call, context, context.run(call.send, None), began
            except StopIteration:
                return None
        # The common case, in line: the user's coroutine itself is driven, and has no other around it.
        try:
            running.set(spec)
            context = copy_context()
            if spec.args == NO_ARGUMENTS:
                call = method()
            else:
                load = self.client.load
                args, kwargs = fill_call(load(spec.args), [load(value) for value in feed])
                call = method(*args, **kwargs)
                args, kwargs = (), {}
            try:
                return call, context, context.run(call.send, None), began
            except StopIteration as ended:
                value = ended.value
            self.clock = now = clock()
            self.worker.deliver(spec, value, int((now - began) * 1e6), now)
        except BaseException as error:  # noqa: BLE001  whatever user code raises is its caller's
            self._failed(spec, error, USUAL, began)
        self._ended(spec)
        return None

    async def _end(
        self, spec: TaskSpec, call: Coroutine[Any, Any, Any], context: Context, waits_for: Any, began: float
    ) -> None:
        """The other steps of a call."""
        if isinstance(call, CoroutineType) and call.cr_code is _RUN:
            await _finish(call, context, waits_for)
            return
        try:
            value = await _finish(call, context, waits_for)
            now = clock()
            self.worker.deliver(spec, value, int((now - began) * 1e6), now)
            value = None
        except BaseException as error:  # noqa: BLE001  whatever user code raises is its caller's
            self._failed(spec, error, USUAL, began)
        self._ended(spec)

    def _coroutine_function(self, name: str) -> Any:
        """The method of that name if it is ``async def``; else None."""
        found = self.coroutine_functions.get(name, self)
        if found is self:
            method = getattr(self.worker.instance, name, None)
            found = self.coroutine_functions[name] = method if inspect.iscoroutinefunction(method) else None
        return found

    async def _run(self, spec: TaskSpec, feed: list[Value], calling: Calling | None) -> None:
        worker, client = self.worker, self.client
        if calling is None:
            options = USUAL
            running.set(spec)
        else:
            options = calling.options
            running.set(Running(spec.task, spec.method, options, calling.attempt, worker.gpus))
        began = clock()
        try:
            method = worker.method(spec)
            if spec.args == NO_ARGUMENTS:
                value = method()
            else:
                args, kwargs = fill_call(client.load(spec.args), [client.load(value) for value in feed])
                value = method(*args, **kwargs)
                args, kwargs = (), {}
            if type(value) is CoroutineType or inspect.isawaitable(value):
                value = await value
            if spec.returns == -1 and inspect.isasyncgen(value):
                value = await self._stream(spec, value, options.backpressure)
            elif spec.returns != 1 or type(value) is GeneratorType:
                value = worker.expand(spec, value, worker.label(spec), options.backpressure)
            now = clock()
            worker.deliver(spec, value, int((now - began) * 1e6), now)
            value = None
        except BaseException as error:  # noqa: BLE001  whatever user code raises is its caller's
            self._failed(spec, error, options, began)
        finally:
            self._ended(spec)

    def _failed(self, spec: TaskSpec, error: BaseException, options: CallOptions, began: float) -> None:
        if isinstance(error, SystemExit):
            self.leaving = error
            self.loop.stop()
        else:
            name = options.name or self.worker.label(spec)
            self.worker.report(spec, error, name, options, int((clock() - began) * 1e6))

    def _ended(self, spec: TaskSpec) -> None:
        group = spec.group
        self.free[group] += 1
        if self.waiting[group]:
            self.accept(*self.waiting[group].popleft())
        if not self.flush_due:
            self.flush_due = True
            self.loop.call_soon(self._flush)

    async def _stream(self, spec: TaskSpec, items: Any, ahead: int) -> list[Any]:
        client, sent = self.client, 0
        if ahead > 0:
            client.allowed.setdefault(spec.task, ahead)
        try:
            async for item in items:
                value, inner = self.worker.lay(item, 0)
                client.finished(Item(spec.task, value, inner))
                client.sent(value)
                self._flush_soon()
                sent += 1
                while ahead > 0 and sent >= client.allowed[spec.task]:
                    await self.resumed.setdefault(spec.task, asyncio.Event()).wait()
                    self.resumed.pop(spec.task, None)
        finally:
            client.allowed.pop(spec.task, None)
            self.resumed.pop(spec.task, None)
            await items.aclose()
        return [None]

    def _flush_soon(self) -> None:
        if not self.flush_due:
            self.flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.flush_due = False
        self.client.flush()

    def _resume(self, task: int) -> None:
        event = self.resumed.get(task)
        if event is not None:
            self.loop.call_soon_threadsafe(event.set)

    def _cancel(self, task: int) -> None:
        running_task = self.tasks.get(task)
        if running_task is not None:
            self.loop.call_soon_threadsafe(running_task.cancel)
            return
        for line in (self.jobs, *self.waiting.values()):
            for job in line:
                if job[0].task == task:
                    line.remove(job)
                    if line is self.jobs:
                        self.free[job[0].group] += 1
                    self.worker.refuse(job[0])
                    self._flush_soon()
                    return

    def drain(self) -> bool:
        """Stop once the calls that run have ended; False: the loop leaves by itself."""

        async def finish() -> None:
            while self.tasks or self.jobs:
                await asyncio.wait([task for task in (*self.tasks.values(), self.runner) if task is not None])
            self.leaving = ActorExit()
            self.loop.stop()

        self._draining = self.loop.create_task(finish())
        return False


@coroutine
def _finish(call: Coroutine[Any, Any, Any], context: Context, waits_for: Any) -> Generator[Any, Any, Any]:
    """Drive a begun coroutine to its end inside the current task; what it returns."""
    step: Callable[[Any], Any]
    while True:
        try:
            sent: Any = yield waits_for
            step = call.send
        except BaseException as error:  # noqa: BLE001  a cancel, which is the call's to handle
            sent, step = error, call.throw
        try:
            waits_for = context.run(step, sent)
        except StopIteration as ended:
            return ended.value


_RUN = AsyncHost._run.__code__


def _nothing() -> None:
    """The reader takes the inbox itself."""


def iterate(items: AsyncIterator[Any]) -> Iterator[Any]:
    """The items of an async generator where no loop runs."""
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(anext(items))
            except StopAsyncIteration:
                return
    finally:
        loop.close()
