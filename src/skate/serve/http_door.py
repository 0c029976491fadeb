"""The proxy's listening socket: accepting connections, as many as there may be."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from skate.serve.connections import raise_limit
from skate.serve.http_sockets import bind, last_words

if TYPE_CHECKING:
    from skate.serve.http_clients import Backend

log = logging.getLogger("skate.serve")

RESERVED = 64
"""Descriptors that are kept for other things than connections."""
ACCEPTS = 128
"""Connections accepted in a row before the loop looks at anything else."""
PAUSE = 0.2
"""Seconds without accepting when the system has no room for more."""


class Door:
    """See the module.

    Args:
        here: how many connections there are.
        enter: called with each new connection and the time.
    """

    def __init__(self, here: Callable[[], int], enter: Callable[[socket.socket, float], None]) -> None:
        self.here = here
        self.enter = enter
        self.loop = asyncio.get_running_loop()
        self.listener: socket.socket | None = None
        most = raise_limit()
        self.limit = max(most - most // 8 - RESERVED, 16)
        """Connections at most; one that the proxy serves itself takes a descriptor more."""
        self.accepted = 0
        self._paused: asyncio.TimerHandle | None = None

    def listen(self, host: str, port: int, backends: Iterable[Backend]) -> tuple[str, int]:
        """Listen at an address; the one it became. OSError names it when it is taken."""
        kept = _kept(port, backends)
        self.listener = kept if kept is not None else bind(host, port)
        self.listener.setblocking(False)
        self.loop.add_reader(self.listener.fileno(), self._accept)
        found: tuple[str, int] = self.listener.getsockname()[:2]
        return found

    def _accept(self) -> None:
        listener = self.listener
        assert listener is not None
        now = time.monotonic()
        for _ in range(ACCEPTS):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    self._pause(f"no more connections are accepted for a moment: {error}")
                    return
                raise
            self.accepted += 1
            if self.here() >= self.limit:
                last_words(connection, 503, "too many connections")
                connection.close()
                continue
            connection.setblocking(False)
            self.enter(connection, now)

    def _pause(self, why: str) -> None:
        """Stop accepting for a moment."""
        log.warning("%s", why)
        assert self.listener is not None
        self.loop.remove_reader(self.listener.fileno())
        self._paused = self.loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = None
        if self.listener is not None:
            self.loop.add_reader(self.listener.fileno(), self._accept)

    def close(self) -> None:
        """Listen no longer."""
        if self._paused is not None:
            self._paused.cancel()
        if self.listener is not None:
            self.loop.remove_reader(self.listener.fileno())
            self.listener.close()
            self.listener = None


def _kept(port: int, backends: Iterable[Backend]) -> socket.socket | None:
    """The socket of the proxy before this one, if a replica has it."""
    found: socket.socket | None = None
    for backend in backends:
        fd, backend.kept = backend.kept, -1
        if fd < 0:
            continue
        if found is None:
            found = socket.socket(fileno=fd)
            if port and found.getsockname()[1] != port:
                found.close()
                found = None
        else:
            os.close(fd)
    return found
