"""The actor at which the members of a group meet: it passes on what they bring, arrays as references."""

from __future__ import annotations

import asyncio
from typing import Any


class Rendezvous:
    """Meetings of a group, by key. A meeting is over when all have come; then each gets what all brought."""

    def __init__(self) -> None:
        self._brought: dict[Any, dict[int, Any]] = {}
        self._full: dict[Any, asyncio.Event] = {}
        self._taken: dict[Any, int] = {}
        self._queues: dict[Any, asyncio.Queue[Any]] = {}
        self._info: dict[str, Any] = {}
        self._left: set[int] = set()

    async def set_info(self, info: dict[str, Any]) -> None:
        """Keep what `create_collective_group` said."""
        self._info = info

    async def get_info(self) -> dict[str, Any]:
        """What `create_collective_group` said; empty if it was not called."""
        return self._info

    async def exchange(self, key: Any, rank: int, size: int, payload: Any) -> list[Any]:
        """Bring `payload`, wait for the `size` members, and take what all brought, in the order of their ranks."""
        brought = self._brought.setdefault(key, {})
        full = self._full.setdefault(key, asyncio.Event())
        brought[rank] = payload
        if len(brought) == size:
            full.set()
        await full.wait()
        self._taken[key] = self._taken.get(key, 0) + 1
        if self._taken[key] == size:
            for table in (self._brought, self._full, self._taken):
                del table[key]
        return [brought[member] for member in range(size)]

    async def post(self, key: Any, payload: Any) -> None:
        """Leave something for one other."""
        self._queues.setdefault(key, asyncio.Queue()).put_nowait(payload)

    async def take(self, key: Any) -> Any:
        """Wait for what was left, and take it."""
        queue = self._queues.setdefault(key, asyncio.Queue())
        payload = await queue.get()
        if queue.empty() and self._queues.get(key) is queue:
            del self._queues[key]
        return payload

    async def leave(self, rank: int, size: int) -> bool:
        """A member has left; whether it was the last."""
        self._left.add(rank)
        return len(self._left) == size
