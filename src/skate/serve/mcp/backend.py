"""Who answers the requests of an endpoint, as a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from skate.serve.mcp.messages import Json, Notification, Request
from skate.serve.mcp.peers import Client
from skate.serve.mcp.rights import Caller
from skate.serve.mcp.sessions import Exchange, Session


class Asked(NamedTuple):
    """A request, and all that is known about who asked it."""

    request: Request
    exchange: Exchange
    caller: Caller
    client: Client
    session: Session | None = None
    """None for a client that has none: it cannot be asked anything on its own stream."""
    modern: bool = False


class Description(NamedTuple):
    """What a backend says of itself."""

    capabilities: dict[str, Any]
    info: dict[str, Any]
    instructions: str | None = None


class Backend(Protocol):
    """Who answers."""

    async def start(self, sessions: Mapping[str, Session]) -> None:
        """Called once, in the event loop in which it is to work; `sessions` are those that there are, by id."""

    async def stop(self) -> None:
        """Called once at the end."""

    def status(self, *, words: bool = True) -> dict[str, Any]:
        """How those are that it asks itself; with what processes wrote last, if `words`."""

    async def describe(self, caller: Caller) -> Description:
        """What it offers."""

    async def answer(self, asked: Asked) -> Json:
        """The result of a request; RpcError is answered as such."""

    async def hear(self, session: Session, notification: Notification) -> None:
        """A notification of a client."""

    async def ended(self, session: Session) -> None:
        """A session has ended."""

    async def listen(self, asked: Asked) -> Json:
        """Serve `subscriptions/listen` until it ends."""
