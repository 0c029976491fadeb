"""The HTTP side of a replica: a socket where the proxy finds it, and requests on the connections that come from there.

A request on such a connection takes no hop: uvicorn's protocol reads it, and the application answers, on the replica's
event loop. Around the application there is no more than `ReplicaHTTP.serve`: the request's id, the number of ongoing
requests, limits and figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from skate.serve import http_answers
from skate.serve.connections import (
    Closed,
    Drop,
    Hello,
    Holding,
    Keep,
    Kept,
    Leaving,
    Link,
    Marks,
    Message,
    Pass,
    Returned,
    Settings,
    Shed,
    Told,
    batches,
    listen,
    raise_limit,
    same_user,
)  # fmt: skip
from skate.serve.context import RequestContext, request_context
from skate.serve.deployment_parts import BackpressureConfig
from skate.serve.exceptions import BackPressureError
from skate.serve.http_cycle import Cycle
from skate.serve.http_entry import Answer, BrokenAnswerError, Entry, identify, local_path
from skate.serve.http_host import Host
from skate.serve.http_protocol import Connection
from skate.serve.http_routes import Target

clock = time.perf_counter


class Gate(Protocol):
    """What the HTTP side needs of its replica: the count of requests that it shares with calls by handle."""

    ongoing: int
    max_ongoing: int
    waiting: deque[asyncio.Future[None]]
    """Requests that wait for their turn; whoever ends a request wakes the first."""

    def begin(self) -> None:
        """Count a request."""

    def end(self) -> None:
        """A request is over."""


class ReplicaHTTP:
    """Serves HTTP for one replica.

    Args:
        gate: counts requests.
        target: the replica's application, and its deployment.
        replica: the replica's name.
        app: the application.
        entry: answers requests that belong elsewhere.
        max_queued: requests that may wait here for their turn; -1: any number.
        turned_away: what those are answered that may not.
        room_elsewhere: whether another replica could take a request at once.
        observe: called with method, route, application, status and seconds of each request that is over.
    """

    def __init__(
        self,
        gate: Gate,
        target: Target,
        replica: str,
        app: Callable[..., Awaitable[None]],
        entry: Entry,
        *,
        max_queued: int = -1,
        turned_away: BackpressureConfig | None = None,
        room_elsewhere: Callable[[], bool] = lambda: False,
        observe: Callable[[str, str, str, int, float], None] | None = None,
    ) -> None:
        self.gate = gate
        self.target = target
        self.replica = replica
        self.app = app
        self.entry = entry
        self.max_queued = max_queued
        self.turned_away = turned_away or BackpressureConfig()
        self.room_elsewhere = room_elsewhere
        self.loop = asyncio.get_running_loop()
        self.marks = Marks()
        self.host = Host(self.loop, self.marks.page, self.serve, self._left)
        self.observe = observe
        self.root_path = ""
        self.timeout_s: float | None = None
        self.max_body: int | None = None
        self.link: Link | None = None
        self.listener: socket.socket | None = None
        self.path = ""
        self.kept = -1
        """The proxy's listening socket, held so that it outlives the proxy; -1: none."""
        self._closed: list[int] = []
        self._returned: list[int] = []

    # ------------------------------------------------------------------ the wire

    def listen(self, path: str) -> None:
        """Be found at a path, which must not be taken. OSError where that cannot be."""
        raise_limit()
        self.listener = listen(path)
        self.path = path
        self.loop.add_reader(self.listener.fileno(), self._knocked)

    def _knocked(self) -> None:
        assert self.listener is not None
        try:
            connection, _ = self.listener.accept()
        except OSError:  # it has gone already
            return
        if not same_user(connection):
            connection.close()
            return
        if self.link is not None:  # the proxy that was there is being replaced
            self.link.close()
        self.link = link = Link(self.loop, connection, self._told, self._proxy_gone)
        link.send(Hello(self.replica, self.target[0]), self.marks.fd)
        if self.kept >= 0:
            link.send(Kept(), self.kept)
        for slot, held in self.host.held.items():
            link.send(Holding(slot), held.socket.fileno())
        if self.host.draining:
            link.send(Leaving())
        link.send(Told())

    def _proxy_gone(self) -> None:
        self.link = None
        self._closed.clear()
        self._returned.clear()

    def _told(self, message: Message, fd: int) -> None:
        match message:
            case Pass(slot):
                self.host.take(socket.socket(fileno=fd), slot)
                return
            case Settings():
                self._take(message)
            case Keep():
                self._keep(os.dup(fd))
            case Drop():
                self._keep(-1)
            case Shed(count):
                self.host.shed(count)
            case _:
                raise ValueError(f"a proxy does not send {message!r}")
        if fd >= 0:
            os.close(fd)

    def _keep(self, fd: int) -> None:
        if self.kept >= 0:
            os.close(self.kept)
        self.kept = fd

    def _take(self, settings: Settings) -> None:
        routes = {prefix: (app, deployment) for prefix, (app, deployment) in settings.routes.items()}
        self.entry.take(routes, settings.root_path, settings.request_timeout_s)
        self.root_path = settings.root_path
        self.timeout_s = settings.request_timeout_s
        self.max_body = settings.max_body_bytes
        self.host.configure(settings.root_path, settings.keep_alive_timeout_s)

    def _left(self, slot: int, kept: bool) -> None:
        """A connection has left this process: tell the proxy, with others of this turn of the loop."""
        if self.link is None:
            return
        if not self._closed and not self._returned:
            self.loop.call_soon(self._tell)
        (self._returned if kept else self._closed).append(slot)

    def _tell(self) -> None:
        link = self.link
        closed, self._closed = self._closed, []
        returned, self._returned = self._returned, []
        if link is not None:
            for part in batches(closed):
                link.send(Closed(part))
            for part in batches(returned):
                link.send(Returned(part))

    # ------------------------------------------------------------------ requests

    async def serve(self, connection: Connection, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request that came on a connection."""
        request_id, model = identify(scope["headers"])
        timer = None
        cycle: Cycle | None = None
        if scope["type"] == "http":
            cycle = send.__self__
            cycle.request_id = request_id.encode("latin-1")
            connection.task, connection.late = asyncio.current_task(), False
            if self.timeout_s:
                timer = self.loop.call_later(self.timeout_s, _late, connection)
        else:
            send = Answer(send, request_id, self.marks.page, connection.slot)
        try:
            await self._answer(scope, receive, send, cycle or send, request_id, model)
        except asyncio.CancelledError:
            if connection.transport.is_closing():
                return  # the client has gone, and with it whoever would hear of it
            if not connection.late:
                raise
            if connection.task is not None:
                connection.task.uncancel()
            late = http_answers.RequestTimeoutError(f"Request {request_id} timed out after {self.timeout_s}s.")
            await self._failed(connection, cycle, scope, send, late, request_id)
        except BrokenAnswerError:
            connection.transport.abort()
        except Exception as error:  # noqa: BLE001  whatever the application raises, the client gets an answer
            await self._failed(connection, cycle, scope, send, error, request_id)
        finally:
            if timer is not None:
                timer.cancel()

    async def _answer(self, scope: Any, receive: Any, send: Any, seen: Any, request_id: str, model: str) -> None:
        path = local_path(scope, self.root_path) if self.root_path else scope["path"]
        routes = self.entry.routes
        prefix = routes.prefix(path)
        if prefix is None or routes.table[prefix] != self.target or path.startswith("/-/"):
            answer = send if seen is send else Answer(send, request_id)
            await self.entry.answer(scope, receive, answer, request_id, model)
            return
        if prefix != "/":
            scope["root_path"] = scope.get("root_path", "") + prefix
        if self.max_body is not None and scope["type"] == "http":
            receive = _bounded(receive, scope, self.max_body)
        request_context.set(RequestContext(request_id, prefix, self.target[0], model))
        gate = self.gate
        if gate.ongoing >= gate.max_ongoing:
            if self.room_elsewhere():
                answer = send if seen is send else Answer(send, request_id)
                await self.entry.call(self.target, model, scope, receive, answer, request_id)
                return
            await self._turn()
        gate.begin()
        began = clock()
        try:
            await self.app(scope, receive, send)
        finally:
            gate.end()
            if self.observe is not None:
                method = scope.get("method", "WEBSOCKET")
                self.observe(method, prefix, self.target[0], seen.status, clock() - began)

    async def _failed(
        self, connection: Connection, cycle: Cycle | None, scope: Any, send: Any, error: BaseException, request_id: str
    ) -> None:
        answer: Answer = send
        if cycle is not None:
            answer = Answer(send, request_id)
            if not cycle.take_back():
                answer.status, answer.complete = cycle.status, cycle.response_complete
        try:
            await answer.fail(scope, error, request_id)
        except BrokenAnswerError:
            connection.transport.abort()

    async def _turn(self) -> None:
        """Wait until the replica has room for one more request."""
        gate, waiting = self.gate, self.gate.waiting
        while gate.ongoing >= gate.max_ongoing:
            if 0 <= self.max_queued <= len(waiting):
                answer = self.turned_away
                raise BackPressureError(len(waiting), self.max_queued, answer.status_code, answer.retry_after_s)
            turn = self.loop.create_future()
            waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    gate.begin()  # it was this one's turn: the next gets it
                    gate.end()
                else:
                    with contextlib.suppress(ValueError):
                        waiting.remove(turn)
                raise

    # ------------------------------------------------------------------ the end

    async def drain(self, timeout_s: float) -> None:
        """Give all connections back to the proxy; what is late is closed after `timeout_s` seconds."""
        if self.link is not None:
            self.link.send(Leaving())
        await self.host.drain(timeout_s)

    def close(self) -> None:
        """Close connections and sockets at once."""
        self.host.close()
        if self.link is not None:
            self._tell()
            self.link.close()
            self.link = None
        if self.listener is not None:
            self.loop.remove_reader(self.listener.fileno())
            self.listener.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            self.listener = None
        self._keep(-1)


def _late(connection: Connection) -> None:
    if connection.task is not None:
        connection.late = True
        connection.task.cancel()


def _bounded(receive: Callable[[], Awaitable[Any]], scope: Any, most: int) -> Callable[[], Awaitable[Any]]:
    """`receive`, which raises BodyTooLargeError when the body is larger than `most` bytes."""
    size = 0
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > most:
            raise http_answers.BodyTooLargeError(f"The body has {int(value)} bytes; at most {most} are taken.")

    async def bounded() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise http_answers.BodyTooLargeError(f"The body has more than {most} bytes.")
        return message

    return bounded
