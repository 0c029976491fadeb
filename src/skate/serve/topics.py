"""What the controller tells: values by topic, each with a version, and waiting for a newer one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

Key = tuple[str, ...]


class Topics:
    """Versioned values, and those who wait for the next."""

    def __init__(self) -> None:
        self.values: dict[Key, tuple[int, Any]] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._last = time.time_ns() // 1000  # above all that a controller before this one gave out

    def has(self, key: Key) -> bool:
        """Whether there is such a topic."""
        return key in self.values

    def set(self, key: Key, value: Any) -> None:
        """Put a value there; a new version if it differs."""
        old = self.values.get(key)
        if old is None or old[1] != value:
            self._last += 1
            self.values[key] = (self._last, value)
            self.notify()

    def notify(self) -> None:
        """Wake whoever waits."""
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def changed(self, timeout_s: float | None) -> None:
        """Return at the next `notify`, or when time is up."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait([future], timeout=timeout_s)
        finally:
            self._waiting.discard(future)

    async def listen(self, known: dict[Key, int], timeout_s: float) -> dict[Key, tuple[int, Any]]:
        """The topics whose version is not the known one, once there is one; empty when time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            news = {key: self.values[key] for key, version in known.items() if self._is_news(key, version)}
            left = deadline - loop.time()
            if news or left <= 0:
                return news
            await self.changed(left)

    def _is_news(self, key: Key, version: int) -> bool:
        found = self.values.get(key)
        return found is not None and found[0] != version
