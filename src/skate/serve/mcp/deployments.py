"""MCP servers as deployments of `skate.serve`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

from skate import serve
from skate.serve.mcp.asgi import SESSION, App
from skate.serve.mcp.connectors import LinkConnector
from skate.serve.mcp.forwarding import Bridge, Forwarding, Gateway, Server
from skate.serve.mcp.links import AppLink, Headers, LinkError, Response, UnreachableError
from skate.serve.mcp.sdk import McpApp
from skate.serve.mcp.sdk import app as make_app
from skate.serve.mcp.sticky import Doors, Sticky
from skate.serve.mcp.upstream import Connector


def deployment(server: Any, *, name: str | None = None, **options: Any) -> serve.Application:
    """An MCP server as an application of serve: ``serve.run(mcp.deployment(server), route_prefix="/mcp")``.

    Clients may be answered by any replica: each passes requests on to the one that holds their session (on this
    machine). Servers that are `stateless` spare that.

    Args:
        server: what `app`, `bridge` or `gateway` gave; or what `app` takes. Deployments among a gateway's servers are
            deployed with it.
        name: the deployment's name. Default: one that tells the kind.
        options: those of `serve.deployment`. Unless they are given, `max_ongoing_requests` is 1000 and
            `graceful_shutdown_timeout_s` 5: a client that listens is a request all the time.

    Raises:
        TypeError: `server` is no server.
    """
    found = server if isinstance(server, Forwarding | McpApp) else make_app(server)
    kinds = ((Gateway, "McpGateway"), (Bridge, "McpBridge"), (McpApp, "McpServer"))
    kind = next(text for cls, text in kinds if isinstance(found, cls))
    children = (
        {key: child.application for key, child in found.servers.items() if isinstance(child, Child)}
        if isinstance(found, Gateway)
        else {}
    )
    options.setdefault("max_ongoing_requests", 1000)
    options.setdefault("graceful_shutdown_timeout_s", 5)
    made: Any = serve.deployment(McpReplica).options(name=name or kind, **options)
    bound: serve.Application = made.bind(found, children)
    return bound


@serve.ingress()
class McpReplica:
    """What a replica of an MCP server holds."""

    def __init__(self, app: Any, children: Mapping[str, Any]) -> None:
        if isinstance(app, Gateway):
            for name, handle in children.items():
                app.servers[name] = _Handled(handle)
        self._inner = app
        self._app: App = app if app.options.stateless else Sticky(app, app.options.max_body)
        self._link = AppLink(self._app)

    def __del__(self) -> None:
        for part in (self._app, self._inner):
            if isinstance(part, Sticky | Forwarding):
                part.abandon()

    def __serve_build_asgi_app__(self) -> App:
        return self._app

    def status(self) -> dict[str, dict[str, object]]:
        """What `status` of a gateway or a bridge says, of this replica; for handles."""
        return self._inner.status() if isinstance(self._inner, Forwarding) else {}

    async def mcp(self, pid: int, method: str, headers: Headers, body: bytes) -> AsyncIterator[Any]:
        """A request by a handle: status and headers first, then the body as it comes.

        Where it came from another process, that one finds a shorter way for the next requests of a session.
        """
        if isinstance(self._app, Sticky) and pid != os.getpid():
            await self._app.open()
        response = await self._link.open(method, headers, body)
        complete = False
        try:
            yield response.status, response.headers
            while part := await response.chunk():
                yield part
            complete = True
        finally:
            response.release(cut=not complete)


class Child(Server):
    """A deployment behind a gateway, before it is deployed."""

    def __init__(self, application: serve.Application) -> None:
        self.application = application

    def connector(self) -> Connector:
        raise RuntimeError(
            "a gateway with deployments among its servers runs as a deployment: serve.run(mcp.deployment(gateway))"
        )

    def __reduce__(self) -> Any:
        return (_gone, ())  # its handle takes its place in the replica


def _gone() -> Any:
    return None


class _Handled(Server):
    """A deployment behind a gateway, reached by its handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def connector(self) -> Connector:
        return LinkConnector(lambda: HandleLink(self._handle))


class HandleLink:
    """Requests to a deployment by its handle; those of a session straight to the replica that holds it."""

    def __init__(self, handle: Any) -> None:
        self._call = handle.options(method_name="mcp", stream=True)
        self._doors = Doors(trusted=True)

    async def open(self, method: str, headers: Headers, body: bytes = b"") -> Response:
        session = next((value for name, value in headers if name == SESSION), b"")
        if session and (door := self._doors.find(session.partition(b".")[0])) is not None:
            with contextlib.suppress(UnreachableError):  # the replica has gone: another one will say so
                return await door.open(method, (_HOST, *headers), body)
        parts = self._call.remote(os.getpid(), method, list(headers), body)
        response = _HandleResponse(parts)
        await response.head()
        return response

    async def close(self) -> None:
        await self._doors.close()


_HOST = (b"host", b"localhost")


class _HandleResponse:
    """The answer of a deployment, part by part."""

    def __init__(self, parts: Any) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._parts = parts

    async def _next(self) -> Any:
        try:
            return await anext(self._parts, b"")
        except Exception as error:
            # a replica that died, back-pressure, or what the application raised: the server is not there for now
            raise LinkError(f"the deployment did not answer: {type(error).__name__}: {error}") from error

    async def head(self) -> None:
        first = await self._next()
        if not isinstance(first, tuple):
            raise LinkError("the deployment gave no answer")
        self.status, self.headers = first

    async def chunk(self) -> bytes:
        part: bytes = await self._next()
        return part

    def release(self, *, cut: bool = False) -> None:
        if cut:
            self._parts.cancel()
