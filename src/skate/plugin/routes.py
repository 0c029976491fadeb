"""From a plugin's method to a route of FastAPI: its parameters, its answer, its errors."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, get_args, get_origin

from fastapi import APIRouter, BackgroundTasks, HTTPException, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, create_model
from starlette.requests import HTTPConnection

import skate
from skate.plugin import calls, operations
from skate.plugin.backends import NotRunningError
from skate.plugin.cache import ACTIONS, BYPASS, REFRESH, RouteCache
from skate.plugin.carried import head_of
from skate.plugin.consts import CACHE_KEY_HEADER, CACHE_REQUEST_HEADER, CACHE_STATUS_HEADER
from skate.plugin.encoding import encode
from skate.plugin.errors import BusyError, UpstreamError
from skate.plugin.host import hints
from skate.plugin.model import PluginApi
from skate.plugin.sse import StreamEventType, frame, make_stream_event
from skate.serve.exceptions import BackPressureError, DeploymentUnavailableError

log = logging.getLogger("skate.plugin")
REQUEST = "skate_request_"
"""The parameter that brings the request itself; a plugin's own parameters are never called so."""
JSON = "application/json"
NOT_IN_KEYS = (HTTPConnection, Response, BackgroundTasks)
DEEPEST = 200
"""Levels of a body that an answer may have as well: Pydantic writes 255."""
_NO_STREAM_CACHE = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Envelope(BaseModel):
    """What an answer is in, unless the route sends its value raw."""

    status: int
    message: str
    data: Any = None


def envelope(value: Any, status: int = 200, message: str = "success") -> bytes:
    """A value in its envelope, as JSON. Raises TypeError for what has none."""
    return encode({"status": status, "message": message, "data": value})


def problem(status: int, message: str, headers: Any = None, data: Any = None) -> Response:
    """An answer that says what went wrong."""
    return Response(envelope(data, status, message), status, headers, JSON)


def endpoint(api: PluginApi, cls: type, runtime: Any, cache: RouteCache | None, timeout_s: float | None) -> Any:
    """The function that FastAPI calls for a route, with the parameters of the plugin's method."""
    method = inspect.getattr_static(cls, api.method)
    known = hints(method)
    # FastAPI gives the request to one parameter of a function
    kinds = _kinds(known)
    own = next((name for name, kind in kinds.items() if issubclass(kind, Request)), "")
    sets_head = any(issubclass(kind, Response) for kind in kinds.values())
    if api.route.stream:
        answer = _streaming(api, runtime)
    else:
        answer = _answering(api, runtime, cache, timeout_s, own, sets_head)
    parameters = [
        parameter.replace(annotation=known.get(parameter.name, Any), kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(inspect.signature(method).parameters.values())[1:]
        if parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]
    if not own and not api.route.stream:
        parameters.append(inspect.Parameter(REQUEST, inspect.Parameter.KEYWORD_ONLY, annotation=Request))
    answer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    answer.__annotations__ = {each.name: each.annotation for each in parameters}
    answer.__name__ = api.method
    answer.skate_plugin = api.plugin  # type: ignore[attr-defined]
    answer.__doc__ = inspect.getdoc(method)
    return answer


def _kinds(known: dict[str, Any]) -> dict[str, type]:
    """Parameters and the classes that they are annotated with."""
    bare = {name: get_args(kind)[0] if get_origin(kind) is Annotated else kind for name, kind in known.items()}
    return {name: kind for name, kind in bare.items() if name != "return" and isinstance(kind, type)}


def misfit(cls: type, api: PluginApi) -> str:
    """Why a method cannot be a route; empty: it can."""
    for name, kind in _kinds(hints(inspect.getattr_static(cls, api.method))).items():
        if issubclass(kind, WebSocket):
            return f"{api.name} asks for a WebSocket ({name}), and routes are for HTTP"
        if issubclass(kind, Response) and api.route.stream:
            return f"{api.name} asks for the Response ({name}), whose head is sent before a stream begins"
        if issubclass(kind, HTTPConnection) and api.route.cache is not None and "key_builder" not in api.route.cache:
            return (
                f"{api.name} is cached and asks for the request ({name}): "
                "what it reads of that must be in the key, so it needs cache={'key_builder': ...}"
            )
    return ""


def options_of(api: PluginApi, cls: type) -> dict[str, Any]:
    """How FastAPI is to add a method's route."""
    summary = api.method.replace("_", " ").capitalize()
    options: dict[str, Any] = {"response_model": response_model(api, cls), "summary": summary, **api.route.extra}
    if api.route.stream:
        options["response_class"] = StreamingResponse
        options["responses"] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
    return options


def check(api: PluginApi, cls: type) -> None:
    """Raise whatever is wrong with a method as a route: its parameters, its annotations, its further options."""
    if cause := misfit(cls, api):
        raise TypeError(cause)
    if api.path is not None:
        for method in api.route.methods:
            made = endpoint(api, cls, None, None, None)
            APIRouter().add_api_route(api.path, made, methods=[method], **options_of(api, cls))


def _answering(
    api: PluginApi,
    runtime: calls.Runtime,
    cache: RouteCache | None,
    timeout_s: float | None,
    own: str,
    sets_head: bool,
) -> Callable[..., Any]:
    raw = api.route.raw_response
    off = cache is None and api.route.cache is not None

    async def produce(kwargs: dict[str, Any]) -> Response | bytes:
        if timeout_s is None:
            value = await runtime.call(api, kwargs, checked=True)
        else:
            async with asyncio.timeout(timeout_s):
                value = await runtime.call(api, kwargs, checked=True)
        if isinstance(value, Response):
            return value
        body = encode(value) if raw else envelope(value)
        head = head_of(kwargs) if sets_head else None
        if head is None:
            return body
        made = Response(body, head.status_code or 200, media_type=JSON)
        made.raw_headers += head.raw_headers
        return made

    async def answer(**kwargs: Any) -> Response:
        request: Request = kwargs[own] if own else kwargs.pop(REQUEST)
        try:
            if cache is not None:
                return await _cached(cache, request, kwargs, produce)
            body = await produce(kwargs)
        except Exception as error:  # noqa: BLE001  whatever the plugin raises, the client gets an answer
            return failure(api, error, kwargs)
        if isinstance(body, Response):
            return body
        return Response(body, headers={CACHE_STATUS_HEADER: "DISABLED"} if off else None, media_type=JSON)

    return answer


async def _cached(cache: RouteCache, request: Request, kwargs: dict[str, Any], produce: Callable[..., Any]) -> Response:
    action = request.headers.get(CACHE_REQUEST_HEADER, "use").strip().lower()
    if action not in ACTIONS:
        return problem(400, f"{CACHE_REQUEST_HEADER} must be one of {', '.join(ACTIONS)}")
    key = ""
    if action != BYPASS:
        key = cache.key(request, {name: each for name, each in kwargs.items() if not isinstance(each, NOT_IN_KEYS)})
        kept = await asyncio.to_thread(cache.get, key) if action != REFRESH else None
        if kept is not None:
            return Response(kept, headers={CACHE_KEY_HEADER: _digest(key), CACHE_STATUS_HEADER: "HIT"}, media_type=JSON)
    body = await produce(kwargs)
    if isinstance(body, Response):
        return body
    if action == BYPASS:
        return Response(body, headers={CACHE_STATUS_HEADER: "BYPASS"}, media_type=JSON)
    try:
        await asyncio.to_thread(cache.put, key, body)
    except OSError as error:  # a full disk: there is an answer all the same
        log.warning("%s: the answer could not be kept: %s", cache.path, error)
    status = "REFRESH" if action == REFRESH else "MISS"
    return Response(body, headers={CACHE_KEY_HEADER: _digest(key), CACHE_STATUS_HEADER: status}, media_type=JSON)


def _digest(key: str) -> str:
    import hashlib

    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:32]


def _streaming(api: PluginApi, runtime: calls.Runtime) -> Callable[..., Any]:
    async def answer(**kwargs: Any) -> Response:
        items = runtime.stream(api, kwargs, checked=True)
        try:  # what fails ahead of the first item still has a status of its own
            first = await anext(items, _END)
        except Exception as error:  # noqa: BLE001  whatever the plugin raises, the client gets an answer
            return failure(api, error, kwargs)
        response = StreamingResponse(_framed(api, first, items), media_type="text/event-stream")
        response.raw_headers += _NO_STREAM_CACHE
        return response

    return answer


_END = object()


async def _framed(api: PluginApi, first: Any, items: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    try:
        if first is not _END:
            yield frame(first)
            async for item in items:
                yield frame(item)
    except Exception as error:  # noqa: BLE001  the status is sent: all that can be done is an event that says so
        status, message, _ = told(api, error)
        yield make_stream_event(StreamEventType.ERROR, {"status": status, "message": message}).encode()
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


def failure(api: PluginApi, error: BaseException, kwargs: dict[str, Any]) -> Response:
    """The answer to a request that failed."""
    if isinstance(error, RecursionError | TypeError | ValueError) and _is_deep(kwargs):
        return problem(400, "the body is nested too deeply")
    status, message, headers = told(api, error)
    return problem(status, message, headers)


def _is_deep(kwargs: dict[str, Any]) -> bool:
    """Whether arguments are nested deeper than JSON can be written."""
    level: list[Any] = [*kwargs.values()]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for value in level:
            if isinstance(value, BaseModel):
                below += vars(value).values()
            elif isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list | tuple):
                below += value
        level = below
    return bool(level)


def told(api: PluginApi, error: BaseException) -> tuple[int, str, Any]:
    """Status, message and headers of an error. What a client is not to know is in the log alone."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail), error.headers
    if isinstance(error, BusyError | BackPressureError):
        return 503, f"{api.deployment} is busy", {"retry-after": "1"}
    if isinstance(error, TimeoutError):
        return 504, f"{api.deployment} did not answer in time", None
    if isinstance(error, NotRunningError | DeploymentUnavailableError | skate.exceptions.RayActorError):
        log.error("%s: %s", api.name, str(error))
        return 503, f"{api.deployment} does not run", None
    if isinstance(error, UpstreamError):
        log.warning("%s: %s", api.name, str(error))
        return (error.status if error.status in (502, 503, 504) else 502), "an upstream service failed", None
    log.error("%s failed", api.name, exc_info=error)
    operations.report(error, api.plugin, api.name)
    return 500, f"Internal error; request {calls.request_id.get()}", None


def response_model(api: PluginApi, cls: type) -> Any:
    """What the OpenAPI document says a route answers."""
    returns = hints(inspect.getattr_static(cls, api.method)).get("return", Any)
    if api.route.stream or (isinstance(returns, type) and issubclass(returns, Response)):
        return None
    try:
        TypeAdapter(returns)
    except (PydanticSchemaGenerationError, PydanticUserError):
        returns = Any
    if api.route.raw_response:
        return returns
    name = f"{api.deployment.replace('.', '_')}_{api.method}_Answer"
    return create_model(name, status=(int, ...), message=(str, ...), data=(returns, ...))
