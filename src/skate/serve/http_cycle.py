"""One request and its answer on a connection: uvicorn's cycle with an answer's head put together more cheaply.

What programs notice is the same as with uvicorn. An answer whose length is known is written in one piece; lines of
headers that were checked once are not checked again; each answer has the request's id.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

from skate.serve.connections import ANSWERING

if TYPE_CHECKING:
    from skate.serve.http_protocol import Connection

_PLAIN, _LENGTH, _CHUNKED, _CONNECTION, _ID = range(5)
REMEMBERED = 2048
"""Headers whose lines are remembered."""
TURN = 64
"""Parts of a body after which others have a turn, though the application never waits."""
_lines: dict[Any, tuple[int, bytes]] = {}


def line(pair: Any) -> tuple[int, bytes]:
    """What kind of header this is, and its line. RuntimeError for one that would break the answer."""
    name, value = bytes(pair[0]).lower(), bytes(pair[1])
    if HEADER_RE.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    if HEADER_VALUE_RE.search(value):
        raise RuntimeError("Invalid HTTP header value.")
    kind = _PLAIN
    if name == b"content-length":
        kind = _LENGTH
    elif name == b"transfer-encoding" and value.lower() == b"chunked":
        kind = _CHUNKED
    elif name == b"connection":
        kind = _CONNECTION
    elif name == b"x-request-id":
        kind = _ID
    found = kind, b"%b: %b\r\n" % (name, value)
    if type(pair) is tuple and len(value) < 128:
        if len(_lines) >= REMEMBERED:
            _lines.clear()
        _lines[pair] = found
    return found


class Cycle(RequestResponseCycle):
    """See the module."""

    def __init__(self, connection: Connection, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.connection = connection
        self.request_id = b""
        self.status = 0
        self.held = b""
        """The head of an answer, until the first part of the body is there."""
        self.parts = 0
        """Parts of the body that were sent."""
        self.until_close = False
        """Whether the answer has no other end than the connection's."""

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            await asyncio.sleep(0)  # one that sends on and on has to hear that it is cancelled
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            self._start(message)
        elif self.response_complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        elif kind == "http.response.body":
            more = message.get("more_body", False)
            self._body(message.get("body", b""), more)
            if more:
                self.parts += 1
                if not self.parts % TURN:
                    await asyncio.sleep(0)  # others have their turn, and the end of the connection is noticed
        else:
            raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")

    def _start(self, message: Any) -> None:
        status = message["status"]
        parts = [STATUS_LINE[status], self.connection.host.date_line]
        chunked, length, closing = self.chunked_encoding, 0, False
        for pair in message.get("headers", ()):
            try:
                kind, text = _lines[pair]
            except (KeyError, TypeError):
                kind, text = line(pair)
            if kind:
                if kind == _ID and self.request_id:
                    continue
                if kind == _LENGTH and chunked is None:
                    chunked, length = False, int(pair[1])
                elif kind == _CHUNKED:
                    chunked, length = True, 0
                elif kind == _CONNECTION and b"close" in [word.strip() for word in pair[1].lower().split(b",")]:
                    self.keep_alive, closing = False, True
            parts.append(text)
        if self.request_id:
            parts.append(b"x-request-id: %b\r\n" % self.request_id)
        if not self.keep_alive and not closing:
            parts.append(b"connection: close\r\n")
        if chunked is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            chunked = self._unsized(parts)
        parts.append(b"\r\n")
        self.response_started, self.waiting_for_100_continue, self.status = True, False, status
        self.chunked_encoding, self.expected_content_length = chunked, length
        self.connection.marks[self.connection.slot] = ANSWERING
        head = b"".join(parts)
        if chunked is False:
            self.held = head
        else:
            self.transport.write(head)

    def _unsized(self, parts: list[bytes]) -> bool:
        """An answer of unknown length goes in chunks; in HTTP/1.0, which knows none, the connection's end is its."""
        self.until_close = self.scope["http_version"] == "1.0"
        if not self.until_close:
            parts.append(b"transfer-encoding: chunked\r\n")
        return not self.until_close

    def take_back(self) -> bool:
        """Forget the head of an answer of which nothing was written yet; False when it is too late for that."""
        if self.response_started and not self.held:
            return False
        self.response_started, self.chunked_encoding, self.held, self.status = False, None, b"", 0
        return True

    def _body(self, body: Any, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            data = b""
        elif self.chunked_encoding:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                data += b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(body)
            if self.until_close:
                self.expected_content_length = 0
            elif self.expected_content_length < 0:
                raise RuntimeError("Response content longer than Content-Length")
            data = body
        if self.held:
            data, self.held = self.held + data, b""
        if data:
            self.transport.write(data)
        if not more:
            if self.expected_content_length:
                raise RuntimeError("Response content shorter than Content-Length")
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
