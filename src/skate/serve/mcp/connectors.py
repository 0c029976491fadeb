"""How sessions with the different kinds of servers are begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from skate.serve.mcp.asgi import App
from skate.serve.mcp.calls import Relay
from skate.serve.mcp.credentials import AuthorizedLink, ClientCredentials
from skate.serve.mcp.links import AsgiLink, Headers, Link
from skate.serve.mcp.peers import Client, Peer
from skate.serve.mcp.stdio import Command, StdioPeer
from skate.serve.mcp.streamable import HttpPeer
from skate.serve.mcp.upstream import Limits
from skate.serve.mcp.web import WebLink


class StdioConnector:
    """Processes on this machine: one for all clients, or one for each session."""

    def __init__(self, command: Command, *, per_session: bool) -> None:
        self.one_session = not per_session
        self._command = command
        self._processes: set[StdioPeer] = set()

    async def connect(self, client: Client, stray: Relay, ended: Callable[[str, str], None], limits: Limits) -> Peer:
        peer = StdioPeer(self._command, client, stray, ended, timeout=limits.call, start=limits.start)
        await peer.begin()
        self._processes = {known for known in self._processes if known.alive} | {peer}
        return peer

    def abandon(self) -> None:
        for peer in self._processes:
            peer.kill()

    async def close(self) -> None:
        await asyncio.gather(*(peer.close() for peer in self._processes))


class LinkConnector:
    """Servers that speak Streamable HTTP. A session that they forget is begun again by itself.

    Args:
        make: makes the link, in the event loop in which it is used.
        one_session: whether all clients share one session.
    """

    def __init__(self, make: Callable[[], Link], *, one_session: bool = False) -> None:
        self.one_session = one_session
        self._make = make
        self._link: Link | None = None

    async def connect(self, client: Client, stray: Relay, ended: Callable[[str, str], None], limits: Limits) -> Peer:
        if self._link is None:
            self._link = self._make()
        peer = HttpPeer(self._link, client, stray, timeout=limits.call, start=limits.start)
        try:
            await peer.begin()
        except BaseException:
            await peer.close()
            raise
        return peer

    def abandon(self) -> None:
        """Connections go with their event loop."""

    async def close(self) -> None:
        if self._link is not None:
            await self._link.close()


def web(
    url: str, headers: Headers = (), credentials: ClientCredentials | None = None, *, one_session: bool = False
) -> LinkConnector:
    """A server at a URL."""
    WebLink(url, headers)  # says now what is wrong with them
    if credentials is None:
        return LinkConnector(lambda: WebLink(url, headers), one_session=one_session)
    return LinkConnector(lambda: AuthorizedLink(WebLink(url, headers), url, credentials), one_session=one_session)


def asgi(app: App, *, one_session: bool = False) -> LinkConnector:
    """An application in this process."""
    return LinkConnector(lambda: AsgiLink(app), one_session=one_session)
