"""What cannot be pickled on its way to a plugin's process and back: files, the request, the answer's head, tasks.

A method may take FastAPI's ``Request``, ``Response`` and ``BackgroundTasks``. In the plugin's process it gets objects
of the same kinds: a request with the same head and body; an answer whose status and headers come back with the value;
and tasks that run in that process once the method has returned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from starlette.background import BackgroundTasks
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse

log = logging.getLogger("skate.plugin")
HEAD = (
    *("type", "http_version", "method", "scheme", "path", "raw_path", "root_path", "query_string", "headers"),
    *("client", "server", "path_params"),
)
"""What of a request's scope is sent: all that pickle can take."""
_running: set[asyncio.Task[None]] = set()


@dataclass(frozen=True)
class SentFile:
    """An uploaded file."""

    filename: str | None
    headers: list[tuple[str, str]]
    content: bytes


@dataclass(frozen=True)
class SentRequest:
    """A request: its head, and its body or, where that was read as a form, the form's fields."""

    head: Mapping[str, Any]
    body: bytes | None
    form: list[tuple[str, str | SentFile]] | None = None


@dataclass(frozen=True)
class SentKind:
    """A parameter of which nothing but its kind is sent."""

    kind: type


@dataclass(frozen=True)
class Returned:
    """A value, with what the method has set of the answer's head."""

    value: Any
    status: int | None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


async def portable(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that can be sent."""
    found = dict(kwargs)
    for name, value in kwargs.items():
        kind = type(value)
        if kind is str or kind is int:
            continue
        if kind is list:
            found[name] = [await _sent_file(each) if isinstance(each, UploadFile) else each for each in value]
        elif isinstance(value, UploadFile):
            found[name] = await _sent_file(value)
        elif isinstance(value, HTTPConnection):
            found[name] = await _sent_request(value)
        elif isinstance(value, BackgroundTasks):
            found[name] = SentKind(BackgroundTasks)
        elif isinstance(value, Response):
            found[name] = SentKind(Response)
    return found


async def _sent_file(file: UploadFile) -> SentFile:
    await file.seek(0)  # it may be sent twice: as itself, and as a part of the request
    content = await file.read()
    await file.seek(0)
    return SentFile(file.filename, list(file.headers.items()), content)


async def _sent_request(request: HTTPConnection) -> SentRequest:
    head = {name: request.scope[name] for name in HEAD if name in request.scope}
    if not isinstance(request, Request):
        return SentRequest(head, b"")
    form: FormData | None = request._form
    if form is None:
        return SentRequest(head, await request.body())
    fields = [(name, each if isinstance(each, str) else await _sent_file(each)) for name, each in form.multi_items()]
    return SentRequest(head, None, fields)


def opened(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments as they were before `portable`."""
    if not any(type(value) in _OPENED for value in kwargs.values()):
        return kwargs
    return {
        name: [_opened(each) for each in value] if type(value) is list else _opened(value)
        for name, value in kwargs.items()
    }


def _opened(value: Any) -> Any:
    if type(value) is SentFile:
        size = len(value.content)
        headers = Headers(raw=[(name.encode("latin-1"), text.encode("latin-1")) for name, text in value.headers])
        return UploadFile(BytesIO(value.content), size=size, filename=value.filename, headers=headers)
    if type(value) is SentRequest:
        return _opened_request(value)
    if type(value) is SentKind:
        return BackgroundTasks() if value.kind is BackgroundTasks else _blank()
    return value


_OPENED = frozenset({SentFile, SentRequest, SentKind, list})


def _opened_request(sent: SentRequest) -> Request:
    messages = iter([{"type": "http.request", "body": sent.body or b"", "more_body": False}])

    async def receive() -> Any:
        for message in messages:
            return message
        await asyncio.Event().wait()  # a client that goes away ends the call, and is not told of here

    request = Request(dict(sent.head), receive)
    if sent.form is not None:
        request._form = FormData([(name, _opened(each)) for name, each in sent.form])
        request._stream_consumed = True
    return request


def _blank() -> Response:
    """An answer of which nothing is set."""
    made = Response()
    del made.headers["content-length"]
    made.status_code = None  # type: ignore[assignment]
    return made


async def with_head(value: Any, kwargs: Mapping[str, Any]) -> Any:
    """A method's value as it is sent back: with what the method has set by its arguments. Starts background tasks."""
    if isinstance(value, StreamingResponse):
        value = await _whole(value)
    begin_tasks(kwargs)
    own = head_of(kwargs)
    return value if own is None else Returned(value, own.status_code, list(own.raw_headers))


def begin_tasks(kwargs: Mapping[str, Any]) -> None:
    """Start the background tasks that a method has added to its argument."""
    for each in kwargs.values():
        if isinstance(each, BackgroundTasks) and each.tasks:
            task = asyncio.create_task(_run(each))
            _running.add(task)
            task.add_done_callback(_running.discard)


def take_head(returned: Returned, kwargs: Mapping[str, Any]) -> Any:
    """The value, after what was set of the answer's head is set where the request is answered."""
    for each in kwargs.values():
        if isinstance(each, Response):
            each.raw_headers += returned.headers
            each.status_code = returned.status  # type: ignore[assignment]
    return returned.value


async def _run(tasks: BackgroundTasks) -> None:
    try:
        await tasks()
    except Exception:  # the answer is sent: the log is the only place to tell
        log.exception("a background task failed")


async def _whole(answer: StreamingResponse) -> Response:
    """An answer that is made piece by piece, as a whole: pieces do not cross processes."""
    parts = [part.encode() if isinstance(part, str) else bytes(part) async for part in answer.body_iterator]
    made = Response(b"".join(parts), answer.status_code)
    made.raw_headers += [pair for pair in answer.raw_headers if pair[0] != b"content-length"]
    return made


def head_of(kwargs: Mapping[str, Any]) -> Response | None:
    """The ``Response`` among a method's arguments, where the method has set anything of it."""
    own = next((each for each in kwargs.values() if isinstance(each, Response)), None)
    return own if own is not None and (own.status_code is not None or own.raw_headers) else None
