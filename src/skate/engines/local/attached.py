"""The engine of a driver whose hub lives in another process, reached by the door of that session.

It says what a worker says, over a socket in place of pipes, and waits as the driver of a session of its own does: a
thread that waits does the I/O itself, and a background thread only when none has for a moment.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from skate import exceptions
from skate._version import __version__
from skate.core import ids
from skate.core.engine import Context, Ready
from skate.core.refs import ObjectRef
from skate.core.settings import Settings
from skate.core.spec import ActorInfo, ActorOptions, CallOptions, TaskOptions
from skate.engines.local.arena import Mapping
from skate.engines.local.boot import search_path
from skate.engines.local.dial import ANSWER_WITHIN, call
from skate.engines.local.door import python_version
from skate.engines.local.errors import packed
from skate.engines.local.host import working_folder
from skate.engines.local.jobs import SUBMISSION, entrypoint
from skate.engines.local.link import BrokenFrame, Frames, Link, framed
from skate.engines.local.messages import (
    Accepted,
    Attach,
    Call,
    Outcome,
    Printed,
    Put,
    Refused,
    Submit,
    TaskSpec,
    Value,
    Values,
    to_worker,
)
from skate.engines.local.pump import Pump
from skate.engines.local.rows import FAILED
from skate.engines.local.worker_client import WorkerClient

if TYPE_CHECKING:
    import asyncio

APART = 0.0002
"""Seconds after a message in which others wait for company."""
TOGETHER = 64
"""Messages that go at once."""
BACKLOG = 64 << 20
"""Bytes not yet taken by the hub above which who adds to them waits."""
Options = TypeVar("Options", TaskOptions, ActorOptions)
Attached = TypeVar("Attached", bound="AttachedEngine")


def introduce(connection: socket.socket, asked: Attach) -> tuple[Accepted, int]:
    """Say what is wanted; the answer, with the descriptor of the shared memory. ConnectionError: not let in."""
    connection.settimeout(ANSWER_WITHIN)
    frames = Frames(to_worker.decode)
    fds: list[int] = []
    messages: list[Any] = []
    try:
        with contextlib.suppress(BrokenPipeError):  # it may have said why already
            connection.sendall(b"".join(framed([asked])))
        while not messages:
            data, received, _, _ = socket.recv_fds(connection, 65_536, 1)
            fds += received
            if not data:
                raise ConnectionError("The session ended, or let nobody in.")
            messages = frames.feed(data)
    except TimeoutError:
        why = f"The session does not answer: its process has been busy for {ANSWER_WITHIN:g} seconds, or is stopped."
        raise ConnectionError(why) from None
    except ConnectionResetError:
        raise ConnectionError("The session ended while it was called.") from None
    except BrokenFrame as problem:
        raise ConnectionError(f"What listens there is no session of Skate: {problem}") from None
    answer = messages[0]
    if isinstance(answer, Refused):
        raise ConnectionError(f"The session lets this program not in: {answer.why}.")
    if not isinstance(answer, Accepted) or len(fds) != 1:
        raise ConnectionError("What listens there is no session of Skate.")
    return answer, fds[0]


class Line(Link):
    """The driver's end of its connection."""

    __slots__ = ("full",)

    full: Callable[[], None]
    """Called when the socket takes no more."""

    def flush(self) -> bool:
        """Write what there is to write."""
        done = Link.flush(self)
        if not done:
            self.full()
        return done


class Waits:
    """The driver's `Turns`, for those who wait for the hub: its end ends the wait."""

    def __init__(self, engine: AttachedEngine) -> None:
        self.engine = engine
        self.lead = engine.pump.turns.lead

    def until(self, arrived: Callable[[], object], deadline: float | None = None) -> bool:
        """As `Turns.until`; RaySystemError when the hub is gone."""
        engine = self.engine
        done = engine.pump.turns.until(lambda: arrived() or engine.lost, deadline)
        if engine.lost and not arrived():
            raise exceptions.RaySystemError(engine.lost)
        return done


class AttachedEngine(WorkerClient):
    """A driver's engine over a connection."""

    def __init__(self, settings: Settings, connection: socket.socket, accepted: Accepted, arena_fd: int) -> None:
        connection.setblocking(False)
        self.connection = connection
        # A second descriptor for writing: an epoll takes each once.
        link = Line(connection.fileno(), os.dup(connection.fileno()), to_worker.decode, [])
        link.full = self._full
        super().__init__(link, accepted.welcome, lambda: Mapping(arena_fd, accepted.capacity))  # type: ignore[arg-type]
        self.line = link
        self.arena_fd = arena_fd
        self.settings = settings
        self.address = f"unix:{self.folder}"
        self.own_salt = ids.salt()
        welcome = accepted.welcome
        ids.use_salt(welcome.salt)
        worker = ids.worker_hex(welcome.client)
        self.here = Context(settings.namespace, welcome.node, worker, environment=settings.environment, job=welcome.job)
        self.lost = ""
        """Why there is no hub any more."""
        self.closed = False
        self.pushed = 0.0
        self.inherited: dict[int, tuple[Any, Any]] = {}
        self.on_inbox = _nothing
        self.ready: queue.SimpleQueue[Ready | None] = queue.SimpleQueue()
        self.caller: threading.Thread | None = None
        self.pump = Pump(threading.Lock(), self._before, _nothing)
        self.turns = Waits(self)  # type: ignore[assignment]
        self.pump.watch(link.read_fd, self._hear)
        self.pump.thread.start()

    # ----------------------------------------------------------------------- I/O

    def _before(self) -> None:
        self.flush()

    def _hear(self, _: int) -> None:
        try:
            messages = self.line.read()
        except BrokenFrame as problem:
            self._lose(f"The hub sent what is no message: {problem}")
            return
        if messages is None:
            self._lose("The session has ended: its hub is gone.")
        elif messages:
            self.dispatch(messages)

    def dispatch(self, messages: list[Any]) -> None:
        """Act on what the hub sent."""
        if any(type(message) is Printed for message in messages):
            _show([message for message in messages if type(message) is Printed])
            messages = [message for message in messages if type(message) is not Printed]
        super().dispatch(messages)

    def _lose(self, why: str) -> None:
        """There is no hub any more: nobody waits for it."""
        self.pump.unwatch(self.line.read_fd)
        self.lost = self.lost or why
        error = packed(exceptions.RaySystemError(self.lost))
        for request in list(self.callbacks):
            callback = self.callbacks.pop(request, None)
            if callback is not None:
                callback(Values(request, [Outcome(FAILED, error)]))

    def _full(self) -> None:
        """The socket takes no more: go on when it does."""
        fd = self.line.write_fd
        if fd not in self.pump.handlers:
            self.pump.resume_later(self.line)
            self.pump.handlers[fd] = self._go_on

    def _go_on(self, _: int) -> None:
        with self.lock:
            self.pump.unwatch(self.line.write_fd)
            self.line.flush()

    def _push(self) -> None:
        """Something was made: what comes alone goes at once, what comes in a row goes together. `lock` is held."""
        if self.lost:
            self.line.out.clear()
            raise exceptions.RaySystemError(self.lost)
        now = time.perf_counter()
        if now - self.pushed > APART or len(self.line.out) >= TOGETHER:
            self.pushed = now
            self.line.flush()

    def _look(self) -> None:
        if self.pump.interrupts.waiting_since is not None:
            self.pump.interrupts.deliver()
        if self.line.unsent and sum(map(len, self.line.unsent)) > BACKLOG:
            self.turns.until(lambda: not self.line.unsent)
        if self.line.out and self.pump.asleep:
            self.pump.nudge()

    # ------------------------------------------------------------------- posting

    def _inherit(self, options: Options) -> Options:
        known = self.inherited.get(id(options))
        if known is not None and known[0] is options:
            made: Options = known[1]
            return made
        made = super()._inherit(options)
        if len(self.inherited) > 4096:
            self.inherited.clear()
        self.inherited[id(options)] = (options, made)
        return made

    def _post_task(self, spec: TaskSpec, options: TaskOptions) -> None:
        self._count_returns(spec)
        self.sent(spec.args)
        self.line.out.append(Submit(spec, self._inherit(options), 0))
        self._push()

    def _post_call(self, spec: TaskSpec, options: CallOptions) -> None:
        self._count_returns(spec)
        self.sent(spec.args)
        self.line.out.append(Call(spec, options, 0))
        self._push()

    def _post_put(self, key: int, value: Value, inner: tuple[int, ...]) -> None:
        self._settle_often()
        self.counts[key] = 1
        self.sent(value)
        self.line.out.append(Put(key, value, inner))
        self._push()

    def _spawn(self, spec: TaskSpec, info: ActorInfo) -> ActorInfo:
        self._check()
        return super()._spawn(spec, info)

    def _ask(self, verb: str, data: bytes) -> bytes:
        self._check()
        return super()._ask(verb, data)

    def _check(self) -> None:
        if self.lost:
            raise exceptions.RaySystemError(self.lost)

    # ------------------------------------------------------------------- objects

    def on_ready(self, ref: ObjectRef[Any], callback: Ready) -> None:
        """Call back when `ref` is ready, from a thread that does nothing else: the callback may `get`."""
        self._subscribe(ref, False, lambda _: self.ready.put(callback))
        if self.caller is None:
            self.caller = threading.Thread(target=self._call_back, name="skate-caller", daemon=True)
            self.caller.start()
        if self.pump.asleep:
            self.pump.nudge()

    def _call_back(self) -> None:
        while True:
            callback = self.ready.get()
            if callback is None:
                return
            callback()

    def _subscribe(self, ref: ObjectRef[Any], values: bool, callback: Callable[[Values], None]) -> None:
        self._check()
        super()._subscribe(ref, values, callback)

    def asyncio_future(self, ref: ObjectRef[Any]) -> asyncio.Future[Any]:
        """A future of the running loop, which reads the connection itself while it waits."""
        import asyncio

        loop = asyncio.get_running_loop()
        self.pump.join_loop(loop)
        return super().asyncio_future(ref)

    def asyncio_ready(self, ref: ObjectRef[Any]) -> Any:
        """A future of the running loop, which reads the connection itself while it waits."""
        import asyncio

        self.pump.join_loop(asyncio.get_running_loop())
        return super().asyncio_ready(ref)

    # -------------------------------------------------------------------- others

    def context(self) -> Context:
        """The driver's own."""
        return self.here

    def is_cancelled(self) -> bool:
        """A driver is never cancelled."""
        return False

    def close(self) -> None:
        """Leave the session, which goes on; what was this driver's own ends. Arrays that were read stay readable."""
        if self.closed:
            return
        self.closed = True
        if self._mapping is not None and not self.lost:
            self._mapping.keep()
        with contextlib.suppress(exceptions.RaySystemError):
            self.flush()
        self.lost = self.lost or "The session was shut down while this thread waited."
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)  # also where a forked process has inherited the connection
        self.pump.leave_loops()
        self.pump.close()
        if self.caller is not None:
            self.ready.put(None)
            if self.caller is not threading.current_thread():
                self.caller.join()
        os.close(self.line.write_fd)
        self.connection.close()
        os.close(self.arena_fd)
        ids.use_salt(self.own_salt)


def attach(settings: Settings, kind: type[Attached]) -> Attached:
    """Become a driver of the session at `settings.address`. ConnectionError when that cannot be."""
    connection = call(settings.address)
    try:
        asked = Attach(
            __version__,
            python_version(),
            settings.namespace,
            settings.environment,
            search_path(),
            working_folder(),
            settings.log_to_driver,
            entrypoint(),
            not settings.looks_in,
            os.environ.get(SUBMISSION, ""),
        )
        accepted, arena_fd = introduce(connection, asked)
    except BaseException:
        connection.close()
        raise
    return kind(settings, connection, accepted, arena_fd)


def _nothing() -> None:
    return None


def _show(lines: list[Printed]) -> None:
    for printed in lines:
        stream = sys.stderr if printed.to_stderr else sys.stdout
        if stream is None:
            continue
        try:
            try:
                stream.write(printed.text)
            except UnicodeEncodeError as error:
                stream.write(printed.text.encode(error.encoding, "backslashreplace").decode(error.encoding))
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # closed, full, or no real stream: nobody reads any more, and the program goes on
