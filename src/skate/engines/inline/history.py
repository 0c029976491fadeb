"""What a session remembers of calls and actors that have ended, and of what happened; all of it bounded."""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from skate.core.keeping import Keeping

if TYPE_CHECKING:
    from skate.engines.inline.records import Call

LARGEST_ERROR = 16 << 10
"""Bytes of an error that is kept with its call."""


class Ended(NamedTuple):
    """An attempt of a call."""

    call: Past
    attempt: int
    made: float
    """Seconds since the epoch, here and below."""
    began: float
    """0.0: never."""
    ended: float
    error: bytes | None
    """Packed; None: it ended well, empty: it was too large to be kept."""


class Past(NamedTuple):
    """What is kept of a call: not its arguments."""

    key: int
    name: str
    function: str
    options: Any
    actor: int
    class_name: str
    parent: int


class History:
    """The rings."""

    def __init__(self, keeping: Keeping) -> None:
        self.keeping = keeping
        self.calls: deque[Ended] = deque(maxlen=keeping.tasks)
        self.actors: deque[dict[str, Any]] = deque(maxlen=keeping.actors)
        self.events: deque[dict[str, Any]] = deque(maxlen=keeping.events)
        self.began = time.time()
        self._numbers = itertools.count(1)

    def ended(self, call: Call, error: Any) -> None:
        """An attempt has ended, with this packed error or well (None)."""
        if error is not None:
            error = bytes(error) if len(error) <= LARGEST_ERROR else b""
        self.calls.append(Ended(past(call), call.attempt, call.made, call.began, time.time(), error))

    def event(self, severity: str, source: str, message: str) -> None:
        """Note that something happened."""
        row = {"severity": severity, "time_ms": time.time() * 1e3, "source_type": source, "message": message}
        self.events.append({**row, "event_id": f"{next(self._numbers):036x}", "custom_fields": {}})


def past(call: Call) -> Past:
    """What is kept of a call."""
    actor = call.actor
    class_name = actor.info.options.class_name if actor is not None else ""
    parent = call.parent.key if call.parent is not None else 0
    name = getattr(call.options, "name", "")
    key = actor.key if actor is not None else 0
    return Past(call.key, name, call.function_name, call.options, key, class_name, parent)
