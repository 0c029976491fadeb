"""A small HTTP/1.1 client: connections kept open, answers that stream. It is on the way of every call of a gateway."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import httptools

from skate.serve.mcp.links import Headers, LinkError, Response, UnreachableError

PATIENCE = 10.0
"""Seconds that connecting may take."""
KEEP = 4.0
"""Seconds for which an unused connection is kept: less than servers do, so that none is used as it is being closed."""
BUFFER = 1 << 20
"""Bytes of a body that wait for their reader before the server is held up."""
DRAIN = 2.0
"""Seconds that the rest of a body may take which nobody reads, so that its connection can be used again."""


class WebLink:
    """An MCP server at a URL.

    Args:
        url: `http://...` or `https://...`, with the path.
        headers: sent with each request, beside those of the protocol (an Authorization, say).
        verify: a context for TLS; None for Python's usual one.
        unix: the path of a Unix socket to use in place of the URL's host; requests then bring their own Host header.
    """

    def __init__(
        self, url: str, headers: Headers = (), verify: ssl.SSLContext | None = None, unix: str | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of an HTTP server: http://host:port/path")
        if any(b"\n" in part or b"\r" in part for pair in headers for part in pair):
            raise ValueError("a header has a line break")
        self.url = url
        self._unix = unix
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = (verify or ssl.create_default_context()) if parts.scheme == "https" else None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host = parts.netloc.rpartition("@")[2]
        fixed = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        host_line = b"" if unix is not None else b"host: %b\r\n" % host.encode("idna")
        self._head = b" %b HTTP/1.1\r\n%b%b" % (target.encode("ascii"), host_line, fixed)
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def open(self, method: str, headers: Headers, body: bytes = b"") -> Response:
        connection = self._unused() or await self._connect()
        response = connection.begin()
        lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        size = b"content-length: %d\r\n" % len(body) if body or method == "POST" else b""
        connection.transport.write(b"".join((method.encode(), self._head, lines, size, b"\r\n", body)))
        try:
            await response.head()
        except BaseException:
            connection.transport.abort()
            raise
        return response

    async def close(self) -> None:
        for connection in list(self._all):
            connection.transport.abort()
        while self._all:  # what is aborted ends in the loop's next turn
            await asyncio.sleep(0)

    def _unused(self) -> _Connection | None:
        now = time.monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.transport.is_closing():
                continue
            if now - connection.idle_since < KEEP:
                return connection
            connection.transport.close()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()

        def made() -> _Connection:
            return _Connection(self._idle, self._all)

        try:
            async with asyncio.timeout(PATIENCE):
                if self._unix is not None:
                    _, connection = await loop.create_unix_connection(made, self._unix)
                else:
                    _, connection = await loop.create_connection(made, self._host, self._port, ssl=self._tls)
        except TimeoutError:
            raise UnreachableError(f"{self.url}: no connection in {PATIENCE:g} s") from None
        except OSError as error:
            raise UnreachableError(f"{self.url}: {error}") from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection, and the parser of what comes through it."""

    transport: asyncio.Transport

    def __init__(self, idle: list[_Connection], everyone: set[_Connection]) -> None:
        self._idle = idle
        self._all = everyone
        self._parser = httptools.HttpResponseParser(self)
        self._response: _WebResponse | None = None
        self.idle_since = 0.0

    def begin(self) -> _WebResponse:
        self._response = _WebResponse(self)
        return self._response

    # asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are of no such class
        self._all.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the server does not speak HTTP: {error}")
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._all.discard(self)
        self._fail("the server closed the connection" if error is None else f"the connection broke: {error}")

    # httptools' calls

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is not None:
            self._response.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._response is not None:
            if status < 200:
                self._response.headers.clear()
            else:
                self._response.status = status
                self._response.wake()

    def on_body(self, data: bytes) -> None:
        if self._response is not None:
            self._response.feed(data)

    def on_message_complete(self) -> None:
        response = self._response
        if response is None or not response.status:
            return  # an interim answer (1xx)
        self._response = None
        response.finish(None)
        if self._parser.should_keep_alive() and not self.transport.is_closing():
            self.transport.resume_reading()
            self.idle_since = time.monotonic()
            self._idle.append(self)
        else:
            self.transport.close()

    def _fail(self, reason: str) -> None:
        response, self._response = self._response, None
        if response is not None:
            sized = b"content-length" in response.headers or b"transfer-encoding" in response.headers
            # a body without a length ends with its connection
            response.finish(None if response.status and not sized else reason)


class _WebResponse:
    """The answer that is coming through a connection."""

    def __init__(self, connection: _Connection) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._connection = connection
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._failed: str | None = None
        self._dropped = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        if self._dropped:
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > BUFFER:
            self._connection.transport.pause_reading()
        self.wake()

    def finish(self, failed: str | None) -> None:
        self._ended = True
        self._failed = failed
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def head(self) -> None:
        while not self.status:
            if self._ended:
                raise LinkError(self._failed or "the server closed the connection")
            await self._wait()

    async def chunk(self) -> bytes:
        while not self._parts:
            if self._ended:
                if self._failed is not None:
                    raise LinkError(self._failed)
                return b""
            await self._wait()
        part = self._parts.popleft()
        self._size -= len(part)
        if not self._parts and not self._ended:
            self._connection.transport.resume_reading()
        return part

    def release(self, *, cut: bool = False) -> None:
        self._dropped = True
        self._parts.clear()
        if self._ended:
            return
        transport = self._connection.transport
        if cut:
            transport.abort()
            return
        transport.resume_reading()
        asyncio.get_running_loop().call_later(DRAIN, self._give_up)

    def _give_up(self) -> None:
        if not self._ended:
            self._connection.transport.abort()
