"""`app`: a server written with the official SDK, as an ASGI application that starts and ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any, Unpack

from skate.serve.mcp.access import admit, admit_page, cors
from skate.serve.mcp.asgi import SESSION, TRUSTED, Message, Receive, Refusal, Scope, Send, headers_of, respond
from skate.serve.mcp.options import Keywords, Options
from skate.serve.mcp.rights import ANYONE, Caller


class McpApp:
    """An MCP server as an ASGI application; made by `app`. Where it can be pickled, it can be sent to another process:
    the server is made where it is first used."""

    def __init__(self, server: Any, options: Options, *, json_response: bool) -> None:
        self.server = server
        self.options = options
        self.json_response = json_response
        self._paths = {"", "/", options.path, options.path.rstrip("/") + "/"}
        self._forget()

    def _forget(self) -> None:
        self._manager: Any = None
        self._task: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] | None = None
        self._over: asyncio.Event | None = None
        self._opening: set[asyncio.Task[None]] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_manager": None, "_task": None, "_started": None, "_over": None, "_opening": set()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        headers = headers_of(scope)
        origin = headers.get(b"origin")
        if origin is not None and self.options.access.allows_origin(origin.decode("latin-1")):
            send = _with_cors(send, origin)
        try:
            admit_page(self.options.access, scope["method"], headers)
            if TRUSTED not in scope:
                caller = await admit(self.options.access, self._paths, scope, headers)
                if caller is not ANYONE:
                    scope = {**scope, "user": _user(caller)}
        except Refusal as refusal:
            await respond(send, refusal.status, refusal.body, refusal.headers)
            return
        if self._manager is None:
            await self.start()
        if self.options.stateless or SESSION in headers:
            await self._handle(scope, receive, send)
        else:
            await self._open_session(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the SDK answer; its tools find out who asks by `get_access_token`."""
        from mcp.server.auth.middleware.auth_context import AuthContextMiddleware

        await AuthContextMiddleware(self._manager.handle_request)(scope, receive, send)

    async def _open_session(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the SDK answer the first request of a session, to the end even if this is cancelled.

        It takes the session back if that request is cancelled, and clients hang up on it as soon as they have its
        answer. That they have gone it hears by `receive`.
        """
        task = asyncio.ensure_future(self._handle(scope, receive, send))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody is left to tell
            raise

    async def start(self) -> None:
        """Make the server and begin its lifespan, once: whoever comes second waits for the first."""
        if self._started is None:
            self._started = asyncio.get_running_loop().create_future()
            self._over = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(self._started, self._over))
        await asyncio.shield(self._started)

    async def stop(self) -> None:
        """End the server's lifespan and all its sessions."""
        if self._task is not None and self._over is not None:
            self._over.set()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for task in self._opening:
            task.cancel()
        self._forget()

    async def _run(self, started: asyncio.Future[None], over: asyncio.Event) -> None:
        """The server's life: its lifespan must begin and end in one task."""
        try:
            manager = self._made(await _built(self.server))
            async with manager.run():
                self._manager = manager
                started.set_result(None)
                await over.wait()
        except Exception as error:
            if started.done():
                raise
            self._forget()  # the next one tries again
            started.set_exception(error)

    def _made(self, server: Any) -> Any:
        from skate.serve.mcp.sdk_events import Manager

        low = server if hasattr(server, "get_request_handler") else getattr(server, "_lowlevel_server", None)
        if low is None:
            raise TypeError(f"{server!r} is no server of the MCP SDK: MCPServer(...) or Server(...)")
        return Manager(  # who may ask was checked before
            app=low,
            json_response=self.json_response,
            stateless=self.options.stateless,
            session_idle_timeout=self.options.session_idle,
            max_request_body_size=self.options.max_body,
            max_sessions=self.options.max_sessions,
        )

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except Exception as error:  # noqa: BLE001  whatever a server's own start raises
                    await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def app(server: Any, *, json_response: bool = False, **options: Unpack[Keywords]) -> McpApp:
    """A server of the official SDK (`mcp.server.MCPServer`, or the low-level `Server`) as an ASGI application.

    Args:
        server: the server; a function without arguments that makes it (async or not); or "module:name" of either. A
            function or a name is needed where the server cannot be pickled and runs in another process.
        json_response: answer without streams: no progress, no questions to the client.
        options: those of `Options`: access, path, stateless and others.

    Raises:
        ImportError: the SDK is not installed.
        TypeError: `server` cannot be a server; an unknown option.
        ValueError: a wrong option; an access that opens some tools and not others, which only gateways and bridges
            can tell apart.
    """
    if not (isinstance(server, str) or callable(server) or hasattr(server, "_lowlevel_server") or _is_low(server)):
        raise TypeError(
            f"server must be one of the MCP SDK, a function that makes it, or 'module:name', not {server!r}"
        )
    if isinstance(server, str) and not all(server.partition(":")):
        raise TypeError(f"{server!r} does not name a server: write 'module:name'")
    if importlib.util.find_spec("mcp") is None:
        raise ImportError("MCP servers need the official SDK: pip install 'skate-ray[mcp]'")
    found = Options.of(options)
    if found.access.limited:
        raise ValueError(
            "tools, resources and prompts of tokens are not told apart here: put the server behind a gateway, "
            "mcp.gateway({'name': mcp.app(server)}, access=...)"
        )
    return McpApp(server, found, json_response=json_response)


def _is_low(server: Any) -> bool:
    return hasattr(server, "get_request_handler")


async def _built(server: Any) -> Any:
    """The server itself, of what stands for it."""
    if isinstance(server, str):
        module, _, name = server.partition(":")
        server = importlib.import_module(module)
        for part in name.split("."):
            server = getattr(server, part)
    if _is_low(server) or hasattr(server, "_lowlevel_server"):
        return server
    make: Callable[[], Any] = server
    made = make()
    return await made if inspect.isawaitable(made) else made


def _with_cors(send: Send, origin: bytes) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *cors(origin)]}
        await send(message)

    return send_with_headers


def _user(caller: Caller) -> Any:
    """A caller in the SDK's terms: a session is its own, and tools can ask who it is. The token stays here."""
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.auth.provider import AccessToken

    issuer, *names = caller.identity
    claims = {"iss": issuer}
    return AuthenticatedUser(
        AccessToken(token="", client_id=names[0] or caller.name, scopes=[], subject=caller.name, claims=claims)
    )
