"""gRPC: calls of the services that the program names go to the ingress of an application, by its handle.

The application is named by the metadatum ``application``, unless there is only one; the method of the deployment that
is called has the name of the service's. `skate.serve.grpc_replica` is the other end. Needs grpcio.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import grpc.aio

import skate
from skate import exceptions
from skate.serve import measures
from skate.serve.config import gRPCOptions
from skate.serve.context import NAMESPACE, RequestContext, new_request_id, request_context
from skate.serve.exceptions import BackPressureError, DeploymentUnavailableError
from skate.serve.grpc_replica import MANY, ONE, End, StatusError
from skate.serve.grpc_util import REQUEST_ID, RayServegRPCContext
from skate.serve.http_answers import cause_of
from skate.serve.http_routes import Target

log = logging.getLogger("skate.serve")

OWN = "/ray.serve.RayServeAPIService/"
"""Serve's own service, as clients of Ray know it: Healthz and ListApplications."""
LARGEST = 2**31 - 1 - 9  # what gRPC takes as the largest message
"""Bytes of a message."""
LONGEST_TEXT = 4096
"""Characters of an error's text that go with a status: it is sent as a header."""
STATUS = (
    (BackPressureError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeploymentUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
)


class Call(NamedTuple):
    """A method of a service."""

    full: str
    """The service and the method."""
    method: str
    streams: bool
    """Whether the client streams."""
    plain: bool
    """Whether it is one message and one answer."""
    serialize: Callable[[Any], bytes]


class _Servicer:
    """Stands for a servicer when a generated function registers its methods."""

    def __getattr__(self, name: str) -> Any:
        return name


class _Registry:
    """Stands for a server: keeps the handlers that a generated function registers."""

    def __init__(self) -> None:
        self.handlers: list[Any] = []

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """As a server has it."""
        self.handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """As a server has it; the same handlers come as generic ones."""


def load(where: Any) -> Callable[[Any, Any], None]:
    """A generated ``add_..._to_server`` function, or the one of an import path. ValueError names what is none."""
    if callable(where):
        return where  # type: ignore[no-any-return]  # it is called with what such functions take
    module, _, name = str(where).replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"grpc_options.grpc_servicer_functions: {where!r} cannot be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"grpc_options.grpc_servicer_functions: {where!r} is no function")
    return found  # type: ignore[no-any-return]  # the same


class GRPCFront(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """A gRPC server.

    Args:
        handle: ``handle(app, deployment)`` gives a handle.
        target: the ingress of an application by its name; None: there is no such application.
        apps: the names of the applications.
    """

    def __init__(
        self,
        options: gRPCOptions,
        handle: Callable[[str, str], Any],
        target: Callable[[str], Awaitable[Target | None]],
        apps: Callable[[], list[str]],
    ) -> None:
        self.options = options
        self.handle = handle
        self.target = target
        self.apps = apps
        registry = _Registry()
        for function in options.grpc_servicer_functions:
            load(function)(_Servicer(), registry)
        self.registered = registry.handlers
        self.server: Any = None

    async def start(self, host: str) -> int:
        """Listen; the port it became. Raises OSError when the port is taken."""
        limits = [("grpc.max_send_message_length", LARGEST), ("grpc.max_receive_message_length", LARGEST)]
        self.server = grpc.aio.server(options=[*limits, ("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers((self,))
        address = f"[{host}]" if ":" in host else host
        try:
            port: int = self.server.add_insecure_port(f"{address}:{self.options.port}")
        except RuntimeError as error:
            raise OSError(f"Serve cannot listen on {host}, port {self.options.port} for gRPC: {error}") from None
        if self.options.enable_reflection:
            _reflect([entry.service_name() for entry in self.registered], self.server)
        await self.server.start()
        return port

    async def stop(self) -> None:
        """End the server."""
        if self.server is not None:
            await self.server.stop(None)

    def service(self, details: Any) -> Any:
        """How a method is served; None: there is no such method."""
        if details.method.startswith(OWN):
            return self._own(details.method.removeprefix(OWN))
        found = next((made for entry in self.registered if (made := entry.service(details)) is not None), None)
        if found is None:
            return None
        kind = (found.request_streaming, found.response_streaming)
        serialize = found.response_serializer or bytes
        name = details.method.rpartition("/")[2]
        call = Call(details.method, name, kind[0], kind == (False, False), serialize)

        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            """Of a call with streamed answers."""
            async for item in self._call(call, request, context):
                yield item

        async def answer(request: Any, context: Any) -> Any:
            """Of a call with one answer."""
            found = None
            async for value in self._call(call, request, context):
                found = value
            return found

        return _HANDLERS[kind](answers if kind[1] else answer, request_deserializer=found.request_deserializer)

    def _own(self, method: str) -> Any:
        """Serve's own methods; their answers have one field, of strings, encoded here."""

        async def answer(request: bytes, context: Any) -> bytes:
            texts = ["success"] if method == "Healthz" else self.apps()
            return b"".join(b"\x0a" + _length(text) + text.encode() for text in texts)

        if method not in ("Healthz", "ListApplications"):
            return None
        return grpc.unary_unary_rpc_method_handler(answer)

    async def _call(self, call: Call, request: Any, context: Any) -> AsyncIterator[bytes]:
        """The answers to a call, serialized; `request` is an iterator where the client streams."""
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        request_id = metadata.get(REQUEST_ID) or new_request_id()
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        target = await self._target(metadata.get("application", ""), context)
        model = metadata.get("multiplexed_model_id", "")
        request_context.set(RequestContext(request_id, call.method, target[0], model))
        handle = self.handle(*target).options(multiplexed_model_id=model)
        seen = RayServegRPCContext(context)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self.options.request_timeout_s):
                async with contextlib.aclosing((_one if call.plain else _many)(handle, call, request, seen)) as items:
                    async for item in items:
                        if type(item) is RayServegRPCContext:
                            item.apply(context)
                        elif item is not None or not context.code():  # nothing goes with an error
                            yield call.serialize(item)
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets a status
            await self._fail(error, request_id, call.method, context)
        finally:
            measures.grpc_done(call.full, target[0], _status(context), time.perf_counter() - began)

    async def _target(self, name: str, context: Any) -> Target:
        names = self.apps()
        if not name and len(names) == 1:
            name = names[0]
        found = await self.target(name) if name else None
        if found is None:
            known = ", ".join(sorted(names)) or "none"
            what = f"Application {name!r} not found" if name else "Metadata 'application' is needed"
            await context.abort(grpc.StatusCode.NOT_FOUND, f"{what}; there are: {known}")
        assert found is not None
        return found

    async def _fail(self, error: Exception, request_id: str, method: str, context: Any) -> None:
        cause = cause_of(error)
        if isinstance(cause, StatusError):  # the replica has written it to its log
            cause.context.apply(context)
            await context.abort(cause.context.code(), cause.context.details() or cause.text[:LONGEST_TEXT])
        for kind, code in STATUS:
            if isinstance(cause, kind):
                text = str(cause) or f"Request {request_id} timed out after {self.options.request_timeout_s}s."
                await context.abort(code, text)
        if isinstance(cause, AttributeError) or not isinstance(error, exceptions.RayError):
            log.error("Request %s (gRPC %s) failed", request_id, method, exc_info=error)
        else:
            log.error("Request %s (gRPC %s) failed: %s", request_id, method, error)
        await context.abort(grpc.StatusCode.INTERNAL, f"Internal error; the log tells more of request {request_id}")


_HANDLERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By whether the client streams, and whether the answers are streamed."""
_keys = itertools.count()


async def _one(handle: Any, call: Call, request: Any, seen: RayServegRPCContext) -> AsyncGenerator[Any]:
    """The call's context if the method has it, and what it answers."""
    made = handle.options(method_name=ONE).remote(call.method, request, seen)
    over = False
    try:
        value, seen_there = await made
        over = True
    finally:
        if not over:
            made.cancel()
    if seen_there is not None:
        yield seen_there
    yield value


async def _many(handle: Any, call: Call, request: Any, seen: RayServegRPCContext) -> AsyncGenerator[Any]:
    """What a method answers, and at last the call's context if it has that."""
    key = f"{os.getpid():x}-{next(_keys):x}-{os.urandom(4).hex()}" if call.streams else ""
    made = handle.options(method_name=MANY, stream=True).remote(call.method, None if key else request, seen, key)
    pump: asyncio.Task[None] | None = None
    over = False
    try:
        async for item in made:
            if key and pump is None:
                pump = asyncio.ensure_future(_push(item, key, request))
            else:
                yield item
        over = True
    finally:
        if pump is not None:
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError, skate.exceptions.RayError, grpc.RpcError):
                await pump
        if not over:
            made.cancel()


async def _push(replica: str, key: str, requests: Any) -> None:
    """Send on what the client streams."""
    actor = skate.get_actor(replica, namespace=NAMESPACE)
    async for message in requests:
        if not await actor.grpc_push.remote(key, message):
            return
    await actor.grpc_push.remote(key, End())


def _status(context: Any) -> str:
    """With which status a call ends, as far as that is known here."""
    if context.cancelled():
        return str(grpc.StatusCode.CANCELLED)
    found = context.code() or grpc.StatusCode.OK
    if isinstance(found, int):
        found = next((code for code in grpc.StatusCode if code.value[0] == found), grpc.StatusCode.UNKNOWN)
    return str(found)


def _reflect(services: list[str], server: Any) -> None:
    """Have clients ask a server what it serves, where the package for that is installed."""
    try:
        from grpc_reflection.v1alpha import reflection
    except ImportError:
        log.warning("gRPC has no reflection, which needs grpcio-reflection: pip install 'skate-ray[grpc]'")
        return
    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server)


def _length(text: str) -> bytes:
    """A length as protocol buffers write it."""
    left, found = len(text.encode()), b""
    while left > 127:
        found += bytes([left & 127 | 128])
        left >>= 7
    return found + bytes([left])
