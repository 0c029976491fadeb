"""What is to happen later: a heap of deadlines, looked at by whoever pumps."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Timers:
    """Actions to run once, each when the monotonic clock passes its deadline."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, deadline: float, action: Callable[[], None]) -> None:
        """Have `action` run at `deadline`, in seconds of the monotonic clock."""
        heapq.heappush(self._heap, (deadline, next(self._ticket), action))

    def next(self) -> float | None:
        """The nearest deadline."""
        return self._heap[0][0] if self._heap else None

    def tick(self, now: float) -> None:
        """Run what is due."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            heapq.heappop(heap)[2]()
