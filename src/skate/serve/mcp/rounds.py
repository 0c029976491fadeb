"""Questions of a server to a client that has no session: asked in the answer, answered in the next request.

Since revision 2026-07-28 a server answers a request that it has questions about with those questions ("input_required")
and a state, and the client repeats its request with its answers and the state. Servers of earlier revisions ask while
their answer is pending. Between the two stands a round: the server's call goes on, while its questions travel.
"""

from __future__ import annotations

import asyncio
import secrets

from skate.serve.mcp import messages
from skate.serve.mcp.backend import Asked
from skate.serve.mcp.calls import Relay
from skate.serve.mcp.messages import EMPTY, INVALID_PARAMS, SERVER_DOWN, Failure, Json, Request, Result, RpcError
from skate.serve.mcp.names import CHANGES
from skate.serve.mcp.peers import Peer
from skate.serve.mcp.sessions import Exchange
from skate.serve.mcp.upstream import INTERACTIVE, Upstream

METHODS = ("tools/call", "prompts/get", "resources/read")
PATIENCE = 300.0
"""Seconds that a client has to answer."""
IDLE = 16
"""Sessions of one kind that are kept for later calls."""
KINDS = 64
"""Kinds of sessions that are kept; of those not used for longest the sessions end."""
WAITING = 1000
"""Rounds that wait for clients at a time."""

_Kind = tuple[str, tuple[str, ...], Json]
"""A server, whose client it is, and what that can do: nobody gets a session that another has used."""


class _Round:
    """A call of a server, with the questions that are open."""

    def __init__(self, kind: _Kind, upstream: Upstream, caller: object) -> None:
        self.kind = kind
        self.caller = caller
        self.exchange: Exchange | None = None
        self.peer: Peer | None = None
        self.task: asyncio.Task[Json] | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self.progress: Json | None = None
        """The progress token of the request that goes on with the call."""
        self.upstream = upstream
        self._open: dict[str, Request] = {}
        self._last = 0
        self._changed = asyncio.Event()

    def begin(self, peer: Peer, request: Request, params: Json) -> None:
        self.peer = peer
        self.task = asyncio.get_running_loop().create_task(peer.request(request.method, params, self._take))
        self.task.add_done_callback(lambda _: self._changed.set())

    def _take(self, message: Request | messages.Notification) -> None:
        """What the server sends during the call."""
        if isinstance(message, Request):
            if message.method == "ping":
                self._send(Result(message.id, EMPTY))
                return
            self._last += 1
            self._open[str(self._last)] = message
            self._changed.set()
        elif message.method in CHANGES:
            self.upstream.forget(CHANGES[message.method])
        elif message.method == "notifications/cancelled":
            wanted = messages.decode(messages.fields(message.params).get("requestId", b"null"))
            self._open = {key: request for key, request in self._open.items() if request.id != wanted}
        elif self.exchange is not None:
            params = self.upstream.names.with_outer_uris(message.params)
            if self.progress is not None and message.method == "notifications/progress":
                params = messages.join({**messages.fields(params), "progressToken": self.progress})
            self.exchange.tell(messages.Notification(message.method, params))

    def _send(self, answer: Result | Failure) -> None:
        if self.peer is not None:
            self.upstream.in_background(self.peer.send(answer))

    def hear(self, answers: dict[str, Json]) -> None:
        """The client's answers."""
        for key, value in answers.items():
            if (question := self._open.pop(key, None)) is not None:
                self._send(Result(question.id, value))

    async def step(self) -> Json | None:
        """The result, or None when there are questions."""
        assert self.task is not None
        while not self.task.done():
            if self._open:
                await asyncio.sleep(0)  # more may be on their way
                return None
            self._changed.clear()
            await self._changed.wait()
        return await self.task

    def questions(self) -> dict[str, Json]:
        return {
            key: messages.join({"method": messages.encode(request.method), "params": request.params})
            for key, request in self._open.items()
        }

    async def end(self) -> None:
        """Give the call up."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)


class Rounds:
    """Sessions with servers for clients that have none, each used by one call at a time, and the rounds that wait."""

    def __init__(self) -> None:
        self._idle: dict[_Kind, list[Peer]] = {}
        self._waiting: dict[str, _Round] = {}

    def concern(self, asked: Asked) -> bool:
        """Whether the server may have questions that this client can answer."""
        return asked.request.method in METHODS and any(word in asked.client.capabilities for word in INTERACTIVE)

    async def answer(self, asked: Asked, upstream: Upstream, params: Json) -> Json:
        """The server's result, or its questions."""
        found = messages.fields(params)
        state = found.pop("requestState", None)
        answers = found.pop("inputResponses", EMPTY)
        if state is None:
            current = await self._begun(asked, upstream, messages.join(found))
        else:
            current = self._resumed(messages.decode(state), asked)
            current.hear(messages.fields(answers))
            current.progress = messages.fields(found.get("_meta", EMPTY)).get("progressToken")
        current.exchange = asked.exchange
        try:
            result = await current.step()
        except BaseException:
            await current.end()
            self._give_back(current)
            raise
        finally:
            current.exchange = None
        if result is not None:
            self._give_back(current)
            return result
        if len(self._waiting) >= WAITING:
            await current.end()
            self._give_back(current)
            raise RpcError(SERVER_DOWN, "too many calls wait for their clients' answers")
        token = secrets.token_urlsafe(18)
        self._waiting[token] = current
        current.expiry = asyncio.get_running_loop().call_later(PATIENCE, self._expire, token)
        return messages.join(
            {
                "resultType": b'"input_required"',
                "inputRequests": messages.join(current.questions()),
                "requestState": messages.encode(token),
            }
        )

    async def _begun(self, asked: Asked, upstream: Upstream, params: Json) -> _Round:
        kind = (upstream.name, asked.caller.identity, asked.client.capabilities)
        idle = self._idle.get(kind, [])
        peer = None
        while idle and peer is None:
            candidate = idle.pop()
            peer = candidate if candidate.alive else None
        if peer is None:
            peer = await upstream.own(asked.client, _aside(upstream))
        current = _Round(kind, upstream, asked.caller)
        current.exchange = asked.exchange
        current.begin(peer, asked.request, params)
        return current

    def _resumed(self, state: object, asked: Asked) -> _Round:
        current = self._waiting.get(state) if isinstance(state, str) else None
        if current is None or current.caller != asked.caller:
            raise RpcError(INVALID_PARAMS, "requestState is not known (any more): begin anew")
        assert isinstance(state, str) and current.expiry is not None
        del self._waiting[state]
        current.expiry.cancel()
        return current

    def _give_back(self, current: _Round) -> None:
        peer = current.peer
        if peer is None or not peer.alive:
            return
        idle = self._idle.pop(current.kind, [])
        self._idle[current.kind] = idle  # the last one used
        idle.append(peer)
        unused = [idle.pop(0)] if len(idle) > IDLE else []
        if len(self._idle) > KINDS:
            unused += self._idle.pop(next(iter(self._idle)))
        for each in unused:
            current.upstream.in_background(each.close())

    def _expire(self, token: str) -> None:
        current = self._waiting.pop(token)
        current.upstream.in_background(current.end())
        self._give_back(current)

    async def close(self) -> None:
        for current in self._waiting.values():
            if current.expiry is not None:
                current.expiry.cancel()
            await current.end()
            if current.peer is not None:
                await current.peer.close()
        self._waiting.clear()
        for peers in self._idle.values():
            await asyncio.gather(*(peer.close() for peer in peers))
        self._idle.clear()


def _aside(upstream: Upstream) -> Relay:
    """What a server says on such a session while no call is on it."""

    def take(message: Request | messages.Notification) -> None:
        if isinstance(message, messages.Notification) and message.method in CHANGES:
            upstream.forget(CHANGES[message.method])

    return take
