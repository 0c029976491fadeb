"""What the proxy serves itself: Serve's own paths, what no route fits, what is encrypted, and what cannot be passed."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

from skate.serve.connections import SLOTS, Settings
from skate.serve.http_clients import OWN, Client
from skate.serve.http_entry import Answer, BrokenAnswerError, Entry, identify
from skate.serve.http_host import Host
from skate.serve.http_protocol import Connection


class Here:
    """Connections that the proxy serves.

    Args:
        entry: answers the requests.
        left: called as ``left(client, kept)`` when a connection is not served here any more; `kept`: it is idle.
    """

    def __init__(self, entry: Entry, left: Callable[[Client, bool], None]) -> None:
        self.entry = entry
        self.context: ssl.SSLContext | None = None
        """With it all connections are of TLS, and served here."""
        self._left_to = left
        self._marks = bytearray(SLOTS)
        self._clients: dict[int, Client] = {}
        self._free: deque[int] = deque(range(SLOTS))
        self.host = Host(asyncio.get_running_loop(), self._marks, self._serve, self._left)

    def configure(self, settings: Settings) -> None:
        """Take over options."""
        self.host.configure(settings.root_path, settings.keep_alive_timeout_s)

    def take(self, client: Client) -> None:
        """Serve a connection. Raises OSError when there is no room for it."""
        if not self._free:
            raise OSError("too many connections")
        duplicate = client.socket.dup()
        client.state, client.slot = OWN, self._free.popleft()
        self._clients[client.slot] = client
        self.host.take(duplicate, client.slot, self.context)

    async def _serve(self, connection: Connection, scope: Any, receive: Any, send: Any) -> None:
        request_id, model, hints = identify(scope["headers"])
        if hints is not None and hints.forwarded:
            await self.host.forwarded(scope, receive, send)
        if scope["type"] == "http":
            connection.task, connection.stays = asyncio.current_task(), hints is not None and hints.stays
        answer = Answer(send, request_id, self._marks, connection.slot)
        if self.context is None:
            connection.leaving = True  # its next request may be for a replica
        try:
            await self.entry.answer(scope, receive, answer, request_id, model, hints)
        except BrokenAnswerError:
            connection.transport.abort()
        except asyncio.CancelledError:
            if not connection.transport.is_closing():
                raise

    def _left(self, slot: int, kept: bool) -> None:
        client = self._clients.pop(slot, None)
        self._free.append(slot)
        if client is not None:
            client.slot = -1
            self._left_to(client, kept)

    def close(self) -> None:
        """Close all of them at once."""
        self.host.close()
