"""Values as HTTP answers, and errors as such.

What a deployment without ``@serve.ingress`` returns becomes an answer as in Ray Serve: None is an empty body, str and
bytes are text, a Starlette response is itself, generators stream, and anything else is JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import msgspec

from skate.serve.exceptions import BackPressureError, DeploymentUnavailableError
from skate.serve.streams import MOST, grouped_in_thread

log = logging.getLogger("skate.serve")

TEXT = b"text/plain; charset=utf-8"
AHEAD = 256
"""Chunks that a generator in a thread may be ahead of its client."""
GONE = ("WebSocketDisconnect", "ClientDisconnect", "ClientDisconnected")
"""Errors of Starlette's and uvicorn's that an application did not catch when its client had gone."""
Send = Callable[[Any], Awaitable[None]]


class MalformedBodyError(json.JSONDecodeError):
    """The body of a request is not the JSON that the handler asked for; answered 400 unless it is caught."""


class BodyTooLargeError(ValueError):
    """The body of a request is larger than ``max_body_bytes``; answered 413."""


class RequestTimeoutError(TimeoutError):
    """A request took longer than ``request_timeout_s``; answered 408."""


# ---------------------------------------------------------------------- JSON


def _foreign(value: Any) -> Any:
    """What msgspec cannot encode: pydantic models, NumPy's arrays and numbers; the rest is FastAPI's affair."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    for name in ("tolist", "item"):  # NumPy's arrays and numbers, and what is like them
        if hasattr(value, "dtype") and hasattr(value, name):
            return getattr(value, name)()
    if isinstance(value, BaseException | type) or dataclasses.is_dataclass(value):
        raise TypeError(f"a {type(value).__name__} cannot be answered as JSON")
    from fastapi.encoders import jsonable_encoder

    return jsonable_encoder(value)


_json = msgspec.json.Encoder(enc_hook=_foreign).encode


def encoded(value: Any) -> tuple[bytes, bytes]:
    """The body and the content type that a value is answered with. TypeError for what cannot be JSON."""
    if value is None:
        return b"", b"text/plain"
    if type(value) is str:
        return value.encode(), TEXT
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value), b"text/plain"
    if isinstance(value, str):
        return str(value).encode(), TEXT
    return _json(value), b"application/json"


async def send_body(send: Send, body: bytes, kind: bytes, status: int = 200, *more: tuple[bytes, bytes]) -> None:
    """Send a whole answer."""
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# ---------------------------------------------------------------------- handlers


def handler_app(
    handler: Callable[..., Any], in_thread: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[None]]:
    """An ASGI application of a handler, which takes a `starlette.requests.Request` or nothing.

    Args:
        handler: a function or bound method. Coroutine functions run on the event loop, others by `in_thread`.
        in_thread: ``in_thread(function, args, kwargs)`` runs a function in a thread.
    """
    from starlette.requests import Request
    from starlette.responses import Response

    class JSONRequest(Request):
        """A request whose malformed JSON is told from other errors."""

        async def json(self) -> Any:
            try:
                return await super().json()
            except json.JSONDecodeError as error:
                raise MalformedBodyError(error.msg, error.doc, error.pos) from None
            except UnicodeDecodeError as error:
                raise MalformedBodyError(f"not UTF-8: {error.reason}", "", error.start) from None

    takes = takes_arguments(handler)
    here = inspect.iscoroutinefunction(handler)
    makes = here or inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": "no WebSocket is served here"})
            return
        args = (JSONRequest(scope, receive, send),) if takes else ()
        value = handler(*args) if makes else await in_thread(handler, args, {})
        if here or inspect.isawaitable(value):
            value = await value
        if isinstance(value, Response):
            await value(scope, receive, send)
        elif hasattr(value, "__aiter__"):
            await stream(send, value)
        elif inspect.isgenerator(value):
            await stream(send, in_a_thread(value, in_thread))
        else:
            body, kind = encoded(value)
            await send_body(send, body, kind)

    return app


def takes_arguments(handler: Callable[..., Any]) -> bool:
    """Can it be given a request?"""
    try:
        return bool(inspect.signature(handler).parameters)
    except (TypeError, ValueError):  # written in C, without a signature
        return True


async def stream(send: Send, chunks: AsyncIterator[Any]) -> None:
    """Answer with chunks as they come."""
    started = False
    try:
        async for chunk in chunks:
            body = chunk.encode() if type(chunk) is str else chunk if type(chunk) is bytes else encoded(chunk)[0]
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", TEXT)]})
            await send({"type": "http.response.body", "body": body, "more_body": True})
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()
    if not started:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", TEXT)]})
    await send({"type": "http.response.body", "body": b""})


async def in_a_thread(items: Iterator[Any], in_thread: Callable[..., Awaitable[Any]]) -> AsyncIterator[Any]:
    """The items of a generator that may block, which runs in a thread, each as soon as it is there."""
    async with contextlib.aclosing(grouped_in_thread(items, in_thread, ahead=AHEAD - MOST)) as groups:
        async for group in groups:
            for item in group:
                yield item


# ---------------------------------------------------------------------- errors


def cause_of(error: BaseException) -> BaseException:
    """What a replica raised, of the error that its caller gets."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def described(error: BaseException) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Status, body and headers that tell a client of an error. Nothing of a trace is among them."""
    error = cause_of(error)
    if isinstance(error, RequestTimeoutError):
        return 408, str(error).encode(), []
    if isinstance(error, BackPressureError):
        after = 1 if error.retry_after_s is None else math.ceil(error.retry_after_s)
        return error.status_code, str(error).encode(), [(b"retry-after", b"%d" % after)]
    if isinstance(error, DeploymentUnavailableError):
        return 503, str(error).encode(), []
    if isinstance(error, MalformedBodyError):
        return 400, f"The body is not valid JSON: {error.msg} at {error.pos}".encode(), []
    if isinstance(error, BodyTooLargeError):
        return 413, str(error).encode(), [(b"connection", b"close")]
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and hasattr(error, "detail"):  # Starlette's and FastAPI's HTTPException
        headers = [(name.encode(), value.encode()) for name, value in (getattr(error, "headers", None) or {}).items()]
        return status, str(getattr(error, "detail", "")).encode(), headers
    return 500, b"Internal Server Error", []


def note(error: BaseException, request_id: str, what: str) -> int:
    """Write an error to the log where it is the server's; the status that it is answered with."""
    if type(error).__name__ in GONE:
        log.debug("The client of request %s (%s) has gone", request_id, what)
        return 499
    status = described(error)[0]
    if status >= 500 and status != 503:
        log.error("Request %s (%s) failed", request_id, what, exc_info=error)
    return status
