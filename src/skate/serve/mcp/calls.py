"""The calls of one session with a server: whose answer is this? Pure: bytes in, bytes out, no sockets, no processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from skate.serve.mcp import messages
from skate.serve.mcp.messages import INTERNAL_ERROR, Failure, Json, Message, Notification, Request, Result, RpcError

logger = logging.getLogger("skate.serve.mcp")

Relay = Callable[[Request | Notification], None]
"""Takes what a server sends while a call runs, or beside all calls: notifications, and requests to the client."""


class Call:
    """A request that waits for its answer."""

    __slots__ = ("answer", "number", "relay", "token")

    def __init__(self, number: int, relay: Relay | None, token: Json | None) -> None:
        self.number = number
        self.relay = relay
        self.token = token
        """The client's own progress token."""
        self.answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()


class Calls:
    """The requests under way in one session.

    Requests of many clients share the session, so each gets a number of its own, which is also its progress token;
    what comes back carries the client's again.

    Args:
        stray: takes what belongs to no call.
    """

    def __init__(self, stray: Relay) -> None:
        self._stray = stray
        self._calls: dict[int, Call] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._calls)

    def begin(self, method: str, params: Json, relay: Relay | None) -> tuple[Call, bytes]:
        """A new call, and the request to send for it."""
        self._last += 1
        token = None
        if b'"progressToken"' in params:
            params, token = _with_token(params, self._last)
        call = self._calls[self._last] = Call(self._last, relay, token)
        return call, Request(call.number, method, params).pack()

    def end(self, call: Call) -> None:
        """Nobody waits for this call any more."""
        self._calls.pop(call.number, None)

    def cancelled(self, call: Call, reason: str) -> bytes:
        """Forget a call; the notification that tells the server."""
        self.end(call)
        return Notification(
            "notifications/cancelled", messages.encode({"requestId": call.number, "reason": reason})
        ).pack()

    def take(self, message: Message, call: Call | None = None) -> None:
        """Give a server's message to whom it belongs; `call` is the one on whose stream it came, if that is known."""
        if isinstance(message, Result | Failure):
            self._answer(message, call)
        elif message.method == "notifications/progress":
            self._progress(message)
        else:
            if call is None and len(self._calls) == 1:
                call = next(iter(self._calls.values()))
            relay = self._stray if call is None or call.relay is None else call.relay
            relay(message)

    def fail(self, error: RpcError) -> None:
        """All calls end with this error."""
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.answer.done():
                call.answer.set_exception(error)

    def fail_one(self, number: int, error: RpcError) -> bool:
        """One call ends with this error; False if there is none with this number."""
        call = self._calls.pop(number, None)
        if call is None or call.answer.done():
            return False
        call.answer.set_exception(error)
        return True

    def _answer(self, message: Result | Failure, on_stream_of: Call | None) -> None:
        number = message.id
        if number is None and on_stream_of is not None:  # an error about a request whose id could not be read
            number = on_stream_of.number
        call = self._calls.pop(number, None) if isinstance(number, int) else None
        if call is None or call.answer.done():
            logger.debug("an answer with the id %r, for which nobody waits", message.id)
        elif isinstance(message, Failure):
            call.answer.set_exception(RpcError.unpack(message.error))
        elif message.value[:1] != b"{":
            call.answer.set_exception(RpcError(INTERNAL_ERROR, "the server's result is no object"))
        else:
            call.answer.set_result(message.value)

    def _progress(self, message: Request | Notification) -> None:
        try:
            params = messages.fields(message.params)
            number = messages.decode(params.get("progressToken", b"null"))
        except RpcError:
            number = None
        call = self._calls.get(number) if isinstance(number, int) else None
        if call is None or call.token is None or call.relay is None:
            return  # it came after the answer, or nobody asked for it
        params["progressToken"] = call.token
        call.relay(Notification(message.method, messages.join(params)))


def _with_token(params: Json, number: int) -> tuple[Json, Json | None]:
    """Parameters with another progress token, and the one that they had."""
    found = messages.fields(params)
    if found.get("_meta", b"")[:1] != b"{":
        return params, None
    meta = messages.fields(found["_meta"])
    token = meta.get("progressToken")
    if token is None:
        return params, None
    meta["progressToken"] = messages.encode(number)
    found["_meta"] = messages.join(meta)
    return messages.join(found), token
