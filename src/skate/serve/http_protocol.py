"""One HTTP connection on an event loop: uvicorn's protocol, with limits, marks and a way to give the connection back.

Loaded where HTTP is served, for it imports uvicorn. What is added to uvicorn's class:

- the connection's *mark* (see `connections`) always tells what it is in, so that the proxy knows what to do with it
  if this process dies;
- an idle connection can be given back to the proxy, between two requests, unnoticed by the client;
- heads of requests are bounded in size, and heads and bodies in the time for which the client may keep us waiting;
- the end of the connection cancels the request that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from skate.serve.connections import ANSWERED, ANSWERING, IDLE, REQUEST
from skate.serve.http_cycle import Cycle

if TYPE_CHECKING:
    from skate.serve.http_host import Host
    from skate.serve.http_websocket import WebSocket

HEAD_LIMIT = 65536
"""Bytes of a request's first line and headers."""
STALL = 20.0
"""Seconds for which a client may send nothing in the middle of a request."""
HEAD_TIME = 20.0
"""Seconds for which a client may take over a request's first line and headers."""

_OVER = (IDLE, ANSWERED)
_BETWEEN, _HEAD, _BODY = range(3)
REMEMBERED = 1024
"""Targets of requests whose parts are remembered."""
_targets: dict[bytes, tuple[str, bytes, bytes]] = {}
_TOO_LARGE = b"Request header fields too large"


def _target(url: bytes) -> tuple[str, bytes, bytes]:
    """The path, the path as it was sent, and the query of a request's target."""
    parsed = httptools.parse_url(url)
    raw = parsed.path
    path = raw.decode("ascii")
    found = unquote(path) if "%" in path else path, raw, parsed.query or b""
    if len(url) < 256:
        if len(_targets) >= REMEMBERED:
            _targets.clear()
        _targets[url] = found
    return found


class Connection(HttpToolsProtocol):
    """A connection that the proxy has passed on."""

    def __init__(self, host: Host, connection: socket.socket, slot: int) -> None:
        super().__init__(config=host.config, server_state=host.state, app_state=host.app_state, _loop=host.loop)
        self.host = host
        self.socket = connection
        self.slot = slot
        self.marks = host.marks
        self.app = partial(host.serve, self)
        upgraded: Any = self._websocket
        self.ws_protocol_class = upgraded
        self.stage = _BETWEEN
        """Where in a request the parser stands."""
        self.head = 0
        """Bytes read since the last head was complete."""
        self.large = False
        self.stalled: asyncio.TimerHandle | None = None
        self.heard = self.head_since = 0.0
        self.idle_since = host.now
        self.leaving = False
        """Is to be given back as soon as it is idle."""
        self.returning = False
        self.task: asyncio.Task[Any] | None = None
        """The task of the request that runs, while it may be cancelled; set by whoever serves it."""
        self.late = False
        """Whether the request was cancelled for taking too long."""
        self.stays = False
        """Whether the request that runs goes on when the client has gone."""
        self.websocket: WebSocket | None = None

    def _websocket(self, **arguments: Any) -> WebSocket:
        from skate.serve.http_websocket import WebSocket  # slow to import

        self.websocket = WebSocket(self, **arguments)
        return self.websocket

    # ------------------------------------------------------------------ what arrives

    def data_received(self, data: bytes) -> None:
        if self.marks[self.slot] in _OVER:
            self.marks[self.slot] = REQUEST
        if self.stage != _BODY:
            self.head += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
        if self.stage != _BETWEEN and self.stalled is None and self.websocket is None:
            self.heard = self.head_since = self.loop.time()
            self.stalled = self.loop.call_later(STALL, self._look)
        elif self.stalled is not None:
            self.heard = self.loop.time()
        if self.stage == _HEAD and self.head > HEAD_LIMIT and not self.transport.is_closing():
            self.large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self.stage = _HEAD
        HttpToolsProtocol.on_message_begin(self)

    def on_headers_complete(self) -> None:
        if self.head > HEAD_LIMIT:  # part of it may be a body, or other requests
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > HEAD_LIMIT:
                self.large = True
                raise ValueError("the head of the request is too large")
        self.head = 0
        self.stage = _BODY
        parser, scope, url = self.parser, self.scope, self.url
        version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        if parser.should_upgrade() and self._should_upgrade():
            return
        path, raw, query = _targets.get(url) or _target(url)
        if root := self.root_path:
            path, raw = root + path, root.encode("ascii") + raw
        scope["path"], scope["raw_path"], scope["query_string"] = path, raw, query
        earlier = self.cycle
        self.cycle = cycle = Cycle(
            self,
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if earlier is None or earlier.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:  # pipelined
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_message_complete(self) -> None:
        self.stage = _BETWEEN
        HttpToolsProtocol.on_message_complete(self)
        if self.cycle is not None and self.cycle.response_complete:  # the answer was sent ahead of the body's end
            self.host.settle(self)

    def send_400_response(self, msg: str) -> None:
        self.marks[self.slot] = ANSWERING
        if not self.large:
            super().send_400_response(msg)
            return
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(_TOO_LARGE), _TOO_LARGE)
        )
        self.transport.close()

    def _look(self) -> None:
        """Has the client left us waiting in the middle of a request?"""
        self.stalled = None
        if self.stage == _BETWEEN or self.websocket is not None or self.transport.is_closing():
            return
        now = self.loop.time()
        paused = self.flow.read_paused  # then it is the application that keeps the client waiting
        late = now - self.heard >= STALL or (self.stage == _HEAD and now - self.head_since >= HEAD_TIME)
        if late and not paused:
            self.marks[self.slot] = ANSWERING
            if self.cycle is None or self.cycle.response_complete or self.stage == _HEAD:
                self.transport.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                self.transport.close()
            else:
                self.transport.abort()
            return
        if paused:
            self.heard = now
        self.stalled = self.loop.call_later(max(STALL - (now - self.heard), 0.05), self._look)

    # ------------------------------------------------------------------ between requests

    def on_response_complete(self) -> None:
        self.task = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self.stage == _BETWEEN:
            self.marks[self.slot] = ANSWERED
        self.host.settle(self)

    def settled(self) -> None:
        """An answer is complete: is the connection idle now? Asked a turn of the loop later, when it is written."""
        transport = self.transport
        if self.stage != _BETWEEN or self.pipeline or transport.is_closing() or not self.cycle.response_complete:
            return
        if transport.get_write_buffer_size():
            self.loop.call_later(0.02, self.settled)  # a slow client; such an answer is not over
            return
        self.marks[self.slot] = IDLE
        self.idle_since = self.host.now
        if self.leaving:
            self.give_back()

    def is_idle(self) -> bool:
        """Is nothing of a request or an answer in this process?"""
        return self.marks[self.slot] == IDLE and self.websocket is None

    def give_back(self) -> None:
        """Give the connection back to the proxy, at once if it is idle, else after the answer."""
        self.leaving = True
        if self.is_idle() and self.transport is not None and not self.transport.is_closing():
            self.returning = True
            self.transport.close()  # closes this process's descriptor; the proxy has another

    # ------------------------------------------------------------------ the end

    def connection_lost(self, exc: Exception | None) -> None:
        if self.stalled is not None:
            self.stalled.cancel()
            self.stalled = None
        task, cycle = self.task, self.cycle
        running = cycle is not None and not cycle.response_complete
        super().connection_lost(exc)
        if running and task is not None and not self.stays:
            task.cancel()
        self.pipeline.clear()
        self.over(kept=self.returning and exc is None)

    def over(self, *, kept: bool) -> None:
        """The connection has left this process; `kept`: it lives on in the proxy."""
        if not kept:
            with contextlib.suppress(OSError):  # the client may have been faster
                self.socket.shutdown(socket.SHUT_RDWR)  # the proxy has a duplicate, which would keep it open
        self.host.left(self, kept=kept)
