"""A session over the standard streams of a process: one message a line."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import logging
import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple

from skate.serve.mcp import messages
from skate.serve.mcp.calls import Calls, Relay
from skate.serve.mcp.guardian import GUARDIAN
from skate.serve.mcp.messages import SERVER_DOWN, TIMED_OUT, Failure, Json, Notification, Result, RpcError
from skate.serve.mcp.peers import Client, Server, shake_hands

logger = logging.getLogger("skate.serve.mcp")

LINE = 16 << 20
"""Bytes that a line may have."""
UNREAD = 64 << 20
"""Bytes that wait for a process which does not read; then calls are refused."""
POLITE = 2.0
"""Seconds that a process has to end after its input was closed, and again after SIGTERM."""

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


class Command(NamedTuple):
    """How a server is started.

    Args:
        argv: the program and its arguments.
        env: variables beside those of this process.
        cwd: where it runs.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str | None = None

    @classmethod
    def of(cls, argv: Sequence[str], env: dict[str, str] | None = None, cwd: str | None = None) -> Command:
        """TypeError for a command that is one text: where its words end would be a guess."""
        if isinstance(argv, str) or not argv or not all(isinstance(word, str) for word in argv):
            raise TypeError(f"command must be a list of texts, such as ['python', 'server.py'], not {argv!r}")
        return cls(tuple(argv), dict(env or {}), cwd)


class LineReader:
    """Puts lines together from chunks. Of a line that is longer than `limit` its first bytes are given, marked."""

    KEPT = 4096

    def __init__(self, limit: int = LINE) -> None:
        self.limit = limit
        self._rest = bytearray()
        self._too_long = False

    def feed(self, chunk: bytes) -> list[tuple[bytes, bool]]:
        """The lines that this chunk completes, each with whether it was too long (and is cut)."""
        *ends, rest = chunk.split(b"\n")
        lines = []
        for end in ends:
            self._add(end)
            lines.append((bytes(self._rest), self._too_long))
            self._rest.clear()
            self._too_long = False
        self._add(rest)
        return [line for line in lines if line[0].strip()]

    def _add(self, part: bytes) -> None:
        if self._too_long:
            return
        self._rest += part
        if len(self._rest) > self.limit:
            del self._rest[self.KEPT :]
            self._too_long = True


class StdioPeer:
    """A process, and the session with it.

    Args:
        command: what to start.
        client: who asks.
        stray: takes what belongs to no call.
        ended: called once when the process has ended, with how, and with what it wrote last to standard error.
        timeout: seconds that a call may take.
        start: seconds that beginning a session may take.
    """

    server: Server

    def __init__(
        self,
        command: Command,
        client: Client,
        stray: Relay,
        ended: Callable[[str, str], None],
        *,
        timeout: float,
        start: float = 30.0,
    ) -> None:
        self._command = command
        self._client = client
        self._ended = ended
        self._timeout = timeout
        self._start = start
        self._calls = Calls(stray)
        self._process: subprocess.Popen[bytes] | None = None
        self._input: asyncio.WriteTransport | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self._loose: list[IO[bytes]] = []
        """Streams of the process that are not connected with the loop yet."""
        self._watch = -1
        """A descriptor that is readable once the process has ended."""
        self._exited = asyncio.Event()
        self._closing = False
        self._garbage = 0
        self._last_words: deque[str] = deque(maxlen=20)

    @property
    def alive(self) -> bool:
        return self._process is not None and not self._closing and not self._exited.is_set()

    @property
    def hears(self) -> bool:
        return True

    @property
    def busy(self) -> bool:
        return len(self._calls) > 0

    @property
    def pid(self) -> int | None:
        """The process, as long as it runs."""
        return self._process.pid if self._process is not None and not self._exited.is_set() else None

    async def begin(self) -> None:
        """Start the process and the session with it.

        Raises:
            RpcError: it cannot be started (SERVER_DOWN), ends at once, or does not answer as it must.
        """
        environment = {**os.environ, **self._command.env}
        try:
            self._process = subprocess.Popen(
                self._command.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._command.cwd,
                env=environment,
                bufsize=0,
                start_new_session=True,  # its own children end with it, and Ctrl-C is not for them
                preexec_fn=_end_with_parent,
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise RpcError(SERVER_DOWN, f"{self._command.argv[0]} cannot be started: {error}") from error
        GUARDIAN.add(self._process.pid)
        try:
            await self._attach(self._process)
            self.server = await shake_hands(self.request, self._client)
            await self.send(Notification("notifications/initialized"))
        except BaseException:
            await self.close()
            raise

    async def _attach(self, process: subprocess.Popen[bytes]) -> None:
        """Watch the process, and connect its streams with the loop."""
        loop = asyncio.get_running_loop()
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self._loose = [process.stdin, process.stdout, process.stderr]
        # It needs no signal handler, so any thread's loop will do.
        self._watch = os.pidfd_open(process.pid)
        loop.add_reader(self._watch, self._exits)
        self._input, _ = await loop.connect_write_pipe(_Writer, self._loose.pop(0))
        self._keep(self._input)
        for take in (self._line, self._word):
            transport, _ = await loop.connect_read_pipe(functools.partial(_Reader, take), self._loose.pop(0))
            self._keep(transport)

    def _keep(self, transport: asyncio.BaseTransport) -> None:
        """One more stream is connected. RpcError if the process has ended meanwhile: its streams are closed by then."""
        self._transports.append(transport)
        if self._exited.is_set():
            transport.close()
            raise RpcError(SERVER_DOWN, f"the server's process ended {self._how()}")

    def _how(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"

    def _line(self, line: bytes, too_long: bool) -> None:
        if too_long:
            self._overlong(line)
            return
        try:
            message = messages.unpack(line)
        except RpcError:
            self._garbage += 1
            if self._garbage in (1, 10, 100, 1000) or self._garbage % 10_000 == 0:
                logger.warning(
                    "%s writes to its standard output what is no message (%d lines so far): %.200r",
                    self._command.argv[0],
                    self._garbage,
                    line,
                )
            return
        self._calls.take(message)

    def _overlong(self, start: bytes) -> None:
        """An answer is lost: whose was it? Servers write the id near the beginning."""
        error = RpcError(SERVER_DOWN, f"the server's answer has more than {LINE} bytes")
        found = re.match(rb'\s*\{[^{}\[\]]*?"id"\s*:\s*(\d{1,18})\s*,', start)
        if found is None or not self._calls.fail_one(int(found[1]), error):
            self._calls.fail(error)

    def _word(self, line: bytes, too_long: bool) -> None:
        shown = line[:2000].decode(errors="replace")
        self._last_words.append(shown)
        logger.info("%s: %s", self._command.argv[0], shown)

    def _exits(self) -> None:
        """The process has ended. What it wrote last is still in the pipe: that is read first."""
        self._unwatch()
        asyncio.get_running_loop().call_later(0.05, self._has_ended)

    def _has_ended(self) -> None:
        if self._process is None or self._exited.is_set():
            return
        _signal_group(self._process, signal.SIGKILL)  # children that it left behind
        how = self._how()
        GUARDIAN.remove(self._process.pid)
        self._exited.set()
        self._unwatch()
        for transport in self._transports:
            transport.close()
        for stream in self._loose:
            stream.close()
        words = " | ".join(list(self._last_words)[-3:])[-500:]
        self._calls.fail(RpcError(SERVER_DOWN, f"the server's process ended {how}", words=words))
        if not self._closing:
            self._ended(f"its process ended {how}", words)

    def _unwatch(self) -> None:
        watch, self._watch = self._watch, -1
        if watch >= 0:
            asyncio.get_running_loop().remove_reader(watch)
            os.close(watch)

    async def request(self, method: str, params: Json, relay: Relay | None = None) -> Json:
        call, line = self._calls.begin(method, params, relay)
        timeout = self._start if method == "initialize" else self._timeout
        try:
            self._write(line)
            async with asyncio.timeout(timeout):
                return await call.answer
        except TimeoutError:
            self._write_if_possible(self._calls.cancelled(call, "timed out"))
            raise RpcError(TIMED_OUT, f"no answer to {method} in {timeout:g} s") from None
        except asyncio.CancelledError:
            self._write_if_possible(self._calls.cancelled(call, "the client cancelled"))
            raise
        finally:
            self._calls.end(call)

    async def send(self, message: Notification | Result | Failure) -> None:
        self._write_if_possible(message.pack())

    def _write(self, line: bytes) -> None:
        if self._input is None or self._input.is_closing() or self._closing or self._exited.is_set():
            raise RpcError(SERVER_DOWN, "the server's process has ended")
        if self._input.get_write_buffer_size() > UNREAD:
            raise RpcError(SERVER_DOWN, "the server's process does not read what it is sent")
        self._input.write(line + b"\n")

    def _write_if_possible(self, line: bytes) -> None:
        with contextlib.suppress(RpcError):
            self._write(line)

    def kill(self) -> None:
        """End the process at once, without an event loop to wait in."""
        if self._process is not None and self._process.poll() is None:
            self._closing = True
            _signal_group(self._process, signal.SIGKILL)
            self._process.wait()
            GUARDIAN.remove(self._process.pid)

    async def close(self) -> None:
        self._closing = True
        self._calls.fail(RpcError(SERVER_DOWN, "the server's process is being ended"))
        process = self._process
        if process is None:
            return
        if self._input is not None:
            self._input.abort() if self._input.get_write_buffer_size() else self._input.close()
        try:
            for number in (None, signal.SIGTERM):
                if number is not None:
                    _signal_group(process, number)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._exited.wait(), POLITE)
                    break
        finally:  # also for one that is cancelled while it waits: then there is no time for politeness
            _signal_group(process, signal.SIGKILL)
            self._has_ended()


class _Reader(asyncio.Protocol):
    """Lines of a pipe, as they come."""

    def __init__(self, take: Callable[[bytes, bool], None]) -> None:
        self._take = take
        self._lines = LineReader()

    def data_received(self, data: bytes) -> None:
        for line, too_long in self._lines.feed(data):
            self._take(line, too_long)


class _Writer(asyncio.BaseProtocol):
    """A pipe whose other end may go away: its process is watched, so nothing is to be done here."""


def _end_with_parent() -> None:
    """In the child: end when the process that started it does, however that happens."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
