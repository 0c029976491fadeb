"""What a server keeps of its clients: a request while it is answered, and a session."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from skate.serve.mcp import messages
from skate.serve.mcp.asgi import EVENTS, Send, respond
from skate.serve.mcp.events import PING, event
from skate.serve.mcp.messages import CANCELLED, INTERNAL_ERROR, Failure, Id, Notification, Request, Result, RpcError
from skate.serve.mcp.peers import Client
from skate.serve.mcp.rights import Caller
from skate.serve.mcp.trails import Ledger, Trail, Trails

QUEUE = 1000
"""Messages that wait for a client which does not read; further ones are dropped."""
UNREAD = 16 << 20
"""Bytes of such messages, unless one alone has more."""
PRIME = 5.0
"""Seconds after which a stream begins with nothing but an id, so that a client can come back to it."""
PRIMED = "2025-11-25"
"""The first revision whose clients take such an event."""
SILENCE = 15.0
"""Seconds after which a stream says that it is still there."""


class Stream:
    """Events on their way to one client. Nothing is sent before there is something to say."""

    def __init__(self, send: Send, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self._send = send
        self._headers = headers
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._more = asyncio.Event()
        self._last = False
        self._pump: asyncio.Task[None] | None = None
        self._broken = False

    @property
    def open(self) -> bool:
        """Whether it has begun: then the answer must come on it."""
        return self._pump is not None

    def put(self, frame: bytes) -> bool:
        """Have something sent; False where it cannot be."""
        full = len(self._waiting) >= QUEUE or (self._size and self._size + len(frame) > UNREAD)
        if self._broken or self._last or full:
            return False
        self._waiting.append(frame)
        self._size += len(frame)
        self.begin()
        return True

    def begin(self) -> None:
        """Send what there is, and go on until `end`."""
        self._more.set()
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._run())

    async def end(self, frame: bytes = b"") -> None:
        """Send the last of it, and wait until the client has it."""
        self._waiting.append(frame)
        self._last = True
        self.begin()
        assert self._pump is not None
        await self._pump

    def close(self) -> None:
        """Let it end after what waits to be sent."""
        self._last = True
        self._more.set()

    async def done(self) -> None:
        """Wait until it has ended."""
        if self._pump is not None:
            await self._pump

    def drop(self) -> None:
        """The client is gone."""
        self._broken = True
        self._waiting.clear()
        self._size = 0
        self._more.set()

    async def _run(self) -> None:
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": [*EVENTS, *self._headers]})
            while not self._broken:
                if self._waiting:
                    body = b"".join(self._waiting)
                    self._waiting.clear()
                    self._size = 0
                    await self._send({"type": "http.response.body", "body": body, "more_body": True})
                elif self._last:
                    await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
                else:
                    self._more.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(SILENCE):
                            await self._more.wait()
                            continue
                    self._waiting.append(PING)
        except OSError:  # the client is gone; what it asked for goes on
            self.drop()


class Exchange:
    """One request of a client, while it is being answered.

    The answer is plain JSON, unless something was sent before it or it took long: then it is the last event of a
    stream. If that leaves a trail, a client that has lost it can come back to it on another connection.

    Args:
        request: what was asked.
        send: the way to the client.
        headers: of the HTTP answer.
        events: whether the client takes a stream.
        session: the client's session, if it has one.
    """

    def __init__(
        self,
        request: Request,
        send: Send,
        headers: tuple[tuple[bytes, bytes], ...],
        *,
        events: bool,
        session: Session | None = None,
    ) -> None:
        self.request = request
        self.task = asyncio.current_task()
        self.cancelled = False
        self._send = send
        self._headers = headers
        self._session = session
        self.trail: Trail | None = None
        self._stream = Stream(send, headers) if events else None
        early = session is not None and session.version >= PRIMED
        wait = PRIME if early else SILENCE
        self._silence = asyncio.get_running_loop().call_later(wait, self._say_something, early) if events else None

    def tell(self, message: Request | Notification) -> bool:
        """Send the client something before the answer; False where it cannot be sent."""
        return self._put(message.pack())

    def _put(self, message: bytes) -> bool:
        if self._stream is None:
            return False
        if self._session is None:
            return self._stream.put(event(message))
        self._stream.put(self._frame(message))
        return True  # if not now, then when the client comes back

    def _frame(self, message: bytes) -> bytes:
        if self.trail is None:
            assert self._session is not None
            self.trail = self._session.trails.begin()
            self._session.resumable[self.trail] = self
        return self.trail.frame(message)

    def resume(self, stream: Stream) -> None:
        """The client has come back: the rest is for this stream."""
        if self._stream is not None:
            self._stream.close()
        self._stream = stream

    def cancel(self) -> None:
        """The client does not want the answer any more."""
        if self.task is not None and not self.cancelled:
            self.cancelled = True
            self.task.cancel()

    async def finish(self, answer: bytes, status: int = 200) -> None:
        """Send the answer."""
        self.task = None  # too late to be cancelled
        if self._silence is not None:
            self._silence.cancel()
        if self.trail is not None:
            frame = self.trail.frame(answer)
            self.trail.end()
        else:
            frame = event(answer)
        if self._stream is not None and (self.trail is not None or self._stream.open):
            await self._stream.end(frame)
        else:
            await respond(self._send, status, answer, self._headers)

    def drop(self) -> None:
        """There is nobody to answer any more."""
        if self._silence is not None:
            self._silence.cancel()
        if self._stream is not None:
            self._stream.drop()

    def _say_something(self, early: bool) -> None:
        if self._stream is not None and not self._stream.open:
            self._put(b"") if early else self._stream.put(PING)


Answered = Callable[[Result | Failure], None]


class Session:
    """What a client has begun with `initialize`.

    Attributes:
        id: the Mcp-Session-Id, None for a client that has none.
        caller: who opened it; others cannot use it.
        client: what the client says of itself.
        version: the protocol's revision.
        held: what the application keeps for the session.
        trails: what was sent on its streams.
        resumable: the requests that are being answered on streams.
    """

    def __init__(self, number: str | None, caller: Caller, client: Client, version: str, ledger: Ledger) -> None:
        self.id = number
        self.caller = caller
        self.client = client
        self.version = version
        self.held: dict[str, Any] = {}
        self.exchanges: dict[Id, Exchange] = {}
        self.trails = Trails(ledger)
        self.resumable: dict[Trail, Exchange] = {}
        self.used = time.monotonic()
        self._asked: dict[int, tuple[Answered, Exchange | None, Any]] = {}
        self._last = 0
        self._told = 0
        """The number of the last event that was put on the stream of the session's own."""
        self._stream: Stream | None = None

    @property
    def busy(self) -> bool:
        """Whether a request is being answered or the client listens."""
        return bool(self.exchanges) or self._stream is not None

    @property
    def listens(self) -> bool:
        """Whether the client takes what belongs to no request right now."""
        return self._stream is not None

    def tell(self, message: Request | Notification) -> None:
        """Send the client what belongs to none of its requests: when it listens, or else as soon as it does."""
        own = self.trails.own
        frame = own.frame(message.pack())
        if self._stream is not None and self._stream.put(frame):
            self._told = own.last

    def ask(self, request: Request, exchange: Exchange | None, answered: Answered) -> None:
        """Pass on a server's request to the client, under a number of the session's own.

        Args:
            request: what the server asks.
            exchange: the client's request that it belongs to, if any: it is asked on that one's stream.
            answered: takes the client's answer, with the id of the server's request.
        """
        self._last += 1
        number = self._last
        passed = Request(number, request.method, request.params)
        self._asked[number] = (answered, exchange, request.id)
        if exchange is None:
            self.tell(passed)
        elif not exchange.tell(passed):
            del self._asked[number]
            error = RpcError(INTERNAL_ERROR, "the client cannot be asked: it does not take a stream of events")
            answered(Failure(request.id, error.packed()))

    def answer(self, message: Result | Failure) -> None:
        """The client has answered something that it was asked."""
        found = self._asked.pop(message.id, None) if isinstance(message.id, int) else None
        if found is not None:
            answered, _, number = found
            answered(Result(number, message.value) if isinstance(message, Result) else Failure(number, message.error))

    def withdraw(self, notification: Notification) -> None:
        """The server no longer wants an answer that it asked for (`notifications/cancelled`)."""
        params = messages.fields(notification.params)
        wanted = messages.decode(params.get("requestId", b"null"))
        for number, (_, exchange, original) in list(self._asked.items()):
            if original == wanted:
                del self._asked[number]
                params["requestId"] = messages.encode(number)
                passed = Notification(notification.method, messages.join(params))
                if exchange is None:
                    self.tell(passed)
                else:
                    exchange.tell(passed)

    def done(self, exchange: Exchange) -> None:
        """A request has been answered: whatever the server still asks for it is void."""
        if self.exchanges.get(exchange.request.id) is exchange:
            del self.exchanges[exchange.request.id]
        if exchange.trail is not None:
            self.resumable.pop(exchange.trail, None)
        if self._asked:
            self._asked = {number: found for number, found in self._asked.items() if found[1] is not exchange}
        self.used = time.monotonic()

    def cancel(self, notification: Notification) -> None:
        """The client's `notifications/cancelled`."""
        wanted = messages.decode(messages.fields(notification.params).get("requestId", b"null"))
        if isinstance(wanted, int | str) and (exchange := self.exchanges.get(wanted)) is not None:
            exchange.cancel()

    def listen(self, stream: Stream, after: int | None = None) -> bool:
        """The client listens from now on; False if it already does.

        Args:
            stream: the way to it.
            after: it has seen the events up to this one, and comes back; what it listened to before has ended.
        """
        if self._stream is not None:
            if after is None:
                return False
            self._stream.close()
        self._stream = stream
        own = self.trails.own
        for frame in own.after(self._told if after is None else after):
            stream.put(frame)
        self._told = own.last
        stream.begin()
        return True

    def resume(self, trail: Trail, after: int, stream: Stream) -> None:
        """The client comes back to the stream of a request, of which it has seen the events up to this one."""
        for frame in trail.after(after):
            stream.put(frame)
        if (exchange := self.resumable.get(trail)) is not None:
            exchange.resume(stream)
        else:
            stream.close()
        stream.begin()

    def deaf(self, stream: Stream) -> None:
        """The client has stopped to listen to this stream."""
        if self._stream is stream:
            self._stream = None
        self.used = time.monotonic()

    def end(self) -> None:
        """Nobody will ask in this session again."""
        for exchange in list(self.exchanges.values()):
            exchange.cancel()
        if self._stream is not None:
            self._stream.close()
        self.trails.clear()


def cancelled(request: Request) -> bytes:
    """The answer to a request that the client has cancelled: it ends the HTTP exchange."""
    return Failure(request.id, RpcError(CANCELLED, "the request was cancelled").packed()).pack()
