"""gRPC: calls of the services that the program names go to the ingress of an application, by its handle.

Unary calls and calls with streamed answers. The application is named by the metadatum ``application``, unless there is
only one; the method of the deployment that is called has the name of the service's. Needs grpcio.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from skate import exceptions
from skate.serve import measures
from skate.serve.config import gRPCOptions
from skate.serve.context import RequestContext, new_request_id, request_context
from skate.serve.exceptions import BackPressureError, DeploymentUnavailableError
from skate.serve.http_answers import cause_of
from skate.serve.http_routes import Target

log = logging.getLogger("skate.serve")

OWN = "/ray.serve.RayServeAPIService/"
"""Serve's own service, as clients of Ray know it: Healthz and ListApplications."""
LARGEST = 2**31 - 1 - 9  # what gRPC takes as the largest message
"""Bytes of a message."""
STATUS = (
    (BackPressureError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeploymentUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
)


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
        method = details.method.rpartition("/")[2]
        codecs = {"request_deserializer": found.request_deserializer, "response_serializer": found.response_serializer}
        if found.request_streaming:
            return grpc.stream_stream_rpc_method_handler(_refuse_streams, **codecs)
        if found.response_streaming:

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                async for item in self._call(method, request, context, stream=True):
                    yield item

            return grpc.unary_stream_rpc_method_handler(stream, **codecs)

        async def answer(request: Any, context: Any) -> Any:
            async for value in self._call(method, request, context, stream=False):
                return value

        return grpc.unary_unary_rpc_method_handler(answer, **codecs)

    def _own(self, method: str) -> Any:
        """Serve's own methods; their answers have one field, of strings, encoded here."""

        async def answer(request: bytes, context: Any) -> bytes:
            texts = ["success"] if method == "Healthz" else self.apps()
            return b"".join(b"\x0a" + _length(text) + text.encode() for text in texts)

        if method not in ("Healthz", "ListApplications"):
            return None
        return grpc.unary_unary_rpc_method_handler(answer)

    async def _call(self, method: str, request: Any, context: Any, *, stream: bool) -> AsyncIterator[Any]:
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        request_id = metadata.get("request_id") or new_request_id()
        context.set_trailing_metadata((("request_id", request_id),))
        target = await self._target(metadata.get("application", ""), context)
        request_context.set(RequestContext(request_id, method, target[0], metadata.get("multiplexed_model_id", "")))
        handle = self.handle(*target).options(
            method_name=method, stream=stream, multiplexed_model_id=metadata.get("multiplexed_model_id", "")
        )
        began, status = time.perf_counter(), 200
        try:
            async with asyncio.timeout(self.options.request_timeout_s):
                made = handle.remote(request)
                if not stream:
                    yield await made
                    return
                async for item in made:
                    yield item
        except asyncio.CancelledError:
            made.cancel()
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets a status
            status = 500
            await self._fail(error, request_id, method, context)
        finally:
            measures.http_done("POST", method, target[0], status, time.perf_counter() - began)

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
        for kind, code in STATUS:
            if isinstance(cause, kind):
                text = str(cause) or f"Request {request_id} timed out after {self.options.request_timeout_s}s."
                await context.abort(code, text)
        if isinstance(cause, AttributeError) or not isinstance(error, exceptions.RayError):
            log.error("Request %s (gRPC %s) failed", request_id, method, exc_info=error)
        else:
            log.error("Request %s (gRPC %s) failed: %s", request_id, method, error)
        await context.abort(grpc.StatusCode.INTERNAL, f"Internal error; the log tells more of request {request_id}")


async def _refuse_streams(requests: Any, context: Any) -> AsyncIterator[Any]:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Serve takes no streamed requests by gRPC")
    yield


def _length(text: str) -> bytes:
    """A length as protocol buffers write it."""
    left, found = len(text.encode()), b""
    while left > 127:
        found += bytes([left & 127 | 128])
        left >>= 7
    return found + bytes([left])
