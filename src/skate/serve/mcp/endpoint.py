"""The server's side of Streamable HTTP: an ASGI application that gives requests to a backend and answers them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import Any

from skate.serve.mcp import messages, modern
from skate.serve.mcp.access import admit, admit_page, cors
from skate.serve.mcp.asgi import (
    SESSION,
    TRUSTED,
    Receive,
    Refusal,
    Scope,
    Send,
    Watch,
    headers_of,
    read_body,
    refusal,
    respond,
    takes_events,
    until_gone,
)
from skate.serve.mcp.backend import Asked, Backend
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
from skate.serve.mcp.options import Options
from skate.serve.mcp.peers import Client
from skate.serve.mcp.rights import ANYONE, Caller
from skate.serve.mcp.sessions import Exchange, Session, Stream, cancelled
from skate.serve.mcp.table import Table

logger = logging.getLogger("skate.serve.mcp")

HeaderPairs = tuple[tuple[bytes, bytes], ...]


class Endpoint:
    """Streamable HTTP for a backend.

    Args:
        backend: who answers.
        options: who may ask, where it answers, how many sessions there may be.
    """

    def __init__(self, backend: Backend, options: Options) -> None:
        self._backend = backend
        self._options = options
        self._access = options.access
        self._stateless = options.stateless
        self._status = {"/status", options.path.rstrip("/") + "/status"}
        self._paths = {"", "/", options.path, options.path.rstrip("/") + "/", *self._status}
        self.table = Table(backend.ended, most=options.max_sessions, idle=options.session_idle)
        self._starting: asyncio.Future[None] | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        """Requests in sessions: they go on when their client goes away, as the protocol has it."""

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
            origin = headers.get(b"origin")
            if origin is not None and self._access.allows_origin(origin.decode("latin-1")):
                extra = cors(origin)
            admit_page(self._access, scope["method"], headers)
            trusted = TRUSTED in scope
            caller = ANYONE if trusted else await admit(self._access, self._paths, scope, headers)
            if self._reaper is None:
                await self.start()  # a server without lifespans
            if scope["path"].removeprefix(scope.get("root_path", "")) in self._status:
                await respond(send, 200, self._told(scope["method"], caller), extra)
                return
            await self._serve(scope["method"], headers, caller, receive, send, extra)
        except Refusal as refusal:
            await respond(send, refusal.status, refusal.body, (*refusal.headers, *extra))
        except ConnectionError:
            return  # the client went away while it asked

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

    def _told(self, method: str, caller: Caller) -> bytes:
        """The status; only those who have shown a token see what processes wrote to standard error."""
        if method != "GET":
            raise Refusal(405, headers=((b"allow", b"GET"),))
        if caller.rights.limited:
            raise refusal(403, "the status is for those who may use all of it")
        return messages.encode(self._backend.status(words=caller is not ANYONE))

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
        for task in list(self._answering):
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)
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
            return messages.unpack(await read_body(receive, headers, self._options.max_body))
        except RpcError as error:
            raise Refusal(400, Failure(None, error.packed()).pack()) from None
        except ValueError:
            raise refusal(400, "the content length is no number") from None

    async def _post(
        self, message: Message, headers: dict[bytes, bytes], caller: Caller, send: Send, extra: HeaderPairs
    ) -> None:
        session = None
        if isinstance(message, Request) and message.method == "initialize":
            if SESSION in headers and not self._stateless:
                self._session(headers, caller)  # 404 for one that has ended
                raise refusal(400, "this session has begun already; a new one begins without Mcp-Session-Id")
            answer, more = await self._initialize(message, caller)
            await respond(send, 200, answer, (*more, *extra))
            return
        if not self._stateless:
            session = self._session(headers, caller)
            extra = ((SESSION, headers[SESSION]), *extra)
        if isinstance(message, Request):
            exchange = Exchange(message, send, extra, events=takes_events(headers), session=session)
            client = Client() if session is None else session.client
            asked = Asked(message, exchange, caller, client, session)
            await (self._answer(asked) if session is None else self._answer_anyway(asked))
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

    async def _answer_anyway(self, asked: Asked) -> None:
        """The same in a task of its own, for a server may cancel the request of a client that has gone."""
        task = asked.exchange.task = asyncio.get_running_loop().create_task(self._answer(asked))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        await asyncio.shield(task)

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
        exchange = Exchange(request, send, extra, events=takes_events(headers))
        watch = Watch(receive, exchange.cancel)
        try:
            await self._answer(Asked(request, exchange, caller, client, modern=True))
        finally:
            watch.stop()

    async def _listen(
        self, session: Session, headers: dict[bytes, bytes], receive: Receive, send: Send, extra: HeaderPairs
    ) -> None:
        if not takes_events(headers):
            raise refusal(406, "the client must accept text/event-stream")
        stream = Stream(send, ((SESSION, headers[SESSION]), *extra))
        seen = headers.get(b"last-event-id", b"")
        found = session.trails.find(seen) if seen else None
        if found is not None and found[0] is not session.trails.own:
            session.resume(*found, stream)
        elif seen and found is None and not session.trails.is_own(seen):
            raise refusal(400, "nothing is known (any more) of the event that Last-Event-ID names")
        elif not session.listen(stream, None if found is None else found[1]):
            raise refusal(409, "the client listens already")
        gone = asyncio.ensure_future(until_gone(receive))
        over = asyncio.ensure_future(stream.done())
        try:
            await asyncio.wait({gone, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            stream.drop()
            session.deaf(stream)
