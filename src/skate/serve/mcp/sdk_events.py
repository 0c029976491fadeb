"""The SDK's session manager with streams that clients can come back to."""

from __future__ import annotations

from typing import Any

from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import jsonrpc_message_adapter

from skate.serve.mcp.trails import Ledger, Trail, Trails


class Events(EventStore):
    """The events of one session, as bytes, which are counted; those of another session it does not know."""

    def __init__(self, ledger: Ledger) -> None:
        self._trails = Trails(ledger)
        self._streams: dict[str, Trail] = {}
        self._names: dict[Trail, str] = {}
        self._many = 64

    async def store_event(self, stream_id: str, message: Any) -> str:
        trail = self._streams.get(stream_id)
        if trail is None or not trail.live:
            if len(self._names) >= self._many:
                self._forget_old()
            trail = self._streams[stream_id] = self._trails.begin()
            self._names[trail] = stream_id
        data = b"" if message is None else message.model_dump_json(by_alias=True, exclude_unset=True).encode()
        trail.frame(data)
        if message is not None and not hasattr(message, "method"):
            trail.end()  # this was the answer
        return f"{trail.number}-{trail.last}"

    def _forget_old(self) -> None:
        """Forget the names of streams of which nothing is kept."""
        for trail in [trail for trail in self._names if not trail.live and not trail.kept]:
            name = self._names.pop(trail)
            if self._streams.get(name) is trail:
                del self._streams[name]
        self._many = 2 * len(self._names) + 64

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        found = self._trails.find(last_event_id.encode("latin-1", "replace"))
        if found is None:
            return None
        trail, after = found
        for kept in list(trail.kept):
            if kept.number > after and kept.message:
                message = jsonrpc_message_adapter.validate_json(kept.message)
                await send_callback(EventMessage(message, f"{trail.number}-{kept.number}"))
        return self._names.get(trail) if trail.live else None

    def __del__(self) -> None:
        self._trails.clear()


class Manager(StreamableHTTPSessionManager):
    """Gives each session a store of its own: the ids of streams repeat between sessions."""

    def __init__(self, **options: Any) -> None:
        self._ledger = Ledger()
        super().__init__(**options)

    @property
    def event_store(self) -> EventStore | None:
        """Asked for once for each session."""
        return Events(self._ledger)

    @event_store.setter
    def event_store(self, _: EventStore | None) -> None:
        """There is one for each session, whatever is given."""
