"""Who is told when lists and resources change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from skate.serve.mcp import messages, modern
from skate.serve.mcp.backend import Asked
from skate.serve.mcp.messages import Json, Notification, RpcError
from skate.serve.mcp.sessions import Session
from skate.serve.mcp.upstream import Upstream

UPDATED = "notifications/resources/updated"
TOGETHER = 0.05
"""Seconds in which changes are told as one."""

Reader = Callable[[Notification], None]
Find = Callable[[str], tuple[Upstream, str]]
"""The server of a resource, and its address there; RpcError if there is none."""


class Changes:
    """Tells clients of changes: those with sessions on the stream on which they listen, others on that of a request."""

    def __init__(self) -> None:
        self.sessions: Mapping[str, Session] = {}
        self._listeners: set[Callable[[str], None]] = set()
        self._readers: dict[tuple[str, str], set[Reader]] = {}
        self._pending: set[str] = set()

    def heard(self, upstream: Upstream, notification: Notification) -> None:
        """A session that clients share says something that belongs to no call."""
        if notification.method == UPDATED:
            uri = messages.decode(messages.fields(notification.params).get("uri", b"null"))
            shown = Notification(UPDATED, upstream.names.with_outer_uris(notification.params))
            for reader in list(self._readers.get((upstream.name, uri), ())):
                reader(shown)

    def changed(self, capability: str) -> None:
        """A list of "tools", "prompts" or "resources" is another."""
        if not self._pending:
            asyncio.get_running_loop().call_later(TOGETHER, self._tell)
        self._pending.add(capability)

    def _tell(self) -> None:
        changes, self._pending = self._pending, set()
        for capability in sorted(changes):
            message = Notification(f"notifications/{capability}/list_changed")
            for session in list(self.sessions.values()):
                if session.listens:
                    session.tell(message)
            for listener in list(self._listeners):
                listener(capability)

    def follow(self, upstream: Upstream, uri: str, reader: Reader) -> None:
        """Have `reader` told when the server's resource changes."""
        self._readers.setdefault((upstream.name, uri), set()).add(reader)

    def leave(self, upstream: Upstream, uri: str, reader: Reader) -> bool:
        """The opposite; whether others still follow."""
        readers = self._readers.get((upstream.name, uri), set())
        readers.discard(reader)
        if not readers:
            self._readers.pop((upstream.name, uri), None)
        return bool(readers)

    def forget(self, reader: Reader) -> None:
        """Tell this one nothing more."""
        for key, readers in list(self._readers.items()):
            readers.discard(reader)
            if not readers:
                del self._readers[key]

    async def listen(self, asked: Asked, find: Find) -> Json:
        """`subscriptions/listen`: tell one client of changes, on the stream of its request, until it goes away."""
        wanted = messages.decode(asked.request.params).get("notifications") or {}
        if not isinstance(wanted, dict):
            raise RpcError(messages.INVALID_PARAMS, "notifications must be an object")
        meta = {modern.SUBSCRIPTION: asked.request.id}
        kinds = [name for name in ("tools", "prompts", "resources") if wanted.get(f"{name}ListChanged") is True]
        uris = [uri for uri in wanted.get("resourceSubscriptions") or () if isinstance(uri, str)]

        def changed(capability: str) -> None:
            if capability in kinds:
                params = messages.encode({"_meta": meta})
                asked.exchange.tell(Notification(f"notifications/{capability}/list_changed", params))

        def updated(notification: Notification) -> None:
            params = messages.fields(notification.params)
            params["_meta"] = messages.encode(meta)
            asked.exchange.tell(Notification(UPDATED, messages.join(params)))

        followed = [uri for uri in uris if await self._followed(asked, uri, find, updated)]
        honored: dict[str, Any] = {f"{name}ListChanged": True for name in kinds}
        if followed:
            honored["resourceSubscriptions"] = followed
        self._listeners.add(changed)
        try:
            params = messages.encode({"notifications": honored, "_meta": meta})
            asked.exchange.tell(Notification("notifications/subscriptions/acknowledged", params))
            await asyncio.Event().wait()  # ends when the client goes away
        finally:
            self._listeners.discard(changed)
            self.forget(updated)
        return messages.encode({"_meta": meta})

    async def _followed(self, asked: Asked, uri: str, find: Find, reader: Reader) -> bool:
        """Follow a resource for a client without a session; False where that cannot be."""
        try:
            if not asked.caller.rights.may("resources", uri):
                return False
            upstream, inner = find(uri)
            peer = await upstream.shared()
            await peer.request("resources/subscribe", messages.encode({"uri": inner}))
        except RpcError:
            return False
        self.follow(upstream, inner, reader)
        return True
