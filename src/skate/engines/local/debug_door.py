"""Where a breakpoint waits: its socket, whoever comes to it, and the text that goes to and fro.

One thread does everything, the one that has stopped. While it waits it also reads the worker's link, if that is its
task otherwise: so a cancel is heard, calls not begun are given back, and results that were ready go out.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from skate.core.debug_wire import LONGEST, NAME, Lines, Stop
from skate.core.sockets import listening, peer
from skate.engines.local.breakpoints import name_of_call, say
from skate.engines.local.worker_client import WorkerClient

LOOK_EVERY = 500
"""Milliseconds between two looks whether the task was cancelled; most cancels are heard at once."""
SEND_PATIENCE = 5.0
"""Seconds after which somebody who does not read what is sent to him is given up."""
VISITORS = 16
BACKLOG = 128
"""Visitors that may wait to be heard."""


class Cancelled(BaseException):
    """The call that has stopped was cancelled: it is not to wait on."""


class Door(io.TextIOBase):
    """A listening socket that is a text stream for pdb: what is written there goes to whoever is attached.

    Args:
        client: the worker's engine.
        number: of this stop in this process.
        describe: where the program is.
        screen: what somebody who comes later is to see first.
        complete: completions of a text, given the line and the places where the text begins and ends.
    """

    def __init__(
        self,
        client: WorkerClient,
        number: int,
        describe: Callable[[], Stop],
        screen: Callable[[], str],
        complete: Callable[[str, str, int, int], list[str]],
    ) -> None:
        self.client = client
        self.describe = describe
        self.screen = screen
        self.complete = complete
        self.task, _ = name_of_call(client)
        self.folder = client.welcome.session_folder
        self.name = f"{NAME}{os.getpid()}-{number}"
        self.socket = listening(self.folder, self.name, BACKLOG)
        self.visitors: dict[int, Lines] = {}
        self.attached: Lines | None = None
        self.attached_pid = 0
        self.written: list[str] = []
        """Written and not sent: what follows the last end of a line is a prompt."""
        self.prompt = ""
        self.typed: list[str] = []
        """Lines that came and were not asked for yet."""
        self.asking = False
        self.watch = select.poll()
        self.watch.register(self.socket, select.POLLIN)
        self.on_attach: Callable[[], None] = lambda: None
        self.link = -1
        """The descriptor of the worker's link, where it is ours to read."""

    # --------------------------------------------------------- a stream, for pdb

    def writable(self) -> bool:
        """As any stream."""
        return True

    def write(self, text: str) -> int:
        """Keep it until the next line is asked for, or the program goes on."""
        self.written.append(text)
        return len(text)

    def flush(self) -> None:
        """Nothing: what is written may turn out to be a prompt."""

    def readline(self, size: int | None = -1) -> str:  # type: ignore[override]
        """The next line that somebody types, however long that takes.

        Raises Cancelled when the call was cancelled.
        """
        text = "".join(self.written)
        self.written.clear()
        shown, newline, self.prompt = text.rpartition("\n")
        unseen = shown + newline
        if self.attached is not None:
            self._send("out", unseen)
            self._send("prompt", self.prompt)
            unseen = ""
        self.asking = True
        self._serve_link()
        try:
            while not self.typed:
                if self._is_cancelled():
                    raise Cancelled
                attached = self.attached
                for fd in self._ready():
                    self._heed(fd)
                if self.attached is not attached and self.attached is not None:
                    self._send("out", unseen or self.screen())
                    self._send("prompt", self.prompt)
                    unseen = ""
            return self.typed.pop(0) + "\n"
        finally:
            self.asking = False

    # -------------------------------------------------------------------- waiting

    def _ready(self) -> list[int]:
        try:
            return [fd for fd, _ in self._wait()]
        except KeyboardInterrupt:
            if self._is_cancelled():
                raise Cancelled from None
            raise

    def _wait(self) -> list[tuple[int, int]]:
        """Sleep. `interrupts.at_work` knows this function: nothing is half done in it."""
        return self.watch.poll(LOOK_EVERY)

    def _is_cancelled(self) -> bool:
        return self.task in self.client.cancelled

    def _serve_link(self) -> None:
        """Before a wait: send the results there are; and read the link from now on, if nobody else would."""
        client = self.client
        if not client.lock.acquire(timeout=0.1):
            return  # this breakpoint is in the middle of what our own code does: leave the link alone
        client.lock.release()
        client.flush()
        if self.link < 0 and threading.get_ident() == client.main:
            self.link = client.link.read_fd
            self.watch.register(self.link, select.POLLIN)

    def _heed(self, fd: int) -> None:
        if fd == self.socket.fileno():
            self._answer_the_door()
        elif fd == self.link:
            self._read_link()
        elif fd in self.visitors:
            self._hear_visitor(fd, self.visitors[fd])
        elif self.attached is not None and fd == self.attached.socket.fileno():
            self._hear(self.attached)

    def _read_link(self) -> None:
        if self.client.turns.lead.locked():
            time.sleep(0.02)  # another thread reads it
            return
        try:
            self.client.readable()
        except (EOFError, OSError):
            os._exit(0)  # the hub is gone

    def _answer_the_door(self) -> None:
        connection, _ = self.socket.accept()
        connection.settimeout(SEND_PATIENCE)
        lines = Lines(connection, LONGEST)
        pid, user = peer(connection)
        if user != os.geteuid():
            say(f"a connection to {self.name} was refused: it came from process {pid} of user {user}")
            with contextlib.suppress(OSError):
                lines.send("refused", "this breakpoint belongs to another user")
            lines.close()
            return
        if len(self.visitors) >= VISITORS:
            self._forget(next(iter(self.visitors)))
        self.visitors[connection.fileno()] = lines
        self.watch.register(connection, select.POLLIN)

    def _forget(self, fd: int) -> Lines:
        self.watch.unregister(fd)
        lines = self.visitors.pop(fd)
        lines.close()
        return lines

    def _hear_visitor(self, fd: int, lines: Lines) -> None:
        messages = lines.read()
        if messages == []:
            return
        wish = messages[0] if messages else None
        with contextlib.suppress(OSError):  # gone before it got its answer
            if wish == ("do", "look"):
                lines.send("is", self._state()._asdict())
            elif wish == ("do", "attach"):
                if self.attached is None:
                    self._attach(fd, lines)
                    return
                lines.send("refused", f"process {self.attached_pid} is attached to it")
        self._forget(fd)

    def _state(self) -> Stop:
        stop = self.describe()
        return stop._replace(state="attached") if self.attached is not None else stop

    def _attach(self, fd: int, lines: Lines) -> None:
        lines.send("is", self._state()._asdict())
        del self.visitors[fd]
        self.attached = lines
        self.attached_pid, _ = peer(lines.socket)
        self.on_attach()

    def _hear(self, lines: Lines) -> None:
        messages = lines.read()
        if messages is None:
            self._left()
            return
        for kind, what in messages:
            match kind, what:
                case "line", str():
                    self.typed.append(what)
                case "complete", [str(text), str(line), int(begin), int(end)]:
                    self._send("completions", self.complete(text, line, begin, end))
                case _:
                    self._left()
                    return

    def _left(self) -> None:
        """Whoever was attached has gone, or makes no sense: wait for the next."""
        if self.attached is None:
            return
        self.watch.unregister(self.attached.socket)
        self.attached.close()
        self.attached = None
        self.typed.clear()
        if self.asking:
            announce(self.describe(), self.folder, "waits on")

    def _send(self, kind: str, what: Any) -> None:
        if self.attached is None or (kind == "out" and not what):
            return
        try:
            self.attached.send(kind, what)
        except OSError:
            self._left()

    def end(self, text: str) -> None:
        """Say goodbye to everybody, and take the socket away."""
        self._send("out", "".join(self.written))
        self.written.clear()
        self._send("end", text)
        self.asking = False
        self._left()
        for fd in list(self.visitors):
            self._forget(fd)
        self.socket.close()
        with contextlib.suppress(OSError):  # the session's folder is gone
            os.unlink(os.path.join(self.folder, self.name))


def announce(stop: Stop, folder: str, verb: str) -> None:
    """Tell the user that somebody waits for him, and what to do."""
    parent = os.path.dirname(folder)
    where = "" if parent == "/tmp" else f" --folder {parent}"
    say(
        f"{stop.task} (pid {stop.pid}) {verb} at {stop.file}:{stop.line}, in {stop.function}: "
        f"in another terminal, run `skate debug{where}`"
    )
