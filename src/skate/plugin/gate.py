"""What every request passes first: its id, the auth rules, the limit of all requests, the log, the metrics."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from skate.plugin import calls, telemetry
from skate.plugin.auth import Rules, is_strange
from skate.plugin.encoding import encode
from skate.plugin.errors import BusyError
from skate.plugin.limits import Limit
from skate.plugin.login import NO_STORE, Login
from skate.plugin.logs import access
from skate.plugin.metrics import Metrics

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
LONGEST_ID = 128
OPEN = ("/health", "/ready")
"""Paths that pass the limit: a service that is busy is not ill."""


class Gate:
    """ASGI middleware.

    Args:
        app: what is behind it.
        rules: who may pass.
        limit: of all requests together.
        metrics: where requests are counted.
        begin: awaited ahead of the first request, should the server not have done so by the lifespan.
        quiet: paths that are not logged; with ``*`` at the end all that begin so.
        logged: whether requests are logged at all.
        login: who has logged in may read some paths without a key; None: nobody logs in.
        tracing: makes a span for each request; None: there are none.
    """

    def __init__(
        self,
        app: Any,
        rules: Rules,
        limit: Limit,
        metrics: Metrics,
        begin: Callable[[], Awaitable[None]],
        quiet: tuple[str, ...] = (),
        logged: bool = True,
        login: Login | None = None,
        tracing: telemetry.Tracing | None = None,
    ) -> None:
        self.app = app
        self.rules = rules
        self.limit = limit
        self.metrics = metrics
        self.begin = begin
        self.begun = False
        self.exact = frozenset(path for path in quiet if not path.endswith("*"))
        self.prefixes = tuple(path[:-1] for path in quiet if path.endswith("*"))
        self.logged = logged
        self.login = login
        self.tracing = tracing

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Answer, or have what is behind answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not self.begun:
            await self.begin()
            self.begun = True
        start = time.perf_counter()
        given = authorization = b""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given = value
            elif name == b"authorization":
                authorization = value
        request_id = _accepted(given) or os.urandom(8).hex()
        token = calls.request_id.set(request_id)
        answer = _Answer(send, request_id.encode())
        self.metrics.ongoing += 1
        try:
            if self.tracing is None:
                await self._pass(scope, receive, answer, authorization)
            else:
                with self.tracing.request(scope, request_id) as span:
                    await self._pass(scope, receive, answer, authorization)
                    self.tracing.answered(span, scope["method"], answer.status, scope.get("route"))
        except BaseException:
            answer.status = answer.status or 500
            raise
        finally:
            self.metrics.ongoing -= 1
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "") or "(none)"
            self.metrics.observe(route, scope["method"], answer.status, seconds)
            if self.logged and not self._is_quiet(scope["path"]):
                _note(scope, answer.status, seconds)
            calls.request_id.reset(token)

    async def _pass(self, scope: Any, receive: Any, answer: _Answer, authorization: bytes) -> None:
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        if root and path.startswith(root + "/"):
            path = path[len(root) :]
        if is_strange(path):
            await refuse(answer, 400, "The path is not written plainly.")
            return
        if self.login is not None and self.login.covers(path) and not self.login.owns(path):
            if not await self._known(self.login, scope, path, answer, authorization):
                return
        elif self.rules and not self._opened(path, authorization):
            await refuse(answer, 401, "A key is needed: Authorization: Bearer KEY", (b"www-authenticate", b"Bearer"))
            return
        if not self.limit.most or path in OPEN:
            await self.app(scope, receive, answer)
            return
        try:
            await self.limit.enter()
        except BusyError as error:
            await refuse(answer, 503, str(error), (b"retry-after", b"1"))
            return
        try:
            await self.app(scope, receive, answer)
        finally:
            self.limit.leave()

    def _opened(self, path: str, authorization: bytes) -> bool:
        return self.rules.allows(path, authorization) or (self.login is not None and self.login.owns(path))

    async def _known(self, login: Login, scope: Any, path: str, answer: _Answer, authorization: bytes) -> bool:
        """Whether somebody has a key for this path, or has logged in; whoever has neither is told so."""
        if self.rules.keys(path) is not None and self.rules.allows(path, authorization):
            return True
        if login.admits(scope):
            answer.headers = (*answer.headers, NO_STORE)
            return True
        status, message, headers = login.turned_away(scope, path)
        await refuse(answer, status, message, *headers)
        return False

    def _is_quiet(self, path: str) -> bool:
        return path in self.exact or bool(self.prefixes and path.startswith(self.prefixes))


class _Answer:
    """An application's ``send``: adds the request's id and knows the status."""

    __slots__ = ("headers", "onward", "status")

    def __init__(self, onward: Send, request_id: bytes) -> None:
        self.onward = onward
        self.headers: tuple[tuple[bytes, bytes], ...] = ((b"x-request-id", request_id),)
        self.status = 0

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self.headers]}
        return self.onward(message)


def _note(scope: Any, status: int, seconds: float) -> None:
    if access.isEnabledFor(logging.INFO):
        fields = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(seconds * 1000, 2),
            "client": (scope.get("client") or ("",))[0],
        }
        access.info("request", extra={"fields": fields})


def _accepted(given: bytes) -> str:
    """An id that a client gave, if it is one."""
    if not given or len(given) > LONGEST_ID or not given.isascii():
        return ""
    text = given.decode()
    return text if text.isprintable() and " " not in text else ""


async def refuse(send: Callable[[Message], Awaitable[None]], status: int, message: str, *headers: Any) -> None:
    """Answer with an envelope that says why not."""
    body = encode({"status": status, "message": message, "data": None})
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
