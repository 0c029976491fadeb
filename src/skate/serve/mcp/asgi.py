"""The words of ASGI, and what every application needs of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from skate.serve.mcp.messages import INVALID_REQUEST, Failure, RpcError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TRUSTED = "skate.trusted"
"""In the scope of a request that came from this program and not over a network: who asks is not asked."""
SESSION = b"mcp-session-id"
"""The header that names a session."""
JSON = (b"content-type", b"application/json")
EVENTS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


class Refusal(Exception):
    """A request that is answered with a status, headers, and a body of JSON (or nothing)."""

    def __init__(self, status: int, body: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers


def refusal(status: int, reason: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Refusal:
    """A refusal with the reason as a JSON-RPC error."""
    return Refusal(status, Failure(None, RpcError(INVALID_REQUEST, reason).packed()).pack(), headers)


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Headers by their name in lower case, the last of each."""
    return dict(scope["headers"])


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """The whole body; Refusal (413) over `limit` bytes, ConnectionError if the client goes away."""
    if int(headers.get(b"content-length") or 0) > limit:
        raise Refusal(413)
    parts = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client went away")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise Refusal(413)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def until_gone(receive: Receive) -> None:
    """Wait until the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def takes_events(headers: dict[bytes, bytes]) -> bool:
    """Whether the client takes a stream of events."""
    accept = headers.get(b"accept", b"")
    return b"text/event-stream" in accept or b"text/*" in accept or b"*/*" in accept


class Watch:
    """Tells when a client goes away before it is answered. Looks only at requests that take a while: most are over
    before.

    Args:
        receive: of the request.
        gone: called then.
    """

    DELAY = 0.05

    def __init__(self, receive: Receive, gone: Callable[[], None]) -> None:
        self._receive = receive
        self._gone = gone
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(self.DELAY, self._look)

    def _look(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        await until_gone(self._receive)
        self._gone()

    def stop(self) -> None:
        """It is answered."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


async def respond(
    send: Send, status: int, body: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = (), *, json: bool = True
) -> None:
    """Answer at once, with JSON if there is a body."""
    size = (b"content-length", str(len(body)).encode())
    kind = (JSON,) if body and json else ()
    await send({"type": "http.response.start", "status": status, "headers": [size, *kind, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
