"""Ways to an HTTP server: what a session over Streamable HTTP stands on, and the one that calls an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from skate.serve.http_ingress import Lifespan
from skate.serve.mcp.asgi import TRUSTED, App, Message, Scope

Headers = Sequence[tuple[bytes, bytes]]


class LinkError(ConnectionError):
    """The server cannot be reached, or went away before it had answered."""


class UnreachableError(LinkError):
    """The server cannot be reached: it has got nothing of the request."""


class Response(Protocol):
    """An answer whose body is still coming."""

    status: int
    headers: dict[bytes, bytes]
    """Names in lower case."""

    async def chunk(self) -> bytes:
        """The next part of the body, b"" at its end; LinkError if the server goes away before."""

    def release(self, *, cut: bool = False) -> None:
        """The caller has done with it; `cut`: it does not want what is still to come."""


class Link(Protocol):
    """Where an MCP server answers."""

    async def open(self, method: str, headers: Headers, body: bytes = b"") -> Response:
        """Send a request; its answer as soon as the head has come. Raises LinkError."""

    async def close(self) -> None:
        """End what is still open."""


async def whole(response: Response, limit: int) -> bytes:
    """The whole body; LinkError when it has more bytes than `limit`."""
    parts = []
    size = 0
    while part := await response.chunk():
        size += len(part)
        if size > limit:
            raise LinkError(f"the answer has more than {limit} bytes")
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class AppLink:
    """Calls an application in this process and event loop. It is trusted: nobody asks it who it is.

    Args:
        app: the application, whose lifespan is somebody else's business.
        path: the path that it is asked for.
    """

    def __init__(self, app: App, path: str = "/") -> None:
        self.app = app
        self.path = path
        self.state: dict[str, Any] = {}
        self._running: set[_AsgiResponse] = set()

    async def open(self, method: str, headers: Headers, body: bytes = b"") -> Response:
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), *headers],
            "client": None,
            "server": ("localhost", 80),
            "state": dict(self.state),
            TRUSTED: True,
        }
        response = _AsgiResponse(self.app, scope, body)
        self._running.add(response)
        response.task.add_done_callback(lambda _: self._running.discard(response))
        await response.head()
        return response

    async def close(self) -> None:
        for response in list(self._running):
            response.task.cancel()
        await asyncio.gather(*(response.task for response in list(self._running)), return_exceptions=True)


class AsgiLink(AppLink):
    """The same with the application's lifespan, which begins with the first request."""

    def __init__(self, app: App, path: str = "/mcp") -> None:
        super().__init__(app, path)
        self._lifespan: Lifespan | None = None
        self._starting = asyncio.Lock()

    async def open(self, method: str, headers: Headers, body: bytes = b"") -> Response:
        async with self._starting:
            if self._lifespan is None:
                lifespan = Lifespan(self.app)
                try:
                    await lifespan.begin()
                except RuntimeError as error:
                    raise LinkError(str(error)) from error
                self._lifespan = lifespan
                self.state = lifespan.state
        return await super().open(method, headers, body)

    async def close(self) -> None:
        await super().close()
        lifespan, self._lifespan = self._lifespan, None
        if lifespan is not None:
            with contextlib.suppress(RuntimeError, TimeoutError):
                async with asyncio.timeout(10.0):
                    await lifespan.end()


class _AsgiResponse:
    """One request to an application, run in a task of its own."""

    LIMIT = 256
    """Parts that may wait to be read; then the application waits."""

    def __init__(self, app: App, scope: Scope, body: bytes) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._body: bytes | None = body
        self._parts: deque[bytes] = deque()
        self._ended = False
        self._released = False
        self._changed = asyncio.Event()
        self._gone = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run(app, scope))

    async def _run(self, app: App, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        finally:
            self._ended = True
            self._changed.set()

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {bytes(name).lower(): bytes(value) for name, value in message.get("headers", ())}
        elif message["type"] == "http.response.body" and not self._released:
            if message.get("body"):
                self._parts.append(bytes(message["body"]))
            if not message.get("more_body", False):
                self._ended = True
                self._gone.set()
        self._changed.set()
        while len(self._parts) > self.LIMIT and not self._released:
            self._changed.clear()
            await self._changed.wait()

    async def head(self) -> None:
        while not self.status and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if not self.status:
            raise LinkError(f"the application did not answer{self._reason()}")

    async def chunk(self) -> bytes:
        while not self._parts:
            if self._ended:
                return b""
            self._changed.clear()
            await self._changed.wait()
        self._changed.set()
        return self._parts.popleft()

    def release(self, *, cut: bool = False) -> None:
        self._released = True
        self._parts.clear()
        self._gone.set()
        self._changed.set()

    def _reason(self) -> str:
        failed = self.task.exception() if self.task.done() and not self.task.cancelled() else None
        return "" if failed is None else f": {failed!r}"
