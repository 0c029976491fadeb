"""What is to happen later: a heap of deadlines, looked at by whoever pumps."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable


class Timer:
    """An action that waits for its time."""

    __slots__ = ("action", "deadline", "number")

    def __init__(self, deadline: float, number: int, action: Callable[[], None]) -> None:
        self.deadline = deadline
        self.number = number
        self.action: Callable[[], None] | None = action

    def __lt__(self, other: Timer) -> bool:
        return (self.deadline, self.number) < (other.deadline, other.number)


class Timers:
    """Actions to run once, each when the monotonic clock passes its deadline."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._ticket = itertools.count()
        self._dead = 0
        self.clock: Callable[[], float] = time.monotonic
        """What the hub takes for the time, in seconds; a replay has its own."""

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, deadline: float, action: Callable[[], None]) -> Timer:
        """Have `action` run at `deadline`, in seconds of the monotonic clock."""
        timer = Timer(deadline, next(self._ticket), action)
        heapq.heappush(self._heap, timer)
        return timer

    def cancel(self, timer: Timer) -> None:
        """Have an action not run; harmless when it has."""
        if timer.action is None:
            return
        timer.action = None
        self._dead += 1
        if self._dead > 64 and self._dead * 2 > len(self._heap):
            self._heap = [timer for timer in self._heap if timer.action is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    def next(self) -> float | None:
        """The nearest deadline."""
        return self._heap[0].deadline if self._heap else None

    def tick(self, now: float) -> None:
        """Run what is due."""
        while self._heap and self._heap[0].deadline <= now:
            timer = heapq.heappop(self._heap)
            action, timer.action = timer.action, None
            if action is None:
                self._dead -= 1
            else:
                action()
