"""What a waiting breakpoint and `skate debug` say to each other, over a Unix socket in the session's folder.

Each message is a JSON object on a line of its own with one field, its kind. From the one who attaches:

* ``{"do": "look"}`` or ``{"do": "attach"}``: the first, once;
* ``{"line": text}``: what was typed at the prompt; ``{"complete": [text, line, begin, end]}``: how could it go on?

From the breakpoint:

* ``{"is": {...}}``: the fields of `Stop`, the answer to both; ``{"refused": why}``: somebody else is attached;
* ``{"out": text}``: show this; ``{"prompt": text}``: ask for a line; ``{"completions": [...]}``;
* ``{"end": text}``: nothing follows.

Ctrl-C while the program runs is the signal SIGINT: of the two processes only the kernel can interrupt the other.
"""

from __future__ import annotations

import json
import socket
from typing import Any, NamedTuple

NAME = "breakpoint-"
"""What the names of the sockets begin with; the rest is the id of the stop: the worker's pid and a number."""
LONGEST = 1 << 20
"""Bytes of one message that a breakpoint reads: a line that somebody typed, or pasted."""


class Stop(NamedTuple):
    """Where a worker waits, or runs under a debugger."""

    id: str
    kind: str
    """`breakpoint`, or `post-mortem`: after an exception."""
    task: str
    """The name of the task, or Class.method."""
    pid: int
    file: str
    line: int
    function: str
    since: float
    """Seconds since 1970."""
    state: str = "waits"
    """`waits`, `attached` (to somebody), or `runs`: between two stops."""
    can_interrupt: bool = False
    """Whether SIGINT stops it where it is: true on the main thread."""


class Lines:
    """Messages over a connected socket; `longest` is how many bytes one may have, 0: any number."""

    def __init__(self, connection: socket.socket, longest: int = 0) -> None:
        self.socket = connection
        self.longest = longest
        self.rest = bytearray()

    def send(self, kind: str, what: Any) -> None:
        """Send one message; OSError when nobody reads."""
        self.socket.sendall(json.dumps({kind: what}).encode() + b"\n")

    def read(self) -> list[tuple[str, Any]] | None:
        """Read once; the messages that are complete now. None: the other side is gone, or talks nonsense.

        Raises TimeoutError where the socket has a timeout.
        """
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            raise
        except OSError:
            return None
        if not data:
            return None
        self.rest += data
        if b"\n" not in data:
            return None if 0 < self.longest < len(self.rest) else []
        *lines, self.rest = self.rest.split(b"\n")
        found = []
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                return None
            if not isinstance(message, dict) or len(message) != 1:
                return None
            found.append(next(iter(message.items())))
        return found

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
