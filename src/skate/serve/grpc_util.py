"""What methods get that answer gRPC calls: the call's context, and the messages that a client streams.

A method of an ingress deployment takes the message of a call, or `gRPCInputStream` where the client streams. One with
an argument named ``grpc_context`` also gets a `RayServegRPCContext`. Needs no grpcio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

Message = TypeVar("Message")
REQUEST_ID = "request_id"


class RayServegRPCContext:
    """A gRPC call as its method sees it, in another process than the server's: what is set counts when it ends.

    Args:
        grpc_context: the context of the call in the server.
    """

    def __init__(self, grpc_context: Any) -> None:
        self._auth_context = {name: list(values) for name, values in (grpc_context.auth_context() or {}).items()}
        self._code = grpc_context.code()
        self._details = grpc_context.details()
        self._invocation_metadata = [(key, value) for key, value in grpc_context.invocation_metadata() or ()]
        self._peer = grpc_context.peer()
        self._peer_identities = grpc_context.peer_identities()
        self._peer_identity_key = grpc_context.peer_identity_key()
        self._trailing_metadata = [(key, value) for key, value in grpc_context.trailing_metadata() or ()]
        self._compression: Any = None

    def auth_context(self) -> dict[str, Any]:
        """What is known of who calls, by the names of properties."""
        return self._auth_context

    def code(self) -> Any:
        """The `grpc.StatusCode` that was set; what is falsy: none."""
        return self._code

    def details(self) -> Any:
        """The text that was set to go with the code."""
        return self._details

    def invocation_metadata(self) -> list[tuple[str, Any]]:
        """The call's metadata."""
        return self._invocation_metadata

    def peer(self) -> str:
        """The client's address, as in ``ipv4:127.0.0.1:50123``."""
        return str(self._peer)

    def peer_identities(self) -> Any:
        """Who the client is by its certificate; None without one."""
        return self._peer_identities

    def peer_identity_key(self) -> Any:
        """The property of `auth_context` that says so; None: there is none."""
        return self._peer_identity_key

    def trailing_metadata(self) -> list[tuple[str, Any]]:
        """Metadata that goes with the end of the call."""
        return self._trailing_metadata

    def _metadatum(self, name: str) -> Any:
        return dict(self._invocation_metadata).get(name)

    def request_id(self) -> str | None:
        """The metadatum ``request_id`` of the call; None: it has none."""
        return self._metadatum(REQUEST_ID)  # type: ignore[no-any-return]  # text, for its name has no "-bin"

    def application(self) -> str | None:
        """The metadatum ``application``."""
        return self._metadatum("application")  # type: ignore[no-any-return]

    def multiplexed_model_id(self) -> str | None:
        """The metadatum ``multiplexed_model_id``."""
        return self._metadatum("multiplexed_model_id")  # type: ignore[no-any-return]

    def traceparent(self) -> str | None:
        """The metadatum ``traceparent``."""
        return self._metadatum("traceparent")  # type: ignore[no-any-return]

    def tracestate(self) -> str | None:
        """The metadatum ``tracestate``."""
        return self._metadatum("tracestate")  # type: ignore[no-any-return]

    def set_code(self, code: Any) -> None:
        """Have the call end with a `grpc.StatusCode`."""
        self._code = code

    def set_details(self, details: str) -> None:
        """The text that goes with the code."""
        self._details = details

    def set_compression(self, compression: Any) -> None:
        """Have answers compressed: a `grpc.Compression`."""
        self._compression = compression

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Send metadata with the end of the call, in place of what was set before; the request's id is always sent."""
        kept = [(key, value) for key, value in self._trailing_metadata if key == REQUEST_ID][:1]
        more = [(key, value) for key, value in trailing_metadata if not kept or key != REQUEST_ID]
        self._trailing_metadata = kept + more

    def apply(self, grpc_context: Any) -> None:
        """Have what was set here count for the call in the server."""
        if self._code:
            grpc_context.set_code(self._code)
        if self._details:
            grpc_context.set_details(self._details)
        if self._compression is not None:
            grpc_context.set_compression(self._compression)
        if self._trailing_metadata:
            grpc_context.set_trailing_metadata(tuple(self._trailing_metadata))


class gRPCInputStream(AsyncIterator[Message]):
    """The messages that a client streams, to be read with ``async for``.

    Args:
        receive: gives the next message; raises StopAsyncIteration after the last.
    """

    def __init__(self, receive: Callable[[], Awaitable[Message]]) -> None:
        self._receive = receive
        self._cancelled = asyncio.Event()
        self._exhausted = False

    def __aiter__(self) -> gRPCInputStream[Message]:
        return self

    async def __anext__(self) -> Message:
        if self._exhausted or self._cancelled.is_set():
            self._exhausted = True
            raise StopAsyncIteration
        try:
            return await self._receive()
        except StopAsyncIteration:
            self._exhausted = True
            raise

    def cancel(self) -> None:
        """Read no further: the next step of a loop ends it."""
        self._cancelled.set()

    def is_cancelled(self) -> bool:
        """Was it cancelled?"""
        return self._cancelled.is_set()

    @property
    def is_exhausted(self) -> bool:
        """Has its end been read?"""
        return self._exhausted
