"""A session with an MCP server, whatever carries it, and how it begins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from skate._version import __version__
from skate.serve.mcp import messages
from skate.serve.mcp.calls import Relay
from skate.serve.mcp.messages import HANDSHAKE_VERSIONS, Failure, Json, Notification, Result, RpcError


class Server(msgspec.Struct, frozen=True):
    """What a server says of itself when a session begins."""

    version: str
    capabilities: dict[str, Any]
    info: dict[str, Any]
    instructions: str | None = None

    def can(self, capability: str) -> bool:
        return isinstance(self.capabilities.get(capability), dict)

    def tells_changes(self, capability: str) -> bool:
        """Whether it says so when its list of tools, prompts or resources changes."""
        found = self.capabilities.get(capability)
        return isinstance(found, dict) and found.get("listChanged") is True


class Client(msgspec.Struct, frozen=True):
    """Who opens a session: shown to the server."""

    capabilities: Json = messages.EMPTY
    info: Json = messages.encode({"name": "skate", "version": __version__})


NOBODY = Client()


class Peer(Protocol):
    """A session with a server that has begun."""

    server: Server

    @property
    def alive(self) -> bool:
        """False once the session has ended for good."""

    @property
    def hears(self) -> bool:
        """Whether what the server says beside all calls arrives."""

    @property
    def busy(self) -> bool:
        """Whether a call is under way. Some servers answer nothing else meanwhile."""

    async def request(self, method: str, params: Json, relay: Relay | None = None) -> Json:
        """Call the server; its result.

        Args:
            method: the method.
            params: its parameters, an object.
            relay: takes what the server sends in between.

        Raises:
            RpcError: the server's own error; TIMED_OUT; SERVER_DOWN when the session or the server is lost.
        """

    async def send(self, message: Notification | Result | Failure) -> None:
        """A notification, or the answer to a request of the server. What cannot be delivered any more is dropped."""

    async def close(self) -> None:
        """End the session. Calls under way fail with SERVER_DOWN."""


async def shake_hands(request: Callable[[str, Json], Awaitable[Json]], client: Client) -> Server:
    """Begin a session: `initialize`. The caller still has to send `notifications/initialized`.

    Raises:
        RpcError: the server refuses, or answers what is no such result.
    """
    params = messages.join(
        {
            "protocolVersion": messages.encode(HANDSHAKE_VERSIONS[-1]),
            "capabilities": client.capabilities,
            "clientInfo": client.info,
        }
    )
    raw = await request("initialize", params)
    try:
        found = msgspec.json.decode(raw, type=_Initialized)
    except msgspec.MsgspecError as error:
        raise RpcError(messages.INTERNAL_ERROR, f"the server's answer to initialize is wrong: {error}") from None
    if found.protocolVersion not in HANDSHAKE_VERSIONS:
        raise RpcError(messages.INTERNAL_ERROR, f"the server wants the unknown protocol {found.protocolVersion!r}")
    return Server(found.protocolVersion, found.capabilities, found.serverInfo, found.instructions)


class _Initialized(msgspec.Struct):
    protocolVersion: str
    capabilities: dict[str, Any]
    serverInfo: dict[str, Any]
    instructions: str | None = None
