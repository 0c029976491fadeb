"""The server's side of Streamable HTTP: an ASGI application that gives requests to a backend and answers them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from skate.serve.mcp import messages, modern
from skate.serve.mcp.access import ANYONE, PREFLIGHT, Access, Caller, cors
from skate.serve.mcp.asgi import (
    SESSION,
    TRUSTED,
    Receive,
    Refusal,
    Scope,
    Send,
    headers_of,
    read_body,
    refusal,
    respond,
)
from skate.serve.mcp.messages import (
    HANDSHAKE_VERSIONS,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MODERN_VERSIONS,
    Failure,
    Json,
    Message,
    Notification,
    Request,
    Result,
    RpcError,
)
from skate.serve.mcp.peers import Client
from skate.serve.mcp.sessions import Exchange, Session, Stream, cancelled
from skate.serve.mcp.table import Table

logger = logging.getLogger("skate.serve.mcp")

HeaderPairs = tuple[tuple[bytes, bytes], ...]


class Asked(NamedTuple):
    """A request, and all that is known about who asked it."""

    request: Request
    exchange: Exchange
    caller: Caller
    client: Client
    session: Session | None = None
    """None for a client that has none: it cannot be asked anything on its own stream."""
    modern: bool = False


class Description(NamedTuple):
    """What a backend says of itself."""

    capabilities: dict[str, Any]
    info: dict[str, Any]
    instructions: str | None = None


class Backend(Protocol):
    """Who answers."""

    async def start(self, sessions: Mapping[str, Session]) -> None:
        """Called once, in the event loop in which it is to work; `sessions` are those that there are, by id."""

    async def stop(self) -> None:
        """Called once at the end."""

    async def describe(self, caller: Caller) -> Description:
        """What it offers."""

    async def answer(self, asked: Asked) -> Json:
        """The result of a request; RpcError is answered as such."""

    async def hear(self, session: Session, notification: Notification) -> None:
        """A notification of a client."""

    async def ended(self, session: Session) -> None:
        """A session has ended."""

    async def listen(self, asked: Asked) -> Json:
        """Serve `subscriptions/listen` until it ends."""


class Endpoint:
    """Streamable HTTP for a backend.

    Args:
        backend: who answers.
        access: who may ask.
        path: where it answers, beside "/".
        stateless: open no sessions. Then nothing binds a client to this process.
        max_sessions: sessions at a time; further ones are refused with 503.
        session_idle: seconds after which an unused session ends.
        max_body: bytes of a request.
    """

    def __init__(
        self,
        backend: Backend,
        access: Access,
        *,
        path: str,
        stateless: bool,
        max_sessions: int = 10_000,
        session_idle: float = 1800.0,
        max_body: int = 4 << 20,
    ) -> None:
        self._backend = backend
        self._access = access
        self._paths = {"", "/", path, path.rstrip("/") + "/"}
        self._stateless = stateless
        self._max_body = max_body
        self.table = Table(backend.ended, most=max_sessions, idle=session_idle)
        self._starting: asyncio.Future[None] | None = None
        self._reaper: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        extra: HeaderPairs = ()
        try:
            headers = headers_of(scope)
            caller = self._admit(scope, headers)
            if (origin := headers.get(b"origin")) is not None:
                extra = cors(origin)
            if self._reaper is None:
                await self.start()  # a server without lifespans
            await self._serve(scope["method"], headers, caller, receive, send, extra)
        except Refusal as refusal:
            await respond(send, refusal.status, refusal.body, (*refusal.headers, *extra))
        except ConnectionError:
            return  # the client went away while it asked

    def _admit(self, scope: Scope, headers: dict[bytes, bytes]) -> Caller:
        if scope["method"] == "OPTIONS" and (origin := headers.get(b"origin")) is not None:
            if self._access.allows_origin(origin.decode("latin-1")):
                raise Refusal(204, headers=(*PREFLIGHT, *cors(origin)))
            raise Refusal(403)
        if TRUSTED in scope:
            return ANYONE
        caller = self._access.check(headers)
        if scope["path"].removeprefix(scope.get("root_path", "")) not in self._paths:
            raise Refusal(404)
        return caller

    async def _serve(
        self,
        method: str,
        headers: dict[bytes, bytes],
        caller: Caller,
        receive: Receive,
        send: Send,
        extra: HeaderPairs,
    ) -> None:
        version = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
        is_modern = bool(version) and version not in HANDSHAKE_VERSIONS
        if method == "POST":
            message = await self._read(receive, headers)
            if is_modern:
                await self._modern(message, version, headers, caller, receive, send, extra)
            else:
                await self._post(message, headers, caller, send, extra)
        elif method == "GET" and not self._stateless and not is_modern:
            await self._listen(self._session(headers, caller), headers, receive, send, extra)
        elif method == "DELETE" and not self._stateless and not is_modern:
            await self.table.end(self._session(headers, caller))
            await respond(send, 200, headers=extra)
        else:
            raise Refusal(405, headers=((b"allow", b"POST" if self._stateless else b"GET, POST, DELETE"),))

    # starting and ending

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except (RpcError, OSError, ValueError, ImportError) as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def start(self) -> None:
        """Start the backend, once: whoever comes second waits for the first."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        await self._backend.start(self.table.sessions)
        self._reaper = asyncio.get_running_loop().create_task(self.table.reap())

    async def stop(self) -> None:
        """End all sessions, and the backend."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        await self.table.end_all()
        if self._starting is not None:
            self._starting = None
            await self._backend.stop()

    # requests

    def _session(self, headers: dict[bytes, bytes], caller: Caller) -> Session:
        return self.table.find(headers.get(SESSION, b"").decode("latin-1"), caller)

    async def _read(self, receive: Receive, headers: dict[bytes, bytes]) -> Message:
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
            raise refusal(415, "the content type must be application/json")
        accept = headers.get(b"accept", b"*/*")
        if b"application/json" not in accept and b"*/*" not in accept and b"application/*" not in accept:
            raise refusal(406, "the client must accept application/json")
        try:
            return messages.unpack(await read_body(receive, headers, self._max_body))
        except RpcError as error:
            raise Refusal(400, Failure(None, error.packed()).pack()) from None
        except ValueError:
            raise refusal(400, "the content length is no number") from None

    async def _post(
        self, message: Message, headers: dict[bytes, bytes], caller: Caller, send: Send, extra: HeaderPairs
    ) -> None:
        session = None
        if isinstance(message, Request) and message.method == "initialize":
            answer, more = await self._initialize(message, caller)
            await respond(send, 200, answer, (*more, *extra))
            return
        if not self._stateless:
            session = self._session(headers, caller)
            extra = ((SESSION, headers[SESSION]), *extra)
        if isinstance(message, Request):
            exchange = Exchange(message, send, extra, events=_takes_events(headers))
            client = Client() if session is None else session.client
            await self._answer(Asked(message, exchange, caller, client, session))
            return
        await respond(send, 202, headers=extra)
        if session is None:
            return
        if not isinstance(message, Notification):
            session.answer(message)
        elif message.method == "notifications/cancelled":
            with contextlib.suppress(RpcError):  # it names no request: there is nothing to cancel
                session.cancel(message)
        else:
            await self._backend.hear(session, message)

    async def _initialize(self, request: Request, caller: Caller) -> tuple[bytes, HeaderPairs]:
        try:
            session = self.table.begin(request, caller, kept=not self._stateless)
            found = await self._backend.describe(caller)
        except RpcError as error:
            return Failure(request.id, error.packed()).pack(), ()
        said: dict[str, Any] = {
            "protocolVersion": session.version,
            "capabilities": found.capabilities,
            "serverInfo": found.info,
        }
        if found.instructions:
            said["instructions"] = found.instructions
        more = () if session.id is None else ((SESSION, session.id.encode()),)
        return Result(request.id, messages.encode(said)).pack(), more

    async def _answer(self, asked: Asked) -> None:
        """Have a request answered by the backend, and send that."""
        request, exchange, session = asked.request, asked.exchange, asked.session
        if session is not None:
            if request.id in session.exchanges:
                error = RpcError(INVALID_REQUEST, "a request with this id is being answered already")
                await exchange.finish(Failure(request.id, error.packed()).pack())
                return
            session.exchanges[request.id] = exchange
        status = 200
        try:
            answer = Result(request.id, await self._result(asked)).pack()
        except RpcError as error:
            answer = Failure(request.id, error.packed()).pack()
            status = modern.STATUS.get(error.code, 200) if asked.modern else 200
        except asyncio.CancelledError:
            if not exchange.cancelled or exchange.task is None:
                exchange.drop()
                raise
            exchange.task.uncancel()
            answer = cancelled(request)
        except Exception:
            number = secrets.token_hex(8)
            logger.exception("request %s (%s) failed", number, request.method)
            answer = Failure(request.id, RpcError(INTERNAL_ERROR, f"internal error, request {number}").packed()).pack()
        finally:
            if session is not None:
                session.done(exchange)
        try:
            await exchange.finish(answer, status)
        except OSError:
            exchange.drop()

    async def _result(self, asked: Asked) -> Json:
        if asked.request.method == "ping":
            return messages.EMPTY
        if not asked.modern:
            return await self._backend.answer(asked)
        if asked.request.method == "subscriptions/listen":
            result = await self._backend.listen(asked)
        elif asked.request.method == "server/discover":
            found = await self._backend.describe(asked.caller)
            said: dict[str, Any] = {"supportedVersions": list(MODERN_VERSIONS), "capabilities": found.capabilities}
            if found.instructions:
                said["instructions"] = found.instructions
            result = messages.encode(said)
        else:
            result = await self._backend.answer(asked)
        info = (await self._backend.describe(asked.caller)).info
        return modern.stamped(result, asked.request.method, messages.encode(info))

    async def _modern(
        self,
        message: Message,
        version: str,
        headers: dict[bytes, bytes],
        caller: Caller,
        receive: Receive,
        send: Send,
        extra: HeaderPairs,
    ) -> None:
        number = message.id if isinstance(message, Request) else None
        if version not in MODERN_VERSIONS:
            raise Refusal(400, Failure(number, modern.unsupported(version).packed()).pack())
        if isinstance(message, Notification):
            await respond(send, 202, headers=extra)  # this revision has none that matter
            return
        if not isinstance(message, Request):
            raise refusal(400, "a client sends requests here")
        try:
            request, client = modern.open_envelope(message, headers)
        except RpcError as error:
            raise Refusal(modern.STATUS.get(error.code, 400), Failure(number, error.packed()).pack()) from None
        exchange = Exchange(request, send, extra, events=_takes_events(headers))
        watch = _Watch(receive, exchange)
        try:
            await self._answer(Asked(request, exchange, caller, client, modern=True))
        finally:
            watch.stop()

    async def _listen(
        self, session: Session, headers: dict[bytes, bytes], receive: Receive, send: Send, extra: HeaderPairs
    ) -> None:
        if not _takes_events(headers):
            raise refusal(406, "the client must accept text/event-stream")
        stream = Stream(send, ((SESSION, headers[SESSION]), *extra))
        if not session.listen(stream):
            raise refusal(409, "the client listens already")
        gone = asyncio.ensure_future(_until_gone(receive))
        over = asyncio.ensure_future(stream.done())
        try:
            await asyncio.wait({gone, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            stream.drop()
            session.deaf()


class _Watch:
    """Cancels a request when its client goes away. Looks only at those that take a while: most are over before."""

    DELAY = 0.05

    def __init__(self, receive: Receive, exchange: Exchange) -> None:
        self._receive = receive
        self._exchange = exchange
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(self.DELAY, self._look)

    def _look(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        await _until_gone(self._receive)
        self._exchange.cancel()

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _takes_events(headers: dict[bytes, bytes]) -> bool:
    accept = headers.get(b"accept", b"")
    return b"text/event-stream" in accept or b"text/*" in accept or b"*/*" in accept
