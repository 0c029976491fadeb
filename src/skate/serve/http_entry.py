"""The way in for requests that belong to nobody here: Serve's own paths, other applications, unknown routes.

`Entry` is an ASGI application over all applications. The proxy runs it for connections that it keeps, replicas for
requests that are not theirs, and `serve.get_asgi_app` gives it to test clients.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from skate.serve import http_answers, measures
from skate.serve.connections import ANSWERING
from skate.serve.context import RequestContext, new_request_id, request_context
from skate.serve.http_relay import relay
from skate.serve.http_routes import Routes, Target

LONGEST_ID = 256
SESSION_HEADER = os.environ.get("RAY_SERVE_SESSION_ID_HEADER_KEY", "x-session-id").lower().encode("latin-1")
"""Names the session that a request belongs to, for request routers that go by it."""
MODEL_HEADER = b"serve_multiplexed_model_id"


def identify(headers: Any) -> tuple[str, str]:
    """The request's id, taken from its headers or made, and the model that it names."""
    request_id = model = ""
    for name, value in headers:
        if name == b"x-request-id":
            request_id = value.decode("latin-1")
        elif len(name) == 26 and name.replace(b"-", b"_") == MODEL_HEADER:
            model = value.decode("latin-1")
    if not request_id or len(request_id) > LONGEST_ID or not request_id.isprintable():
        request_id = new_request_id()
    return request_id, model


def local_path(scope: Any, root_path: str) -> str:
    """The path without what a proxy in front has taken off and uvicorn has put back."""
    path: str = scope["path"]
    return path[len(root_path) :] if root_path and path.startswith(root_path) else path


class Answer:
    """An application's ``send``: adds the request's id, knows whether an answer has begun, and its status."""

    __slots__ = ("complete", "header", "marks", "onward", "slot", "status")

    def __init__(
        self, onward: Callable[[Any], Awaitable[None]], request_id: str, marks: Any = None, slot: int = 0
    ) -> None:
        self.onward = onward
        self.header = (b"x-request-id", request_id.encode("latin-1"))
        self.status = 0
        self.complete = False
        self.marks = marks
        """Where the connection's mark is, if it has one."""
        self.slot = slot

    def __call__(self, message: Any) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.body":
            if not message.get("more_body"):
                self.complete = True
            return self.onward(message)
        if self.marks is not None:
            self.marks[self.slot] = ANSWERING
        if kind == "http.response.start":
            self.status = message["status"]
            headers = [pair for pair in message.get("headers", ()) if pair[0] != b"x-request-id"]
            headers.append(self.header)
            message = {**message, "headers": headers}
        elif kind == "websocket.accept":
            self.status = 101
            message = {**message, "headers": [*message.get("headers", ()), self.header]}
        return self.onward(message)

    async def fail(self, scope: Any, error: BaseException, request_id: str, seen: int = 0) -> None:
        """Tell the client of an error if there is still time; raises it again if an answer has begun."""
        status = seen or http_answers.note(error, request_id, f"{scope.get('method', 'WebSocket')} {scope['path']}")
        if scope["type"] == "websocket":
            if self.status:
                await self.onward({"type": "websocket.close", "code": 1011 if status == 500 else 1013})
            else:
                await self.onward({"type": "websocket.close", "code": 1011})
            return
        if self.complete:
            return
        if self.status:
            raise BrokenAnswerError from error
        _, body, headers = http_answers.described(error)
        await http_answers.send_body(self, body, http_answers.TEXT, status, *headers)


class BrokenAnswerError(Exception):
    """An answer cannot be completed: the connection is to be closed."""


class Entry:
    """An ASGI application over all applications.

    Args:
        handle: ``handle(app, deployment)`` gives a handle.
    """

    def __init__(self, handle: Callable[[str, str], Any]) -> None:
        self.handle = handle
        self.routes: Routes = Routes({})
        self.root_path = ""
        self.request_timeout_s: float | None = None
        self.ready = True
        self._handles: dict[Target, Any] = {}

    def take(self, routes: Mapping[str, Target], root_path: str = "", timeout_s: float | None = None) -> None:
        """Take over new routes and options."""
        self.routes = Routes(routes)
        self.root_path = root_path
        self.request_timeout_s = timeout_s
        self._handles = {target: found for target, found in self._handles.items() if target in routes.values()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        request_id, model = identify(scope["headers"])
        await self.answer(scope, receive, Answer(send, request_id), request_id, model)

    async def answer(self, scope: Any, receive: Any, send: Answer, request_id: str, model: str) -> None:
        """Answer a request whose id is known."""
        path = local_path(scope, self.root_path)
        if path.startswith("/-/") and scope["type"] == "http" and await self.own(path, send):
            return
        prefix = self.routes.prefix(path)
        if prefix is None:
            await not_found(scope, path, send)
            return
        target = self.routes.table[prefix]
        if prefix != "/":
            scope = {**scope, "root_path": scope.get("root_path", "") + prefix}
        request_context.set(RequestContext(request_id, prefix, target[0], model))
        await self.call(target, model, scope, receive, send, request_id)

    async def call(self, target: Target, model: str, scope: Any, receive: Any, send: Answer, request_id: str) -> None:
        """Have an application answer, by its handle."""
        handle = self._handles.get(target)
        if handle is None:
            handle = self._handles[target] = self.handle(*target)
        if model:
            handle = handle.options(multiplexed_model_id=model)
        session = next((value for name, value in scope["headers"] if name == SESSION_HEADER), b"")
        if session:
            handle = handle.options(session_id=session.decode("latin-1"))
        timeout_s = self.request_timeout_s if scope["type"] == "http" else None
        began = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s):
                await relay(handle, scope, receive, send)
        except TimeoutError:
            late = http_answers.RequestTimeoutError(f"Request {request_id} timed out after {timeout_s}s.")
            await send.fail(scope, late, request_id)
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets an answer
            await send.fail(scope, error, request_id)
        finally:
            method, route = scope.get("method", "WEBSOCKET"), request_context.get().route
            measures.http_done(method, route, target[0], send.status or 499, time.perf_counter() - began)

    async def own(self, path: str, send: Any) -> bool:
        """Answer one of Serve's own paths; False for one that is none."""
        if path == "/-/healthz":
            healthy = self.ready
            await http_answers.send_body(
                send, b"success" if healthy else b"no routes yet", b"text/plain", 200 if healthy else 503
            )
        elif path == "/-/routes":
            body, kind = http_answers.encoded({prefix: target[0] for prefix, target in self.routes.table.items()})
            await http_answers.send_body(send, body, kind)
        else:
            return False
        return True


async def not_found(scope: Any, path: str, send: Any) -> None:
    """Say that there is no such route."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})  # ahead of an accept: 403
        return
    body = f"Path '{path}' not found. Ping http://.../-/routes for available routes.".encode()
    await http_answers.send_body(send, body, http_answers.TEXT, 404)


async def lifespan(receive: Any, send: Any) -> None:
    """Take part in the lifespan of whoever serves an application."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
