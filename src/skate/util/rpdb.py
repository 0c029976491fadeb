"""Breakpoints of workers: setting one, and attaching to those that wait. `skate debug` is made of this.

``set_trace`` is Ray's; `breakpoint()` does the same.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from skate.core.debug_wire import NAME, Lines, Stop
from skate.core.folder import living, root
from skate.core.sockets import knock, peer

__all__ = ["Attached", "Stop", "attach", "set_trace", "waiting"]

PATIENCE = 2.0
"""Seconds within which a breakpoint that waits has answered who would attach."""
GLANCE = 0.5
"""The same, for who only looks: one that runs does not answer."""


def set_trace(breakpoint_uuid: Any = None) -> None:
    """Stop here: in a worker until `skate debug` lets it go on, elsewhere in pdb.

    `breakpoint_uuid` is Ray's and has no effect.
    """
    if sys.breakpointhook is not sys.__breakpointhook__ or os.environ.get("PYTHONBREAKPOINT"):
        breakpoint()
        return
    import pdb

    pdb.Pdb().set_trace(sys._getframe().f_back)


def waiting(folder: str | None = None) -> list[Stop]:
    """The breakpoints of this user's sessions, those that came first at the front.

    Args:
        folder: where the sessions' folders are; by default the system's place for temporary files, and /tmp.
    """
    return [stop for _, stop in _doors(folder)]


def attach(stop: Stop, folder: str | None = None) -> Attached:
    """Take a breakpoint over.

    Raises ConnectionError when it waits no more, or somebody else has it.
    """
    for parent, there in _doors(folder):
        if there.id == stop.id:
            return Attached(_open(parent, NAME + stop.id, PATIENCE), stop)
    raise ConnectionError(f"{stop.task} (pid {stop.pid}) waits no more")


class Attached:
    """A breakpoint that is ours: `listen` and `say` talk to its pdb; `read` and `send` move single messages.

    Those are as in `skate.core.debug_wire`.
    """

    def __init__(self, lines: Lines, stop: Stop) -> None:
        self.lines = lines
        self.ended = ""
        """Why nothing follows; empty while something does."""
        pid, _ = peer(lines.socket)
        self._process = os.pidfd_open(pid)
        try:
            lines.send("do", "attach")
            self._early = self._first(stop)
        except OSError:
            self.close()
            raise
        lines.socket.settimeout(None)

    def _first(self, stop: Stop) -> list[tuple[str, Any]]:
        messages: list[tuple[str, Any]] | None = []
        try:
            while messages == []:
                messages = self.lines.read()
        except TimeoutError:
            raise ConnectionError(f"{stop.task} (pid {stop.pid}) does not answer: it runs, or is stopped") from None
        if messages is None:
            raise ConnectionError(f"{stop.task} (pid {stop.pid}) waits no more")
        kind, what = messages[0]
        if kind == "refused":
            raise ConnectionError(f"{stop.task} (pid {stop.pid}): {what}")
        self.stop = Stop(**what)
        return messages[1:]

    def read(self) -> list[tuple[str, Any]] | None:
        """Wait for messages; None when the worker has gone without a word."""
        early, self._early = self._early, []
        return early or self.lines.read()

    def send(self, kind: str, what: Any) -> None:
        """Send one message; OSError when the worker is gone."""
        self.lines.send(kind, what)

    def listen(self) -> str:
        """What is shown up to the next prompt, or the end, of which `ended` then tells."""
        shown = ""
        while True:
            messages = self.read()
            if messages is None:
                messages = [("end", "The worker is gone.")]
            for number, (kind, what) in enumerate(messages):
                if kind == "out":
                    shown += what
                elif kind == "prompt":
                    self._early = messages[number + 1 :]
                    return shown
                elif kind == "end":
                    self.ended = what
                    return shown

    def say(self, line: str) -> str:
        """Type a line at the prompt, and listen. OSError when the worker is gone."""
        self.send("line", line)
        return self.listen()

    def interrupt(self) -> bool:
        """Have the program stop where it runs; False when this one cannot be interrupted."""
        if self.stop.can_interrupt:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGINT)
        return self.stop.can_interrupt

    def close(self) -> None:
        """Leave; the breakpoint waits on, or the program runs on. Harmless the second time."""
        if self._process >= 0:
            os.close(self._process)
            self._process = -1
        with contextlib.suppress(OSError):
            self.lines.socket.shutdown(socket.SHUT_RDWR)  # a thread may be reading, which would keep it open
        self.lines.close()


def _open(folder: str, name: str, patience: float) -> Lines:
    connection = knock(folder, name, patience)
    _, user = peer(connection)
    if user != os.getuid():
        connection.close()
        raise ConnectionError(f"{name} is held by user {user}")
    return Lines(connection)


def _doors(folder: str | None) -> list[tuple[str, Stop]]:
    """The session's folder of each breakpoint, and what it says of itself."""
    parents: Sequence[str] = (folder,) if folder else dict.fromkeys((root(), "/tmp"))  # type: ignore[assignment]
    found = []
    for parent in parents:
        for session in living(parent):
            for name in _names(session):
                stop = _ask(session, name)
                if stop is not None:
                    found.append((session, stop))
    return sorted(found, key=lambda door: door[1].since)


def _names(session: str) -> list[str]:
    try:
        return [name for name in os.listdir(session) if name.startswith(NAME)]
    except OSError:
        return []  # it ends at this moment


def _ask(session: str, name: str) -> Stop | None:
    """What a breakpoint is; None when its worker is gone."""
    try:
        lines = _open(session, name, GLANCE)
    except ConnectionRefusedError:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(session, name))  # its worker was killed
        return None
    except OSError:
        return None
    try:
        lines.send("do", "look")
        messages = lines.read()
    except TimeoutError:
        number = name.removeprefix(NAME)
        pid = int(number.partition("-")[0])
        return Stop(number, "breakpoint", "?", pid, "?", 0, "?", 0.0, "runs")
    except OSError:
        return None
    finally:
        lines.close()
    return Stop(**messages[0][1]) if messages and messages[0][0] == "is" else None
