"""At most so many at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any

from skate.plugin.errors import BusyError


class Limit:
    """Lets so many in at once; others wait in turn, and beyond `max_queued` are refused. For one event loop.

    Args:
        what: what is limited, for messages.
        most: how many at once; 0: no limit.
        max_queued: how many may wait; -1: any number.
    """

    __slots__ = ("max_queued", "most", "ongoing", "waiting", "what")

    def __init__(self, what: str, most: int = 0, max_queued: int = -1) -> None:
        self.what = what
        self.most = most
        self.max_queued = max_queued
        self.ongoing = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    @classmethod
    def read(cls, what: str, options: Mapping[str, Any]) -> Limit:
        """A limit from deployment options. ValueError for values that are none."""
        most, queued = options.get("max_ongoing_requests"), options.get("max_queued_requests", -1)
        if most is not None and (type(most) is not int or most < 1):
            raise ValueError(f"{what}: max_ongoing_requests must be a whole number above 0, not {most!r}")
        if type(queued) is not int or queued < -1:
            raise ValueError(f"{what}: max_queued_requests must be a whole number, or -1 (any number), not {queued!r}")
        return cls(what, most or 0, queued)

    async def enter(self) -> None:
        """Return when it is the caller's turn. Raises BusyError when too many wait."""
        if not self.most or (self.ongoing < self.most and not self.waiting):
            self.ongoing += 1
            return
        if 0 <= self.max_queued <= len(self.waiting):
            raise BusyError(f"{self.what}: {self.ongoing} requests are in progress and {len(self.waiting)} wait")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # it was given the turn already
            else:
                with contextlib.suppress(ValueError):  # whoever left has passed over it
                    self.waiting.remove(turn)
            raise

    def leave(self) -> None:
        """The caller is done: the next that waits takes its place."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.ongoing -= 1
