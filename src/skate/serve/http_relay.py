"""Requests that cannot be passed on as connections go by a handle: ASGI messages both ways through a streaming call.

So goes what arrives over TLS, what another application's replica must answer, what a replica at its limit hands on,
and what has no connection at all, as in a test.

`relay` is the caller's end: it calls the ingress deployment with the request's scope and the first part of its body,
and gets what the application sends in batches. Only when there is more to come from the client (a body in parts, a
WebSocket) does the replica tell its name, and the rest is pushed to it by calls of the actor, one under way at a time.
`Relayed` is the replica's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any

import skate
from skate.serve.context import NAMESPACE
from skate.serve.inbox import Inbox

METHOD = "__serve_http__"
"""The name by which replicas know these calls."""
SCOPE = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers"),
    *("client", "server", "subprotocols"),
)
AHEAD = 64
"""Messages of an application that may wait for the caller to take them."""
MOST_BYTES = 256 * 1024
"""Bytes of them."""
DENIAL = "websocket.http.response"
"""How ASGI calls an answer to a WebSocket that is not accepted."""
GRACE = 1.0
"""Seconds for an application to end after its client has gone, before it is cancelled."""

_keys = count()
App = Callable[[Any, Any, Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


async def relay(handle: Any, scope: Any, receive: Receive, send: Send) -> None:
    """Have the deployment behind `handle` answer a request. Raises what the handle's call raises.

    When the task is cancelled, as it is when the client disconnects, so is the request in the replica.
    """
    key = f"{os.getpid():x}-{next(_keys):x}-{os.urandom(4).hex()}"
    first = await receive()
    more = scope["type"] == "websocket" or bool(first.get("more_body"))
    plain = {name: scope[name] for name in SCOPE if name in scope}
    if DENIAL in (scope.get("extensions") or {}):
        plain["extensions"] = {DENIAL: {}}
    stream = handle.options(method_name=METHOD, stream=True).remote(plain, first, key if more else "")
    pump: asyncio.Task[None] | None = None
    over = False
    try:
        async for batch in stream:
            if type(batch) is str:
                pump = asyncio.ensure_future(_push(batch, key, receive))
                continue
            for message in batch:
                await send(message)
                over = over or (
                    message["type"] in ("websocket.close", "http.response.body") and not message.get("more_body")
                )
        over = True
    finally:
        if pump is not None:
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError, skate.exceptions.RayError):
                await pump
        if not over:
            stream.cancel()


async def _push(replica: str, key: str, receive: Receive) -> None:
    """Send on what the client sends."""
    actor = skate.get_actor(replica, namespace=NAMESPACE)
    while True:
        message = await receive()
        if not await actor.http_push.remote(key, message):
            return
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            return


class _Exchange:
    """One request at the replica's end."""

    def __init__(self, first: Any) -> None:
        self.inbox = Inbox(first)
        self.receive = self.inbox.get
        """The application's ``receive``."""
        self.outbox: list[Any] = []
        self.size = 0
        """Bytes in the outbox."""
        self.ready = asyncio.Event()
        self.room = asyncio.Event()
        self.gone = False

    async def send(self, message: Any) -> None:
        """The application's ``send``."""
        if self.gone:
            await asyncio.sleep(0)  # one that sends on and on has to hear that it is cancelled
            return
        self.outbox.append(message)
        self.size += len(message.get("body") or message.get("bytes") or message.get("text") or b"")
        self.ready.set()
        while (len(self.outbox) > AHEAD or self.size > MOST_BYTES) and not self.gone:
            self.room.clear()
            await self.room.wait()


class Relayed:
    """The requests that a replica answers by handle.

    Args:
        name: the replica's actor.
        serve: the application.
    """

    def __init__(self, name: str, serve: App) -> None:
        self.name = name
        self.serve = serve
        self.exchanges: dict[str, _Exchange] = {}

    async def run(self, scope: Any, first: Any, key: str) -> AsyncIterator[Any]:
        """Run a request: lists of the application's messages, and ahead of them the actor's name if it wants more."""
        exchange = _Exchange(first)
        if key:
            self.exchanges[key] = exchange
            yield self.name
        task = asyncio.ensure_future(self.serve(scope, exchange.receive, exchange.send))
        task.add_done_callback(lambda _: exchange.ready.set())
        try:
            while True:
                await exchange.ready.wait()
                exchange.ready.clear()
                if exchange.outbox:
                    batch, exchange.outbox, exchange.size = exchange.outbox, [], 0
                    exchange.room.set()
                    yield batch
                elif task.done():
                    task.result()
                    return
        finally:
            exchange.gone = True
            exchange.inbox.close()
            exchange.room.set()
            self.exchanges.pop(key, None)
            if not task.done():
                await _end(task, exchange)

    async def push(self, key: str, message: Any) -> bool:
        """More of the client's; False when the request is over."""
        exchange = self.exchanges.get(key)
        if exchange is None:
            return False
        await exchange.inbox.put(message)
        return True


async def _end(task: asyncio.Future[Any], exchange: _Exchange) -> None:
    """End an application that nobody listens to any more."""
    exchange.inbox.add({"type": "http.disconnect"})
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), GRACE)
