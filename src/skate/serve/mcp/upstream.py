"""A server behind a gateway: its sessions, its health, and its lists as they were last heard."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, Protocol

from skate.serve.mcp import messages
from skate.serve.mcp.calls import Relay
from skate.serve.mcp.listing import Item, Listing
from skate.serve.mcp.messages import (
    METHOD_NOT_FOUND,
    SERVER_DOWN,
    TIMED_OUT,
    Failure,
    Json,
    Notification,
    Request,
    Result,
    RpcError,
)
from skate.serve.mcp.names import CHANGES, TOOLS, Kind, Names
from skate.serve.mcp.peers import NOBODY, Client, Peer

logger = logging.getLogger("skate.serve.mcp")

PAGES = 100
"""Pages of a list that are asked for; a server whose list goes on after that is cut off."""
STEADY = 5.0
"""Seconds that a session must last for its end to count as the first failure again."""
VIEWS = 8
"""Sets of abilities of clients for which a server's lists are told apart."""
INTERACTIVE = (b'"sampling"', b'"elicitation"', b'"roots"')
"""What a server can only ask clients that are able to."""
ANSWERS_PING = 5.0
"""Seconds that a server has for a ping."""


class Limits(NamedTuple):
    """How long things may take, in seconds.

    Attributes:
        start: beginning a session, with starting its process.
        call: a call.
        lists: waiting for one server's list before the others' are shown without it.
        fresh: how long a list is believed of a server that does not tell when it changes.
        health: between two looks at a server.
        backoff: the longest pause between two tries to reach a server that fails.
    """

    start: float = 30.0
    call: float = 300.0
    lists: float = 5.0
    fresh: float = 60.0
    health: float = 15.0
    backoff: float = 30.0


class Connector(Protocol):
    """How sessions with one server are begun."""

    one_session: bool
    """All clients share one session: there is one process, or nothing that a session would keep."""

    async def connect(self, client: Client, stray: Relay, ended: Callable[[str, str], None], limits: Limits) -> Peer:
        """Begin a session; RpcError where that fails. `ended` is called if it ends by itself: how, last words."""

    async def close(self) -> None:
        """Give back what all sessions had in common."""

    def abandon(self) -> None:
        """End processes at once: there is no event loop any more."""


class Upstream:
    """One server.

    Args:
        name: what it is called here.
        connector: how sessions are begun.
        names: how its names are shown.
        limits: how long things may take.
        client: who asks in the session that is this process's own.

    Attributes:
        changed: called with "tools", "prompts" or "resources" when such a list has changed.
        heard: called with what the shared session says and what belongs to no call.
    """

    def __init__(self, name: str, connector: Connector, names: Names, limits: Limits, client: Client = NOBODY) -> None:
        self.name = name
        self.names = names
        self.limits = limits
        self.one_session = connector.one_session
        self.failure: str | None = None
        self.restarts = -1
        self._words = ""
        self._suspected = False
        self.schemas: dict[str, Json] = {}
        """Output schemas of tools, by the server's names for them."""
        self._connector = connector
        self._client = client
        self._views: dict[Json, Upstream] = {}
        self.changed: Callable[[str], None] = _nothing
        self.heard: Callable[[Upstream, Notification], None] = _nothing
        self._peer: Peer | None = None
        self._closed = False
        self._since = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self._connecting = asyncio.Lock()
        self._lists: dict[str, tuple[float, list[Item]]] = {}
        self._listing: dict[str, asyncio.Lock] = {}
        self.tried = asyncio.Event()
        """Set once it is known whether the server can be reached."""
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # sessions

    async def shared(self) -> Peer:
        """The session that is this process's own; begun if need be.

        Raises:
            RpcError: SERVER_DOWN, at once while a failed server is left alone.
        """
        peer = self._peer
        if peer is not None and peer.alive:
            return peer
        async with self._connecting:
            if self._peer is not None and self._peer.alive:
                return self._peer
            self._peer = await self._connect(self._client, self._stray, self._ended)
            self._since = time.monotonic()
            self.failure = None
            self.restarts += 1
            self._forget_all()
            return self._peer

    async def own(self, client: Client, stray: Relay) -> Peer:
        """A session for one client. Its end is that client's alone: it keeps nobody else waiting."""
        return await self._connect(client, stray, _nothing)

    async def _connect(self, client: Client, stray: Relay, ended: Callable[[str, str], None]) -> Peer:
        if self._closed:
            raise self._down("it is being ended")
        wait = self._retry_at - time.monotonic()
        if wait > 0:
            raise self._down(f"{self.failure}; it is tried again in {wait:.1f} s")
        try:
            async with asyncio.timeout(self.limits.start):
                return await self._connector.connect(client, stray, ended, self.limits)
        except TimeoutError:
            self._has_failed(f"it did not start within {self.limits.start:g} s")
        except RpcError as error:
            self._has_failed(error.message, error.words)
        raise self._down(self.failure or "it failed")

    def _down(self, why: str) -> RpcError:
        return RpcError(SERVER_DOWN, f"the server {self.name!r} is down: {why}", {"server": self.name})

    def _has_failed(self, why: str, words: str = "") -> None:
        self.failure, self._words = why, words
        self._failures += 1
        self._retry_at = time.monotonic() + min(0.1 * 2**self._failures, self.limits.backoff)
        said = f"; its last words: {words}" if words else ""
        logger.warning("MCP server %s: %s (failure %d)%s", self.name, why, self._failures, said)

    def _ended(self, why: str, words: str = "") -> None:
        """A session has ended by itself."""
        if time.monotonic() - self._since > STEADY:
            self._failures = 0
        self._has_failed(why, words)
        self._forget_all()

    def _stray(self, message: Request | Notification) -> None:
        """What the shared session says beside all calls. Its requests have no client that could answer them."""
        if isinstance(message, Notification):
            if (capability := CHANGES.get(message.method)) is not None:
                self.forget(capability)
            else:
                self.heard(self, message)
        elif self._peer is not None:
            no = RpcError(METHOD_NOT_FOUND, f"nobody is there who could answer {message.method}")
            known = message.method == "ping"
            self.in_background(
                self._peer.send(Result(message.id, messages.EMPTY) if known else Failure(message.id, no.packed()))
            )

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done for which nobody waits."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # lists

    def forget(self, capability: str) -> None:
        """A list has changed: the next one to ask for it gets it anew."""
        for each in (self, *self._views.values()):
            for method in [method for method in each._lists if method.startswith(capability)]:
                del each._lists[method]
        self.changed(capability)

    def _forget_all(self) -> None:
        self._lists.clear()
        for capability in ("tools", "prompts", "resources"):
            self.changed(capability)

    def known(self, kind: Kind) -> list[Item] | None:
        """What is remembered of this kind; None if that may be wrong by now."""
        found = self._lists.get(kind.method)
        up = self._peer is not None and self._peer.alive
        return found[1] if found is not None and up and time.monotonic() < found[0] else None

    async def items(self, kind: Kind) -> list[Item]:
        """What the server has of this kind; from memory, if that is still right. RpcError if it cannot be had."""
        async with self._listing.setdefault(kind.method, asyncio.Lock()):
            if (known := self.known(kind)) is not None:
                return known
            peer = await self.shared()
            items = await self.fetch(peer, kind) if peer.server.can(kind.capability) else []
            told = peer.hears and peer.server.tells_changes(kind.capability)
            self._lists[kind.method] = (time.monotonic() + (86_400.0 if told else self.limits.fresh), items)
            return items

    def view(self, client: Client) -> Upstream:
        """What clients that can do the same as this one are shown: servers have tools that only some can use."""
        if self.one_session or not any(word in client.capabilities for word in INTERACTIVE):
            return self
        able = messages.fields(client.capabilities)
        able = {name: able[name] for name in sorted(able) if name in ("sampling", "elicitation", "roots")}
        key = messages.join(able)
        if not able or (key not in self._views and len(self._views) >= VIEWS):
            return self
        if key not in self._views:
            made = self._views[key] = Upstream(self.name, self._connector, self.names, self.limits, Client(key))
            made.changed, made.heard = self.changed, self.heard
        return self._views[key]

    async def fetch(self, peer: Peer, kind: Kind) -> list[Item]:
        """All pages of a list. What in it cannot be used is left out and told."""
        listing = Listing(kind, self.names)
        params = messages.EMPTY
        cursors: set[Json] = set()
        for _ in range(PAGES):
            try:
                page = messages.fields(await peer.request(kind.method, params))
                for raw in messages.items(page.get(kind.field, b"null")):
                    listing.add(raw)
            except RpcError as error:
                if error.code == METHOD_NOT_FOUND:
                    break  # it has the capability, but not this list of it
                raise
            cursor = page.get("nextCursor", b"null")
            if cursor[:1] != b'"' or cursor in cursors:
                break
            cursors.add(cursor)
            params = messages.join({"cursor": cursor})
        if listing.complaints:
            logger.warning("MCP server %s: what is wrong in %s: %s", self.name, kind.method, listing.complaints)
        if kind is TOOLS:
            for name in listing.items:
                self.schemas.pop(name, None)
            self.schemas.update(listing.schemas)
        return list(listing.items.values())

    # health

    def suspect(self) -> None:
        """A call got no answer: look soon whether the server is still there."""
        self._suspected = True
        self._wake.set()

    async def rest(self) -> None:
        """Wait until it is time to look again."""
        self._wake.clear()
        down = self._peer is None or not self._peer.alive
        pause = max(self._retry_at - time.monotonic(), 0.05) if down else self.limits.health
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()

    async def look(self) -> None:
        """See whether the server is there; begin its session anew if not, once it is time to."""
        peer = self._peer
        if peer is None or not peer.alive:
            if time.monotonic() >= self._retry_at:
                with contextlib.suppress(RpcError):  # it is told by the status
                    await self.shared()
            self.tried.set()
            return
        suspected, self._suspected = self._suspected, False
        if peer.busy and not suspected:
            return  # some answer one thing at a time; what they are at has a limit of its own
        try:
            async with asyncio.timeout(ANSWERS_PING):
                await peer.request("ping", messages.EMPTY)
        except (TimeoutError, RpcError) as error:
            if isinstance(error, RpcError) and error.code not in (SERVER_DOWN, TIMED_OUT):
                return  # it answered, though it knows no ping
            self._ended("it does not answer")
            await peer.close()

    @property
    def instructions(self) -> str | None:
        """What the server wants models to know, as far as it has been heard."""
        return self._peer.server.instructions if self._peer is not None else None

    def status(self, *, words: bool = True) -> dict[str, object]:
        """State, last failure and restarts, for people."""
        up = self._peer is not None and self._peer.alive
        state = "up" if up else "down" if self.failure else "idle"
        failure = f"{self.failure}: {self._words}" if self.failure and self._words and words else self.failure
        return {"state": state, "failure": None if up else failure, "restarts": max(self.restarts, 0)}

    def abandon(self) -> None:
        """End processes at once: there is no event loop any more."""
        self._connector.abandon()

    async def close(self) -> None:
        self._closed = True
        views = [view._peer for view in self._views.values()]
        await asyncio.gather(*(peer.close() for peer in (self._peer, *views) if peer is not None))
        await self._connector.close()


def _nothing(*_: object) -> None:
    """Nobody listens yet."""
