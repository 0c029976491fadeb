"""A worker process: runs tasks one after another, or hosts one actor.

The main thread reads the link and runs tasks and the calls of ordinary actors. An actor with ``max_concurrency`` or
concurrency groups gets threads (`ThreadedHost`), one with coroutines an event loop on the main thread (`AsyncHost`).

A cancel arrives as a message plus a signal: its handler reads the link, so that a task inside one long call of C code
that heeds signals, or a long sleep, is interrupted at once by KeyboardInterrupt.
"""

from __future__ import annotations

import inspect
import os
import pickle
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, GeneratorType
from typing import Any, NoReturn

from skate.core import gpus
from skate.core.calls import NO_ARGUMENTS, fill_call
from skate.core.placement import captured
from skate.core.spec import CallOptions, Resources, TaskOptions
from skate.engines.local.boot import OWN_THREADS, POKE
from skate.engines.local.interrupts import at_work
from skate.engines.local.link import BlockingLink
from skate.engines.local.mailbox import IDLE, Running
from skate.engines.local.messages import (
    Calling,
    Define,
    Done,
    Feed,
    Host,
    Leave,
    TaskSpec,
    Using,
    Value,
)
from skate.engines.local.results import NONE, Results
from skate.engines.local.worker_client import ActorExit, WorkerClient

FLUSH_AFTER = 0.001
"""Seconds that a result may wait for the next to travel with it."""
LATE = 0.005
"""Seconds after which results are sent though the next call has not ended."""
USUAL = CallOptions()


class Worker(Results):
    """The main loop, and everything about running one call."""

    def __init__(self, link: BlockingLink, client: WorkerClient) -> None:
        self.link = link
        self.client = client
        self.functions: dict[bytes, Any] = {}
        self.blobs: dict[bytes, tuple[bytes, str]] = {}
        self.using = Using(TaskOptions())
        self.feed: list[Value] = []
        self.calling: Calling | None = None
        self.hosting: Host | None = None
        self.gpus: tuple[int, ...] = ()
        """Those that the actor holds."""
        self.instance: Any = None
        self.actor_name = ""
        self.methods: dict[str, Callable[..., Any]] = {}
        """Bound methods of the instance, looked up once."""
        self.runs: dict[bytes, int] = {}
        self.flushed = time.perf_counter()
        self.clock = 0.0
        """When the last call ended, if the next begins at once; else 0."""
        self.host: Any = None
        self.flusher: threading.Thread | None = None
        self.late = threading.Event()
        """Results may wait behind a call that takes long."""
        self.visible = os.environ.get(gpus.VISIBLE)
        """What the worker began with."""
        self.narrowed = False

    # ---------------------------------------------------------------------- loop

    def serve(self) -> None:
        """Run what comes, for ever."""
        client, inbox = self.client, self.client.inbox
        while True:
            if not inbox:
                client.turns.until(lambda: inbox)
                self.clock = 0.0
                continue
            self.step(inbox.popleft())

    def step(self, message: Any) -> None:
        """One message of the inbox."""
        kind = type(message)
        if kind is TaskSpec:
            feed, self.feed = self.feed if message.deps else [], []  # or they were of one that was given back
            calling, self.calling = self.calling, None
            if not message.actor:
                self.run_task(message, feed)
            elif not message.method:
                self.construct(message, feed)
            elif self.host is not None:
                self.host.accept(message, feed, calling)
            else:
                self.run_call(message, feed, calling)
        elif kind is Using:
            self.using = message
            self._set_gpus(message.gpus)
            self._set_threads(message.options.resources)
            self.client.inside = captured(message.options.where)
        elif kind is Feed:
            self.feed = self.feed[: message.start] + message.values  # many come in portions
        elif kind is Calling:
            self.calling = message
        elif kind is Define:
            self.blobs[message.function] = (message.blob, message.name)
        elif kind is Host:
            self.hosting = message
            self._set_gpus(message.gpus)
            self._set_threads(message.info.options.resources)
            self.client.inside = captured(message.info.options.where)
        elif kind is Leave and (self.host is None or self.host.drain()):
            self.leave("retired", final=True)

    def _set_gpus(self, numbers: tuple[int, ...]) -> None:
        text = gpus.shown(gpus.named(numbers, self.client.visible_gpus), os.environ)
        if text is not None:
            os.environ[gpus.VISIBLE] = text
            self.narrowed = True
        elif self.narrowed:  # by an earlier call: this one sees what it would in a new worker
            self.narrowed = False
            os.environ.pop(gpus.VISIBLE, None)
            if self.visible is not None:
                os.environ[gpus.VISIBLE] = self.visible

    def _set_threads(self, resources: Resources) -> None:
        """As Ray does: numeric libraries loaded from now on use as many threads as the call has CPUs."""
        if OWN_THREADS in os.environ:
            cpus = dict(resources).get("CPU", 0) // 10_000
            os.environ["OMP_NUM_THREADS"] = str(max(1, cpus))

    def definition(self, function: bytes) -> Any:
        """The function or class of that hash, unpickled once."""
        found = self.functions.get(function)
        if found is None:
            blob, name = self.blobs[function]
            try:
                found = pickle.loads(blob)
            except Exception as error:
                text = f"{name} could not be loaded in a worker: {type(error).__name__}: {error}"
                raise RuntimeError(text) from error
            self.functions[function] = found
        return found

    # --------------------------------------------------------------------- tasks

    def run_task(self, spec: TaskSpec, feed: list[Value]) -> None:
        """A call of a function, on the main thread."""
        client = self.client
        if spec.task in client.cancelled:
            self.refuse(spec)
            return
        options = self.using.options
        using = self.using
        name = self.blobs[spec.function][1]
        # A death is blamed on the first call without a result. One that may fail by that stands alone: results go
        # out before it begins, and its own as soon as it is there.
        alone = using.attempt > 0 or options.max_retries == 0
        if alone and self.link.out:
            client.flush()
        client.current = Running(spec.task, name, options, using.attempt, using.gpus)
        if client.inbox and self.link.out:
            self._arm_flusher()
        started = time.perf_counter()
        try:
            function = client.target = self.functions.get(spec.function) or self.definition(spec.function)
            if spec.args == NO_ARGUMENTS:
                args: tuple[Any, ...] = ()
                kwargs: dict[str, Any] = {}
            else:
                args, kwargs = fill_call(client.load(spec.args), [client.load(value) for value in feed])
            try:
                client.interruptible = True
                if client.cancelled:
                    client.heed_cancel()  # it came while the arguments were unpacked
                value = function(*args, **kwargs)
                if spec.returns != 1 or type(value) is GeneratorType:
                    value = self.expand(spec, value, name, options.backpressure)
                client.interruptible = False
            finally:
                client.interruptible = False
                args, kwargs = (), {}
            now = time.perf_counter()
            self.deliver(spec, value, int((now - started) * 1e6), now)
            del value
        except BaseException as error:  # noqa: BLE001  whatever user code raises is its caller's
            now = time.perf_counter()
            self.report(spec, error, options.name or name, options, int((now - started) * 1e6))
        client.current = IDLE
        if options.max_calls:
            self._count_run(spec.function, options.max_calls)
        if alone or not client.inbox or now - self.flushed > FLUSH_AFTER or len(self.link.out) > 64:
            client.flush()
            self.flushed = now

    def _count_run(self, function: bytes, most: int) -> None:
        self.runs[function] = self.runs.get(function, 0) + 1
        if self.runs[function] >= most:
            self.leave("retired", final=False)

    def _arm_flusher(self) -> None:
        """Have results sent even when the next call turns out to be long."""
        if self.flusher is None:
            self.flusher = threading.Thread(target=self._flush_late, name="skate-flusher", daemon=True)
            self.flusher.start()
        if not self.late.is_set():
            self.late.set()

    def _flush_late(self) -> None:
        late, link, inbox = self.late, self.link, self.client.inbox
        while late.wait():
            time.sleep(LATE)
            if link.out and time.perf_counter() - self.flushed > FLUSH_AFTER:
                with self.client.lock:
                    link.flush()
            if not inbox:
                late.clear()  # the last call sends its own result

    # -------------------------------------------------------------------- actors

    def construct(self, spec: TaskSpec, feed: list[Value]) -> None:
        """Make the actor that this worker is to host."""
        client, hosting = self.client, self.hosting
        assert hosting is not None
        options = hosting.info.options
        client.actor = hosting.info
        self.gpus = hosting.gpus
        client.gpus = hosting.gpus
        client.reconstructed = hosting.reconstructed
        self.actor_name = options.class_name
        name = f"{options.class_name}.__init__"
        client.current = Running(spec.task, "", None, 0, hosting.gpus)
        started = time.perf_counter()
        try:
            cls = client.target = self.definition(spec.function)
            args, kwargs = fill_call(client.load(spec.args), [client.load(value) for value in feed])
            is_async = has_coroutines(cls)
            if is_async:
                from skate.engines.local.async_host import AsyncHost

                self.host = AsyncHost(self, options)
                self.instance = self.host.construct(cls, args, kwargs)
            else:
                self.instance = cls(*args, **kwargs)
                if options.max_concurrency > 1 or options.groups:
                    from skate.engines.local.threaded_host import ThreadedHost

                    self.host = ThreadedHost(self, options)
        except BaseException as error:  # noqa: BLE001  the constructor is user code
            self.report(spec, error, name, CallOptions(), int((time.perf_counter() - started) * 1e6))
            client.flush()
            return
        finally:
            client.current = IDLE
        now = time.perf_counter()
        client.finished(Done(spec.task, NONE, (), -1 if is_async else int((now - started) * 1e6), now))
        client.flush()
        if is_async:
            self.host.run()

    def method(self, spec: TaskSpec) -> Callable[..., Any]:
        """What a method call runs."""
        name = spec.method
        known = self.methods.get(name)
        if known is not None:
            return known
        if name == "__ray_ready__":
            return lambda: True
        if name == "__ray_terminate__":
            return self._terminate
        if name == "__ray_call__":
            return lambda function, *args, **kwargs: function(self.instance, *args, **kwargs)
        found: Callable[..., Any] = getattr(self.instance, name)
        if inspect.ismethod(found) and found.__self__ is self.instance:
            self.methods[name] = found
        return found

    def _terminate(self) -> NoReturn:
        raise ActorExit

    def run_call(self, spec: TaskSpec, feed: list[Value], calling: Calling | None) -> None:
        """A call of a method of an ordinary actor, on the main thread."""
        client = self.client
        if spec.task in client.cancelled:
            self.refuse(spec)
            return
        options = calling.options if calling is not None else USUAL
        attempt = calling.attempt if calling is not None else 0
        client.current = Running(spec.task, spec.method, options, attempt, self.gpus)
        if client.inbox and self.link.out:
            self._arm_flusher()
        started = self.clock or time.perf_counter()
        try:
            if spec.args == NO_ARGUMENTS:
                value = self.method(spec)()
            else:
                args, kwargs = fill_call(client.load(spec.args), [client.load(value) for value in feed])
                value = self.method(spec)(*args, **kwargs)
                args, kwargs = (), {}
            if spec.returns != 1 or type(value) is GeneratorType:
                value = self.expand(spec, value, self.label(spec), options.backpressure)
            self.clock = now = time.perf_counter()
            self.deliver(spec, value, int((now - started) * 1e6), now)
            del value
        except BaseException as error:  # noqa: BLE001  whatever user code raises is its caller's
            self.clock = now = time.perf_counter()
            self.report(spec, error, options.name or self.label(spec), options, int((now - started) * 1e6))
        client.current = IDLE
        if not client.inbox or now - self.flushed > FLUSH_AFTER or len(self.link.out) > 64:
            client.flush()
            self.flushed = now
            self.clock = 0.0

    # ------------------------------------------------------------------- signals

    def on_interrupt(self, _: int, frame: FrameType | None) -> None:
        """A poke: somebody may have cancelled the task that runs, or wants back what waits behind it."""
        client, turns = self.client, self.client.turns
        readable = select.poll()
        readable.register(self.link.read_fd, select.POLLIN)
        if readable.poll(0):
            # Not in the middle of a message, or while another thread reads: again in a moment.
            if client.reading or client.writing or client.lock.locked() or not turns.lead.acquire(False):
                self._poke_again()
                return
            try:
                while readable.poll(0):
                    client.dispatch(self.link.read())
            finally:
                turns.lead.release()
        if self.link.out and client.lock.acquire(False):  # held: the thread that has it is about to flush anyway
            try:
                self.link.flush()
            finally:
                client.lock.release()
        if client.interruptible and client.current.task in client.cancelled and at_work(frame):
            self._poke_again()  # not in the middle of a message or a count
        else:
            client.heed_cancel()

    def disown(self) -> None:
        """In a process that the user's code forked: the link is the parent's, and so are its locks."""
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (self.link.read_fd, self.link.write_fd):
            os.dup2(null, fd)
        os.close(null)
        self.link.out.clear()
        self.client.lock = threading.Lock()
        self.client.turns.lead = threading.Lock()

    def _poke_again(self) -> None:
        threading.Timer(0.002, signal.pthread_kill, (self.client.main, POKE)).start()


def has_coroutines(cls: type) -> bool:
    """Whether a class has a method that makes it an async actor."""
    for name in dir(cls):
        member = inspect.getattr_static(cls, name, None)
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        if inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member):
            return True
    return False
