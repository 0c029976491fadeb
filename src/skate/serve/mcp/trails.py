"""What was sent on streams of events, kept for clients that lose their connection and come back. Bounded and pure.

Each stream of a session leaves a trail. Its events have numbers, and the id of an event names trail and number. A
client that shows the last id that it has seen is sent what came after it (`Last-Event-ID`).
"""

from __future__ import annotations

from collections import OrderedDict, deque

from skate.serve.mcp.events import event

SESSION = 4 << 20
"""Bytes that one session keeps, or its newest event if that is larger."""
TOGETHER = 64 << 20
"""Bytes that all sessions keep together."""
EVENTS = 1000
"""Events that one session keeps."""


class _Kept:
    """An event."""

    __slots__ = ("frame", "number", "trail")

    def __init__(self, trail: Trail, number: int, frame: bytes) -> None:
        self.trail = trail
        self.number = number
        self.frame = frame

    @property
    def message(self) -> bytes:
        """What it carries."""
        return self.frame.partition(b"data: ")[2][:-2]


class Ledger:
    """What the trails of all sessions keep together: the oldest goes first.

    Args:
        most: bytes.
    """

    def __init__(self, most: int = TOGETHER) -> None:
        self._most = most
        self._all: OrderedDict[_Kept, None] = OrderedDict()
        self.size = 0

    def add(self, kept: _Kept) -> None:
        """Another event is kept; for it, others may have to go."""
        self._all[kept] = None
        self.size += len(kept.frame)
        while self.size > self._most:
            oldest = next(iter(self._all))
            oldest.trail.trails.drop(oldest)  # the oldest of its session too

    def remove(self, kept: _Kept) -> None:
        """An event is not kept any more."""
        del self._all[kept]
        self.size -= len(kept.frame)


class Trail:
    """One stream."""

    def __init__(self, trails: Trails, number: int) -> None:
        self.trails = trails
        self.number = number
        self.last = 0
        self.live = True
        """Whether more may come."""
        self.kept: deque[_Kept] = deque()

    def frame(self, message: bytes) -> bytes:
        """The event for a message (empty: for none), which from now on is kept."""
        self.last += 1
        made = event(message, b"%d-%d" % (self.number, self.last))
        self.trails.keep(_Kept(self, self.last, made))
        return made

    def after(self, number: int) -> list[bytes]:
        """The events after this one, as far as they are kept."""
        return [kept.frame for kept in self.kept if kept.number > number]

    def end(self) -> None:
        """Nothing more will come."""
        self.live = False
        self.trails.tidy(self)


class Trails:
    """The streams of one session; the one with the number 0 belongs to no request."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._last = 0
        self._size = 0
        self._order: deque[_Kept] = deque()
        self.own = Trail(self, 0)
        self._trails = {0: self.own}

    def begin(self) -> Trail:
        """A new stream."""
        self._last += 1
        trail = self._trails[self._last] = Trail(self, self._last)
        return trail

    def find(self, name: bytes) -> tuple[Trail, int] | None:
        """The stream of the event with this id, and the event's number; None if nothing is known of it (any more)."""
        number, dash, event_number = name.partition(b"-")
        if not dash or len(name) > 40 or not number.isdigit() or not event_number.isdigit():
            return None
        trail = self._trails.get(int(number))
        return None if trail is None or int(event_number) > trail.last else (trail, int(event_number))

    def is_own(self, name: bytes) -> bool:
        """Whether this is, or was, the id of an event that belongs to no request."""
        return name.startswith(b"0-")

    def keep(self, kept: _Kept) -> None:
        kept.trail.kept.append(kept)
        self._order.append(kept)
        self._size += len(kept.frame)
        self._ledger.add(kept)
        while len(self._order) > 1 and (self._size > SESSION or len(self._order) > EVENTS):
            self.drop(self._order[0])

    def drop(self, kept: _Kept) -> None:
        """Forget an event; it is the oldest of its session."""
        self._order.popleft()
        kept.trail.kept.popleft()
        self._size -= len(kept.frame)
        self._ledger.remove(kept)
        self.tidy(kept.trail)

    def tidy(self, trail: Trail) -> None:
        """Forget a stream of which nothing is left."""
        if not trail.live and not trail.kept:
            self._trails.pop(trail.number, None)

    def clear(self) -> None:
        """The session has ended."""
        while self._order:
            self.drop(self._order[0])
