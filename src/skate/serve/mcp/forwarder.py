"""What a gateway does with a request: find the server that it is for, pass it on, pass back what comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from skate._version import __version__
from skate.serve.mcp import messages
from skate.serve.mcp.backend import Asked, Description
from skate.serve.mcp.changes import Changes
from skate.serve.mcp.checks import OutputChecks
from skate.serve.mcp.listing import Item
from skate.serve.mcp.messages import (
    EMPTY,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    SERVER_DOWN,
    TIMED_OUT,
    Failure,
    Json,
    Notification,
    Request,
    RpcError,
)
from skate.serve.mcp.names import CHANGES, KINDS, Kind, split, split_uri
from skate.serve.mcp.peers import Peer
from skate.serve.mcp.rights import Caller
from skate.serve.mcp.rounds import Rounds
from skate.serve.mcp.sessions import Session
from skate.serve.mcp.upstream import Limits, Upstream

logger = logging.getLogger("skate.serve.mcp")

MOMENT = 1.0
"""Seconds that the first clients wait for servers which are being started."""
LEVEL = "logging/setLevel"


class _Own:
    """A client session's own session with one server."""

    def __init__(self) -> None:
        self.opening = asyncio.Lock()
        self.peer: Peer | None = None
        self.lists: dict[str, list[Item]] = {}
        """What this session's server has listed, by method, as long as it says that it tells of changes."""


class Forwarder:
    """Answers for several servers under prefixed names, or for one under its own.

    Args:
        upstreams: the servers, by name.
        info: what the whole calls itself; None for a single server, which speaks for itself.
        instructions: for models; with None those of the servers.
        limits: how long things may take.
        check_output: hold answers of tools against their output schemas.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        *,
        info: dict[str, Any] | None,
        instructions: str | None,
        limits: Limits,
        check_output: bool,
    ) -> None:
        self.upstreams = {upstream.name: upstream for upstream in upstreams}
        self._by_uri = {upstream.names.uri_prefix: upstream for upstream in upstreams}
        self._only = upstreams[0] if info is None else None
        self._info = info or {"name": "skate", "version": __version__}
        self._instructions = instructions
        self._limits = limits
        self._checks = OutputChecks() if check_output else None
        self._rounds = Rounds()
        self._changes = Changes()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._methods: dict[str, Callable[[Asked], Awaitable[Json]]] = {
            "tools/call": self._call_tool,
            "prompts/get": self._get_prompt,
            "resources/read": self._read_resource,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
            "completion/complete": self._complete,
            LEVEL: self._set_level,
            **dict.fromkeys(KINDS, self._list),
        }

    # the backend's life

    async def start(self, sessions: Mapping[str, Session]) -> None:
        self._changes.sessions = sessions
        for upstream in self.upstreams.values():
            upstream.heard = self._changes.heard
            upstream.changed = self._changes.changed
            self._spawn(self._look_after(upstream))

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._rounds.close()
        await asyncio.gather(*(upstream.close() for upstream in self.upstreams.values()))

    async def ended(self, session: Session) -> None:
        own = [held for held in session.held.values() if isinstance(held, _Own)]
        self._changes.forget(session.tell)
        await asyncio.gather(*(held.peer.close() for held in own if held.peer is not None))

    async def _look_after(self, upstream: Upstream) -> None:
        """Connect at once, so that the first call need not; then look at it from time to time, sooner if it is down."""
        while True:
            await upstream.look()
            await upstream.rest()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # what it says of itself

    async def describe(self, caller: Caller) -> Description:
        if self._only is not None:
            server = (await self._only.shared()).server
            return Description(server.capabilities, server.info, self._instructions or server.instructions)
        capabilities: dict[str, Any] = {
            "tools": {"listChanged": True},
            "prompts": {"listChanged": True},
            "resources": {"listChanged": True, "subscribe": True},
            "logging": {},
            "completions": {},
        }
        instructions = self._instructions
        if instructions is None:
            await self._first_tries()
            said = {name: upstream.instructions for name, upstream in self.upstreams.items()}
            instructions = "\n\n".join(f"{name}: {text}" for name, text in said.items() if text) or None
        return Description(capabilities, self._info, instructions)

    async def _first_tries(self) -> None:
        """Give servers that have just been started a moment to be there."""
        new = [upstream for upstream in self.upstreams.values() if not upstream.tried.is_set()]
        if new:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MOMENT):
                    await asyncio.gather(*(upstream.tried.wait() for upstream in new))

    def status(self, *, words: bool = True) -> dict[str, Any]:
        """The health of each server; with what a process wrote last before it failed, if `words`."""
        return {name: upstream.status(words=words) for name, upstream in self.upstreams.items()}

    # requests

    async def answer(self, asked: Asked) -> Json:
        method = self._methods.get(asked.request.method)
        if method is not None:
            return await method(asked)
        if self._only is not None and not asked.caller.rights.limited:  # what it does is not known here
            return await self._pass_on(asked, self._only, asked.request.params)
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {asked.request.method}")

    async def _call_tool(self, asked: Asked) -> Json:
        upstream, inner, params = self._named(asked, "tools")
        result = await self._pass_on(asked, upstream, params)
        if self._checks is not None:
            self._checks.check(inner, upstream.schemas.get(inner), result)
        return upstream.names.with_outer_uris(result)

    async def _get_prompt(self, asked: Asked) -> Json:
        upstream, _, params = self._named(asked, "prompts")
        return upstream.names.with_outer_uris(await self._pass_on(asked, upstream, params))

    def _named(self, asked: Asked, kind: str) -> tuple[Upstream, str, Json]:
        """The server of a tool or prompt, its name there, and the parameters for there."""
        params = messages.fields(asked.request.params)
        name = messages.text(params, "name")
        if not asked.caller.rights.may(kind, name):
            raise RpcError(INVALID_PARAMS, f"Unknown name {name!r}")  # as if there were none
        if self._only is not None:
            return self._only, name, messages.join(params)  # a name given twice is what was looked at
        server, inner = split(name)
        upstream = self.upstreams.get(server)
        if upstream is None:
            raise RpcError(INVALID_PARAMS, f"Unknown name {name!r}: there is no server {server!r}")
        params["name"] = messages.encode(inner)
        return upstream, inner, messages.join(params)

    async def _read_resource(self, asked: Asked) -> Json:
        upstream, _, params = self._addressed(asked)
        return upstream.names.with_outer_uris(await self._pass_on(asked, upstream, params))

    def _addressed(self, asked: Asked) -> tuple[Upstream, str, Json]:
        """The server of a resource, its address there, and the parameters for there."""
        params = messages.fields(asked.request.params)
        uri = messages.text(params, "uri")
        if not asked.caller.rights.may("resources", uri):
            raise RpcError(INVALID_PARAMS, f"Unknown resource {uri!r}")
        upstream, inner = self._resource(uri)
        params["uri"] = messages.encode(inner)
        return upstream, inner, messages.join(params)

    def _resource(self, uri: str) -> tuple[Upstream, str]:
        if self._only is not None:
            return self._only, uri
        prefix, inner = split_uri(uri)
        upstream = self._by_uri.get(prefix)
        if upstream is None:
            raise RpcError(INVALID_PARAMS, f"Unknown resource {uri!r}: there is no server for {prefix!r}")
        return upstream, inner

    async def _subscribe(self, asked: Asked) -> Json:
        upstream, inner, params = self._addressed(asked)
        result = await self._pass_on(asked, upstream, params)
        if asked.session is not None:
            self._changes.follow(upstream, inner, asked.session.tell)
        return result

    async def _unsubscribe(self, asked: Asked) -> Json:
        upstream, inner, params = self._addressed(asked)
        others = asked.session is not None and self._changes.leave(upstream, inner, asked.session.tell)
        if upstream.one_session and others:
            return EMPTY
        return await self._pass_on(asked, upstream, params)

    async def _complete(self, asked: Asked) -> Json:
        params = messages.fields(asked.request.params)
        ref = messages.fields(params.get("ref", EMPTY))
        if messages.text(ref, "type") == "ref/resource":
            uri = messages.text(ref, "uri")
            allowed = asked.caller.rights.may("resources", uri)
            upstream, inner = self._resource(uri)
            ref["uri"] = messages.encode(inner)
        else:
            name = messages.text(ref, "name")
            allowed = asked.caller.rights.may("prompts", name)
            server, inner = (None, name) if self._only is not None else split(name)
            found = self._only if server is None else self.upstreams.get(server)
            if found is None:
                raise RpcError(INVALID_PARAMS, f"Unknown name {name!r}")
            upstream = found
            ref["name"] = messages.encode(inner)
        if not allowed:
            raise RpcError(INVALID_PARAMS, "Unknown reference")
        params["ref"] = messages.join(ref)
        return await self._pass_on(asked, upstream, messages.join(params))

    async def _set_level(self, asked: Asked) -> Json:
        """For the sessions that this client has with servers, and those that it will have."""
        if self._only is not None and (self._only.one_session or asked.session is None):
            return await self._pass_on(asked, self._only, asked.request.params)
        if asked.session is not None:
            asked.session.held[LEVEL] = asked.request.params
            for held in list(asked.session.held.values()):
                if isinstance(held, _Own) and held.peer is not None and held.peer.alive:
                    with contextlib.suppress(RpcError):  # one that knows no levels does not hinder the others
                        await held.peer.request(LEVEL, asked.request.params)
        return EMPTY

    # lists

    async def _list(self, asked: Asked) -> Json:
        kind = KINDS[asked.request.method]
        if self._only is not None:
            found = [await self._listed(asked, self._only, kind)]
        else:
            found = await asyncio.gather(*(self._items(asked, upstream, kind) for upstream in self.upstreams.values()))
        free = not asked.caller.rights.limited
        shown = [item.shown for items in found for item in items if free or self._may_see(asked, kind, item)]
        return b'{"%b":[%b]}' % (kind.field.encode(), b",".join(shown))

    def _may_see(self, asked: Asked, kind: Kind, item: Item) -> bool:
        name = messages.text(messages.fields(item.shown), kind.key)
        return asked.caller.rights.may(kind.capability, name)

    async def _listed(self, asked: Asked, upstream: Upstream, kind: Kind) -> list[Item]:
        """What a server has, as this client is shown it: by its own session, if there is one."""
        session = asked.session
        own = None if session is None else session.held.get(upstream.name)
        if upstream.one_session or session is None or (own is None and self._only is None):
            return await upstream.view(asked.client).items(kind)
        peer = await self._peer(asked, upstream)
        if not peer.server.can(kind.capability):
            return []
        lists: dict[str, list[Item]] = session.held[upstream.name].lists
        if kind.method not in lists or not peer.server.tells_changes(kind.capability):
            lists[kind.method] = await upstream.fetch(peer, kind)
        return lists[kind.method]

    async def _items(self, asked: Asked, upstream: Upstream, kind: Kind) -> list[Item]:
        """What a server has, nothing if it fails or takes too long: it must not hide what others have."""
        in_session = asked.session is not None and upstream.name in asked.session.held
        if not in_session and (known := upstream.view(asked.client).known(kind)) is not None:
            return known
        task = self._spawn(self._listed(asked, upstream, kind))  # goes on when this one waits no longer
        await asyncio.wait({task}, timeout=self._limits.lists)
        if not task.done():
            logger.warning("MCP server %s: no %s within %g s", upstream.name, kind.method, self._limits.lists)
            task.add_done_callback(lambda late: late.cancelled() or late.exception())  # its error has been told enough
            return []
        try:
            found: list[Item] = await task
        except RpcError as error:
            logger.warning("MCP server %s: no %s: %s", upstream.name, kind.method, error.message)
            return []
        return found

    # passing on

    async def _pass_on(self, asked: Asked, upstream: Upstream, params: Json) -> Json:
        try:
            if asked.modern and not upstream.one_session and self._rounds.concern(asked):
                return await self._rounds.answer(asked, upstream, params)
            peer = await self._peer(asked, upstream)
            relay = _relay(asked, upstream, peer)
            return await peer.request(asked.request.method, params, relay)
        except RpcError as error:
            if error.code in (SERVER_DOWN, TIMED_OUT):
                upstream.suspect()
                if error.data is None:
                    raise RpcError(error.code, f"{upstream.name}: {error.message}", {"server": upstream.name}) from None
            raise

    async def _peer(self, asked: Asked, upstream: Upstream) -> Peer:
        """The session to use: the client's own, where server and client have such."""
        session = asked.session
        if session is None or upstream.one_session:
            return await upstream.shared()
        own = session.held.get(upstream.name)
        if own is not None and own.peer is not None and own.peer.alive:
            found: Peer = own.peer
            return found
        if own is None:
            own = session.held[upstream.name] = _Own()
        async with own.opening:
            if own.peer is None or not own.peer.alive:
                own.lists.clear()
                own.peer = await upstream.own(session.client, _relay(asked, upstream, None, own))
                if (level := session.held.get(LEVEL)) is not None:
                    with contextlib.suppress(RpcError):
                        await own.peer.request(LEVEL, level)
            found = own.peer
            return found

    async def listen(self, asked: Asked) -> Json:
        """`subscriptions/listen`."""
        return await self._changes.listen(asked, self._resource)

    async def hear(self, session: Session, notification: Notification) -> None:
        """What a client tells (its roots have changed, say), told to the sessions that are its own."""
        if notification.method in ("notifications/initialized", "notifications/progress"):
            return
        for held in list(session.held.values()):
            if isinstance(held, _Own) and held.peer is not None and held.peer.alive:
                await held.peer.send(notification)


def _forget(session: Session | None, upstream: Upstream, capability: str) -> None:
    """A list has changed: that of a client's own session, and maybe everybody's."""
    if session is not None and (own := session.held.get(upstream.name)) is not None:
        own.lists.clear()
    upstream.forget(capability)


def _relay(
    asked: Asked, upstream: Upstream, peer: Peer | None, own: _Own | None = None
) -> Callable[[Request | Notification], None]:
    """What is done with what a server sends: during a call (on that call's stream), or (`own`) beside all calls."""
    session = asked.session
    exchange = asked.exchange if own is None else None

    def answer_with(answer: messages.Result | Failure) -> None:
        used = peer if own is None else own.peer
        if used is not None:
            upstream.in_background(used.send(answer))

    def relay(message: Request | Notification) -> None:
        if isinstance(message, Request):
            if message.method == "ping":
                answer_with(messages.Result(message.id, EMPTY))
            elif session is None or upstream.one_session:
                no = RpcError(METHOD_NOT_FOUND, f"the client has no session of its own to answer {message.method}")
                answer_with(Failure(message.id, no.packed()))
            else:
                session.ask(message, exchange, answer_with)
        elif message.method in CHANGES:
            _forget(session, upstream, CHANGES[message.method])
        elif message.method == "notifications/cancelled":
            if session is not None:
                with contextlib.suppress(RpcError):
                    session.withdraw(message)
        else:
            shown = Notification(message.method, upstream.names.with_outer_uris(message.params))
            if exchange is not None:
                exchange.tell(shown)
            elif session is not None:
                session.tell(shown)

    return relay
