"""A session over Streamable HTTP, from the client's side."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from skate.serve.mcp import messages
from skate.serve.mcp.asgi import SESSION
from skate.serve.mcp.calls import Call, Calls, Relay
from skate.serve.mcp.events import EventReader, EventTooLarge
from skate.serve.mcp.links import Headers, Link, LinkError, Response, whole
from skate.serve.mcp.messages import (
    INTERNAL_ERROR,
    SERVER_DOWN,
    TIMED_OUT,
    Failure,
    Json,
    Message,
    Notification,
    Result,
    RpcError,
)
from skate.serve.mcp.names import CHANGES
from skate.serve.mcp.peers import Client, Server, shake_hands

logger = logging.getLogger("skate.serve.mcp")

RESUMED = 5
"""Tries in a row to come back to the stream of a call."""

_ACCEPT = ((b"accept", b"application/json, text/event-stream"), (b"content-type", b"application/json"))


class _SessionLost(Exception):
    """The server no longer knows the session; the request was not carried out."""


class HttpPeer:
    """A session with a server behind a link. A session that the server has forgotten is begun again.

    Args:
        link: where the server answers.
        client: who asks.
        stray: takes what belongs to no call.
        timeout: seconds that a call may take.
        start: seconds that beginning a session may take.
        limit: bytes that an answer may have.
    """

    server: Server

    def __init__(
        self,
        link: Link,
        client: Client,
        stray: Relay,
        *,
        timeout: float,
        start: float = 30.0,
        limit: int = 64 << 20,
    ) -> None:
        self._link = link
        self._client = client
        self._calls = Calls(stray)
        self._timeout = timeout
        self._start = start
        self._limit = limit
        self._session: bytes | None = None
        self._headers: Headers = _ACCEPT
        self._begun = 0
        self._beginning = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Task[None] | None = None
        self._closed = False
        self._listening = False

    @property
    def alive(self) -> bool:
        return not self._closed

    @property
    def hears(self) -> bool:
        return self._listening

    @property
    def busy(self) -> bool:
        return len(self._calls) > 0

    async def begin(self) -> None:
        """Open the session; RpcError where that fails."""
        await self._begin(0)

    async def _begin(self, generation: int) -> None:
        async with self._beginning:
            if self._begun != generation:
                return  # somebody else has begun it anew meanwhile
            self._session, self._headers = None, _ACCEPT
            self.server = await shake_hands(self._once, self._client)
            version = (b"mcp-protocol-version", self.server.version.encode())
            session = () if self._session is None else ((SESSION, self._session),)
            self._headers = (*_ACCEPT, version, *session)
            self._begun += 1
            await self.send(Notification("notifications/initialized"))
            if self._listener is None and self._session is not None:
                self._listener = self._spawn(self._listen())

    async def request(self, method: str, params: Json, relay: Relay | None = None) -> Json:
        generation = self._begun
        try:
            return await self._once(method, params, relay)
        except _SessionLost:
            try:
                await self._begin(generation)
                return await self._once(method, params, relay)
            except _SessionLost:
                raise RpcError(SERVER_DOWN, "the server forgets its sessions as soon as they have begun") from None

    async def _once(self, method: str, params: Json, relay: Relay | None = None) -> Json:
        if self._closed:
            raise RpcError(SERVER_DOWN, "the session with the server has ended")
        call, body = self._calls.begin(method, params, relay)
        timeout = self._start if method == "initialize" else self._timeout
        try:
            async with asyncio.timeout(timeout):
                await self._exchange(call, body)
            return call.answer.result()
        except TimeoutError:
            self._spawn(self._post(self._calls.cancelled(call, "timed out")))
            raise RpcError(TIMED_OUT, f"no answer to {method} in {timeout:g} s") from None
        except asyncio.CancelledError:
            self._spawn(self._post(self._calls.cancelled(call, "the client cancelled")))
            raise
        except (LinkError, EventTooLarge) as error:
            raise RpcError(SERVER_DOWN, f"{method}: {error}") from error
        finally:
            self._calls.end(call)

    async def _exchange(self, call: Call, body: bytes) -> None:
        """Send a request and take what comes until its answer is there."""
        response = await self._link.open("POST", self._headers, body)
        complete = False
        try:
            if (session := response.headers.get(SESSION)) is not None and self._session is None:
                self._session = session
            if response.status == 404 and self._headers is not _ACCEPT and self._session is not None:
                raise _SessionLost
            kind = response.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind == b"text/event-stream":
                await self._read_stream(response, call)
            elif kind == b"application/json":
                self._calls.take(_unpack(await whole(response, self._limit)), call)
            if not call.answer.done():
                if 300 <= response.status < 400:
                    where = response.headers.get(b"location", b"").decode("latin-1")
                    raise RpcError(SERVER_DOWN, f"the server is not here, it names {where!r}: use that address")
                raise RpcError(
                    SERVER_DOWN if response.status >= 400 else INTERNAL_ERROR,
                    f"the server gave no answer to the request (HTTP {response.status})",
                )
            complete = True
        finally:
            response.release(cut=not complete)

    async def _read_stream(self, response: Response, call: Call) -> None:
        """The stream of a call; resumed, if its events have ids, where it breaks off or the server lets it end."""
        reader = EventReader(self._limit)
        failures = 0
        first = True
        while True:
            try:
                if not first:
                    response = await self._link.open("GET", self._resuming(reader))
                if response.status != 200:
                    raise LinkError(f"its stream cannot be resumed (HTTP {response.status})")
                while not call.answer.done() and (chunk := await response.chunk()):
                    failures = 0
                    for data in reader.feed(chunk):
                        self._calls.take(_unpack(data), call)
            except LinkError:
                failures += 1
                if not reader.last_id or failures > RESUMED or (not first and response.status in (400, 404, 405)):
                    raise
            finally:
                if not first:
                    response.release(cut=not call.answer.done())
            if call.answer.done() or not reader.last_id:
                return
            reader.renew()
            first = False
            await asyncio.sleep(min(reader.retry if reader.retry is not None else 0.5 * 2**failures, 30.0))

    def _resuming(self, reader: EventReader) -> Headers:
        last = ((b"last-event-id", reader.last_id),) if reader.last_id else ()
        return (_ACCEPT[0], *self._headers[2:], *last)

    async def _listen(self) -> None:
        """Keep the session's own stream open, on which the server says what belongs to no call."""
        pause = 0.5
        missed = False
        reader = EventReader(self._limit)
        while not self._closed:
            with contextlib.suppress(LinkError, EventTooLarge, RpcError):
                response = await self._link.open("GET", self._resuming(reader))
                try:
                    if response.status == 400 and reader.last_id:
                        reader = EventReader(self._limit)  # the server knows nothing of that event any more
                    if response.status in (404, 405):
                        return  # it has none, or a request will find that the session is lost
                    reader.renew()
                    self._listening = response.status == 200
                    if missed:  # what the server said meanwhile is lost, unless it keeps it
                        for change in CHANGES:
                            self._calls.take(Notification(change))
                    missed = True
                    while response.status == 200 and (chunk := await response.chunk()):
                        pause = 0.5
                        for data in reader.feed(chunk):
                            self._calls.take(_unpack(data))
                finally:
                    self._listening = False
                    response.release(cut=True)
            await asyncio.sleep(pause if reader.retry is None else min(max(reader.retry, pause / 10), 30.0))
            pause = min(pause * 2, 30.0)

    async def send(self, message: Notification | Result | Failure) -> None:
        await self._post(message.pack())

    async def _post(self, body: bytes) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._link.open("POST", self._headers, body)
        except (LinkError, TimeoutError) as error:
            logger.debug("a message to the server was lost: %s", error)
            return
        response.release()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._calls.fail(RpcError(SERVER_DOWN, "the session with the server has ended"))
        for task in list(self._tasks):  # the listener first: a server hears of its end before that of the session
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            with contextlib.suppress(LinkError, TimeoutError):
                async with asyncio.timeout(2.0):
                    response = await self._link.open("DELETE", self._headers)
                    response.release()


def _unpack(data: bytes) -> Message:
    """A message of a server; what is wrong with it is the server's fault, not the caller's."""
    try:
        return messages.unpack(data)
    except RpcError as error:
        raise RpcError(INTERNAL_ERROR, f"the server sends what it must not: {error.message}") from None
