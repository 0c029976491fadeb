"""What a client goes on sending while its request runs, on its way into a replica: bounded, so that memory is too."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

AHEAD = 64
"""Messages of a client that may wait in the replica for the application to take them."""


class Inbox:
    """Messages of one request, in the order in which they came."""

    def __init__(self, *first: Any) -> None:
        self._messages: deque[Any] = deque(first)
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._closed = False

    async def get(self) -> Any:
        """The next message, once it is there."""
        while not self._messages:
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        self._taken.set()
        return message

    def add(self, message: Any) -> None:
        """Take a message in, whatever waits already."""
        self._messages.append(message)
        self._arrived.set()

    async def put(self, message: Any) -> None:
        """Take a message in; returns when the application has kept up."""
        self.add(message)
        while len(self._messages) > AHEAD and not self._closed:
            self._taken.clear()
            await self._taken.wait()

    def close(self) -> None:
        """Nobody takes messages any more: those who wait in `put` go on."""
        self._closed = True
        self._taken.set()
