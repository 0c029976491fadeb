"""The replica's end of gRPC calls, which the proxy makes by handle.

One message and one answer are a plain call. Where answers are streamed, or what the client sends is, it is a streaming
call: of the answers, and at the end of the call's context if the method has one. What a client streams is pushed to the
replica by calls of its actor, for which it tells its name first, as HTTP does (`skate.serve.http_relay`).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from skate.serve.grpc_util import RayServegRPCContext, gRPCInputStream
from skate.serve.inbox import Inbox

if TYPE_CHECKING:
    from skate.serve.replica import Replica

log = logging.getLogger("skate.serve")

ONE = "__serve_grpc__"
MANY = "__serve_grpc_stream__"
"""The names by which replicas know these calls."""


class End:
    """The client streams nothing any more."""


class StatusError(Exception):
    """A method raised after it had said with which status its call is to end.

    Args:
        context: what it said.
        text: what it raised, as text.
    """

    def __init__(self, context: RayServegRPCContext, text: str) -> None:
        super().__init__(context, text)
        self.context = context
        self.text = text


class Calls:
    """The gRPC calls of one replica."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.inboxes: dict[str, Inbox] = {}
        self._takes_context: dict[str, bool] = {}

    async def one(
        self, method: str, request: Any, context: RayServegRPCContext
    ) -> tuple[Any, RayServegRPCContext | None]:
        """The answer, and the call's context if the method has it."""
        run = self.replica.methods.get(method) or self.replica.runner(method)
        named = self._named(method, context)
        try:
            return await run(request, **named), context if named else None
        except Exception as error:
            _told(error, method, context)
            raise

    async def many(self, method: str, request: Any, context: RayServegRPCContext, key: str) -> AsyncIterator[Any]:
        """The answers, and at last the call's context if the method has it.

        With a key the client streams: then the actor's name comes first, and `request` is nothing.
        """
        found = self.replica.plain(method)
        named = self._named(method, context)
        if key:
            inbox = self.inboxes[key] = Inbox()
            request = gRPCInputStream(lambda: _next(inbox))
            yield self.replica.id.to_full_id_str()
        try:
            if inspect.iscoroutinefunction(found):
                yield await found(request, **named)
            else:
                async for group in self.replica.groups(found, (request,), named):
                    for item in group:
                        yield item
            if named:
                yield context
        except Exception as error:
            _told(error, method, context)
            raise
        finally:
            if key:
                self.inboxes.pop(key).close()

    async def push(self, key: str, message: Any) -> bool:
        """More of what the client streams; False when the call is over."""
        inbox = self.inboxes.get(key)
        if inbox is None:
            return False
        await inbox.put(message)
        return True

    def _named(self, method: str, context: RayServegRPCContext) -> dict[str, Any]:
        takes = self._takes_context.get(method)
        if takes is None:
            takes = self._takes_context[method] = _takes_context(self.replica.plain(method))
        return {"grpc_context": context} if takes else {}


async def _next(inbox: Inbox) -> Any:
    message = await inbox.get()
    if isinstance(message, End):
        raise StopAsyncIteration
    return message


def _takes_context(method: Callable[..., Any]) -> bool:
    try:
        return "grpc_context" in inspect.signature(method).parameters
    except (TypeError, ValueError):  # written in C, without a signature
        return False


def _told(error: Exception, method: str, context: RayServegRPCContext) -> None:
    """Raise what was raised as an error with a status, if the method has set one."""
    if context.code():
        log.error("gRPC %s failed, with the status that it has set", method, exc_info=error)
        raise StatusError(context, str(error)) from error
