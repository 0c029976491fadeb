"""Serving HTTP connections in this process: those that the proxy has passed to a replica, or keeps itself.

`Host` runs an ASGI application for connections that are given to it as sockets. It knows nothing of deployments.
Loaded where HTTP is served, for it imports uvicorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any, Protocol

from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.server import ServerState

from skate.serve.connections import IDLE
from skate.serve.http_protocol import Connection


class Serve(Protocol):
    """What serves a request: an ASGI application that also gets the connection."""

    def __call__(self, connection: Connection, scope: Any, receive: Any, send: Any) -> Awaitable[None]: ...


class Host:
    """Connections of this process.

    Args:
        marks: a byte for each slot; see `skate.serve.connections`.
        serve: answers a request.
        left: called as ``left(slot, kept)`` when a connection has left this process.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        marks: Any,
        serve: Serve,
        left: Callable[[int, bool], None],
        *,
        keep_alive_timeout_s: float = 90.0,
        root_path: str = "",
    ) -> None:
        self.loop = loop
        self.marks = marks
        self.serve = serve
        self._left = left
        self.config = Config(
            app=_nowhere, http="httptools",
            ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False,
            server_header=False, root_path=root_path,
        )  # fmt: skip
        self.config.load()
        self.configure(root_path, keep_alive_timeout_s)
        self.forwarded = ProxyHeadersMiddleware(_nowhere, self.config.forwarded_allow_ips)
        """Takes over into a request's scope what a proxy in front tells of the client; where it is trusted, that is, on
        this machine unless FORWARDED_ALLOW_IPS says otherwise."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # we log what is to be logged, with request ids
        self.state = ServerState()
        self.app_state: dict[str, Any] = {}
        self.now = loop.time()
        """The loop's time, as of the last tick."""
        self.date_line = b""
        self.held: dict[int, Connection] = {}
        """Connections by slot."""
        self._settling: list[Connection] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self.draining = False
        self.empty: asyncio.Event | None = None

    def configure(self, root_path: str, keep_alive_timeout_s: float) -> None:
        """Take over options, for connections that come from now on."""
        config: Any = self.config  # its annotations know of no fractions of seconds
        config.root_path, config.timeout_keep_alive = root_path, keep_alive_timeout_s

    def take(self, connection: socket.socket, slot: int, context: ssl.SSLContext | None = None) -> None:
        """Serve a connection, which is taken over. With `context` it is one of TLS."""
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # not every kind of socket has it
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.marks[slot] = IDLE
        if self._ticker is None:
            self._tick()
            self._ticker = self._ticker or self.loop.call_later(0.1, self._tick)
        protocol = Connection(self, connection, slot)
        self.held[slot] = protocol
        task = self.loop.create_task(self._open(protocol, connection, context))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, protocol: Connection, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        try:
            await self.loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=context, ssl_handshake_timeout=10.0 if context else None
            )
        except (OSError, ssl.SSLError):  # the client is gone, or no handshake came about
            connection.close()
            if protocol.slot in self.held and protocol.transport is None:
                self.left(protocol, kept=False)
            return
        if self.draining:
            protocol.give_back()

    def _tick(self) -> None:
        """While there are connections: keep the Date header up to date, close those that were idle for too long."""
        self._ticker = None
        self.now = now = self.loop.time()
        patience: float = self.config.timeout_keep_alive
        date = formatdate(time.time(), usegmt=True).encode()
        self.state.default_headers[:] = [(b"date", date)]
        self.date_line = b"date: %b\r\n" % date
        for connection in list(self.held.values()):
            if now - connection.idle_since > patience and connection.transport is not None and connection.is_idle():
                connection.transport.close()
        if self.held:
            self._ticker = self.loop.call_later(min(1.0, patience / 2 + 0.01), self._tick)

    # ------------------------------------------------------------------ what connections tell

    def settle(self, connection: Connection) -> None:
        """An answer is complete: see in the loop's next turn, when it is written, whether the connection is idle."""
        if not self._settling:
            self.loop.call_soon(self._settle)
        self._settling.append(connection)

    def _settle(self) -> None:
        settling, self._settling = self._settling, []
        for connection in settling:
            connection.settled()

    def left(self, connection: Connection, *, kept: bool) -> None:
        """A connection has left this process."""
        if self.held.get(connection.slot) is connection:
            del self.held[connection.slot]
        self._left(connection.slot, kept)
        if not self.held and self.empty is not None:
            self.empty.set()

    # ------------------------------------------------------------------ giving back

    def shed(self, count: int) -> None:
        """Give back so many connections: those that are idle, and others once they are."""
        for connection in sorted(self.held.values(), key=lambda one: not one.is_idle())[:count]:
            connection.give_back()

    async def drain(self, timeout_s: float) -> None:
        """Give back all connections; those in a request after it, WebSockets and what is late are closed in the end."""
        self.draining = True
        for connection in list(self.held.values()):
            connection.give_back()
        if not self.held:
            return
        self.empty = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.empty.wait(), timeout_s)
            return
        for connection in list(self.held.values()):
            if connection.websocket is not None:
                connection.websocket.shutdown()  # says 1012, service restart
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.empty.wait(), 0.5)

    def close(self) -> None:
        """Close all connections at once."""
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        for connection in list(self.held.values()):
            if connection.transport is not None:
                connection.transport.abort()


async def _nowhere(scope: Any, receive: Any, send: Any) -> None:
    """Connections have applications of their own; uvicorn's configuration only has to be given one."""
