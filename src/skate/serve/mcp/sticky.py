"""Sessions and replicas: a request reaches the replica that holds its session, wherever it came in.

A replica puts its mark before the ids of the sessions that it begins. A request with another's mark is passed on to
that replica over a Unix socket in a directory that only this user can open. Replicas on other machines are not
reached: there their sessions look as if they had ended, and clients begin new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import tempfile
import time
from pathlib import Path

from skate.serve.mcp.asgi import (
    SESSION,
    TRUSTED,
    App,
    Message,
    Receive,
    Refusal,
    Scope,
    Send,
    headers_of,
    read_body,
    respond,
    until_gone,
)
from skate.serve.mcp.links import LinkError, UnreachableError
from skate.serve.mcp.messages import INVALID_REQUEST, Failure, RpcError
from skate.serve.mcp.web import WebLink

MARK = 16
"""Characters of a mark."""
TRUSTED_SUFFIX = ".trusted"
_HOP = frozenset((b"connection", b"transfer-encoding", b"content-length", b"keep-alive"))
_LOST = Failure(None, RpcError(INVALID_REQUEST, "there is no such session; begin a new one").packed()).pack()


def directory() -> Path:
    """Where the sockets are: a directory of this user. OSError if somebody else has made it."""
    path = Path(tempfile.gettempdir()) / f"skate-mcp-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not this user's alone")
    return path


def sweep(folder: Path) -> None:
    """Delete the sockets of replicas that were killed. Young ones are left alone: theirs may only just be starting."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
            if time.time() - path.stat().st_mtime > 60:
                knock.setblocking(False)  # a busy one is no dead one
                try:
                    knock.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink(missing_ok=True)


class _Door:
    """A socket at which an application answers."""

    def __init__(self, path: Path, app: App) -> None:
        self._path = path
        self._app = app
        self._listener = socket.socket(socket.AF_UNIX)
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        from skate.serve.mcp.inlet import serve_on

        self._listener.bind(str(self._path))
        self._server = await serve_on(self._listener, self._app)

    def shut(self) -> None:
        if self._server is not None:
            with contextlib.suppress(RuntimeError):  # its loop has gone already
                self._server.close()
        self._listener.close()
        self._path.unlink(missing_ok=True)


class Doors:
    """The ways to replicas by their marks, each with connections that are kept open.

    Args:
        trusted: whether what is sent comes from this program itself, so that nobody asks it who it is.
    """

    def __init__(self, *, trusted: bool) -> None:
        self._suffix = TRUSTED_SUFFIX if trusted else ""
        self._links: dict[bytes, WebLink] = {}

    def find(self, mark: bytes) -> WebLink | None:
        """The way to a replica on this machine; None if it is not there (any more)."""
        if len(mark) != MARK or not mark.isalnum():
            return None
        path = directory() / (mark.decode() + self._suffix)
        if not path.exists():
            self._links.pop(mark, None)
            return None
        if mark not in self._links:
            self._links[mark] = WebLink("http://localhost/", unix=str(path))
        return self._links[mark]

    async def close(self) -> None:
        """Close the connections."""
        for link in self._links.values():
            await link.close()
        self._links.clear()


class Sticky:
    """Wraps the application of a replica.

    Args:
        app: the application, which counts on being the only one.
        most: bytes of a request.
    """

    def __init__(self, app: App, most: int = 4 << 20) -> None:
        self.mark = secrets.token_hex(MARK // 2)
        self._app = app
        self._most = most
        self._doors: list[_Door] = []
        self._ways = {trusted: Doors(trusted=trusted) for trusted in (False, True)}
        self._starting = asyncio.Lock()
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            await self.close()
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        owner, dot, inner = headers.get(SESSION, b"").partition(b".")
        if dot and owner != self.mark.encode():
            await self._pass_on(owner, scope, headers, receive, send)
            return
        if not self._doors:
            await self.open()  # also where there is no other replica: there may be one tomorrow, and it must find this
        if dot:
            scope = {**scope, "headers": [(n, inner if n == SESSION else v) for n, v in scope["headers"]]}
        await self._app(scope, receive, self._marking(send))

    def _marking(self, send: Send) -> Send:
        mark = self.mark.encode() + b"."

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                pairs = [(n, mark + v if bytes(n).lower() == SESSION else v) for n, v in message.get("headers", ())]
                message = {**message, "headers": pairs}
            await send(message)

        return marked

    async def open(self) -> None:
        """Be found by other processes."""
        async with self._starting:
            if self._doors or self._ended:
                return
            folder = directory()
            sweep(folder)
            doors = [_Door(folder / self.mark, self), _Door(folder / (self.mark + TRUSTED_SUFFIX), self._trusted)]
            for door in doors:
                await door.open()
            self._doors = doors  # only now may an answer name this replica
            if self._ended:
                self.abandon()

    async def _trusted(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self({**scope, TRUSTED: True}, receive, send)

    async def close(self) -> None:
        """Be found no longer."""
        self.abandon()
        for ways in self._ways.values():
            await ways.close()

    def abandon(self) -> None:
        """The same as far as it goes without an event loop."""
        self._ended = True  # whoever still asks is answered, but nobody finds the way here any more
        doors, self._doors = self._doors, []
        for door in doors:
            door.shut()

    async def _pass_on(
        self, owner: bytes, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        link = self._ways[TRUSTED in scope].find(owner)
        if link is None:
            await respond(send, 404, _LOST)
            return
        try:
            body = await read_body(receive, headers, self._most)
        except Refusal as refusal:
            await respond(send, refusal.status, refusal.body, refusal.headers)
            return
        except ConnectionError:
            return  # the client went away while it asked
        pairs = [(bytes(name), bytes(value)) for name, value in scope["headers"] if name not in _HOP]
        try:
            response = await link.open(scope["method"], pairs, body)
        except UnreachableError:
            await respond(send, 404, _LOST)  # it has ended
            return
        except LinkError:
            await respond(send, 502)  # it ended while it was at it
            return
        complete = False
        gone = asyncio.ensure_future(until_gone(receive))
        gone.add_done_callback(lambda _: None if complete else response.release(cut=True))
        try:
            kept = [(name, value) for name, value in response.headers.items() if name not in _HOP]
            if (size := response.headers.get(b"content-length")) is not None:
                kept.append((b"content-length", size))
            await send({"type": "http.response.start", "status": response.status, "headers": kept})
            while part := await response.chunk():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            complete = True
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except LinkError:
            return  # cut short here too: the client sees that something is missing
        finally:
            response.release(cut=not complete)
            complete = True
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone
