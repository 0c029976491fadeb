"""Channels of a compiled graph: each leads from one member to one other, and holds a few messages.

A channel has *slots* that are filled and emptied in turn. The first word of a slot says what is in it: 0 nothing, else
the length of the message and its kind. So the writer sees by that word whether there is room, the reader whether there
is something, and neither needs to know how far the other has come. A message that is too long for a slot goes in parts.

Who waits looks a few times more before it sleeps, as often as that has paid lately: a woken process takes several
microseconds to get going, but an idle one must not use a CPU. Between the looks it offers its CPU to others.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from skate.core import engine as engines
from skate.core import refs
from skate.core.serialization import _ATOMS, Packed, pack, unpack_value
from skate.dag.memory import CLOSED, LINE, PAGE, WEAK, Memory, bell, fence
from skate.exceptions import RayChannelError, RayChannelTimeoutError

VALUE, ERROR, PART = 1, 2, 4
"""Kinds of messages; a part has more to come."""
_KINDS = 7
SHORT = PAGE - LINE
"""Longest message, in bytes, that is written in one go: a slot has that much memory from the start."""
LEAST, MOST = 4, 400
"""How often at least, and at most, who waits looks before it sleeps; a look takes about a quarter of a microsecond."""
BUSY = 50e-6
"""Seconds: if others run for so long when this process offers its CPU, it does better to sleep, for who is woken gets a
CPU before who has one all the time."""
SHORTEST_REST, LONGEST_REST = 8, 2048
"""How many waits a member then goes to sleep at once, less often and more often as it finds the machine again."""
WORTH = 200e-6
"""Seconds: a sleep shorter than this would better have been spent looking."""

_PICKLE = 0x80
"""How a pickle without buffers apart begins."""

Message = tuple[int, bytes]
Data = bytes | Packed
_dumps, _loads = pickle.dumps, pickle.loads
_yield, _now = os.sched_yield, time.perf_counter


class Closed(RayChannelError):
    """The graph has ended."""


class Place(NamedTuple):
    """Where a channel lies: its start in bytes, and its measures."""

    start: int
    slots: int
    room: int
    """Longest message of one part, in bytes."""
    writer: int
    reader: int

    @property
    def stride(self) -> int:
        """Bytes from slot to slot."""
        return slot_size(self.room)

    @property
    def wanting(self) -> int:
        """The word that is 1 while the writer waits for room."""
        return self.start // 8

    def slot(self, number: int) -> int:
        """Where a slot starts, in bytes."""
        return self.start + PAGE + number * self.stride

    @property
    def size(self) -> int:
        """Bytes that the channel takes."""
        return PAGE + self.slots * self.stride


def slot_size(room: int) -> int:
    """Bytes of a slot for messages of `room` bytes."""
    return -(-(room + LINE) // PAGE) * PAGE


def _ring(place: Place) -> tuple[list[tuple[int, int]], list[int]]:
    """The slots of a channel, each by its word and by where its message starts; and which comes after which."""
    slots = [(place.slot(number) // 8, place.slot(number) + 8) for number in range(place.slots)]
    return slots, [*range(1, place.slots), 0]


class Member:
    """One process's part in a graph: where it sleeps, and the channels that it reads."""

    def __init__(self, memory: Memory, number: int) -> None:
        self.memory = memory
        self.number = number
        self.bell = bell(number)
        self.patience = 100
        """How often to look before sleeping."""
        self.rest = 0
        """How many waits go without looking: the machine is busy."""
        self.resting = SHORTEST_REST
        self.receivers: list[Receiver] = []
        self.look_in: Callable[[], None] = self.take_in
        """Called before each sleep."""

    def take_in(self) -> None:
        """Empty the channels whose writers wait for room: who waits for this member must not wait for ever."""
        words = self.memory.words
        for receiver in self.receivers:
            if words[receiver.wanting]:
                receiver.store()
                fence()
                self.memory.knock(receiver.writer)

    def look(self, word: int, filled: bool) -> bool:
        """Look at a word a few times before sleeping; whether it came to be other than 0, or 0 if not `filled`."""
        if self.rest:
            self.rest -= 1
            return False
        words, patience = self.memory.words, self.patience
        last = _now()
        for count in range(patience):
            if bool(words[word]) is filled:
                if count > patience >> 1 and patience < MOST:
                    self.patience = patience * 2
                return True
            _yield()
            now = _now()
            if now - last > BUSY:
                self.rest = self.resting = min(self.resting * 2, LONGEST_REST)
                return bool(words[word]) is filled
            last = now
        self.resting = max(SHORTEST_REST, self.resting // 2)
        return False

    def sleep(self, ready: Callable[[], Any], deadline: float | None) -> None:
        """Return when `ready()` is true.

        Raises `Closed` when the graph ends first, RayChannelTimeoutError at `deadline` (as of `time.monotonic`).
        """
        memory, words, word = self.memory, self.memory.words, self.bell
        began = time.monotonic()
        while True:
            words[word] = 1  # and never 0 again from this side: another thread of this member may sleep too
            self.look_in()
            fence()
            if ready():
                break
            if words[CLOSED]:
                raise Closed("The compiled graph has ended.")
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                self.patience = max(LEAST, self.patience // 2)
                raise RayChannelTimeoutError("A compiled graph's channel was not ready in time.")
            memory.sleep(word, left)
        if time.monotonic() - began < WORTH:
            self.patience = min(MOST, self.patience * 2)
        else:
            self.patience = max(LEAST, self.patience // 2)


class Receiver:
    """The reading end of a channel."""

    def __init__(self, member: Member, place: Place) -> None:
        memory = member.memory
        self.member = member
        self.memory = memory
        self.wanting = place.wanting
        self._map, self._words = memory.map, memory.words
        self._slots, self._after = _ring(place)
        self._next = 0
        self._parts: list[bytes] = []
        self.writer = bell(place.writer)
        self._stored: deque[Message] = deque()
        """Whole messages taken out of their slots before somebody asked for them."""
        member.receivers.append(self)

    def ready(self) -> bool:
        """Whether there is a message, or a part of one."""
        return bool(self._stored) or bool(self._words[self._slots[self._next][0]])

    def receive(self, deadline: float | None = None) -> Message:
        """The next message; waits for it, and raises, as `Member.sleep` does."""
        while True:
            parts = len(self._parts)
            message = self.receive_soon()
            if message is not None:
                return message
            if len(self._parts) == parts and not self.ready():
                self.member.sleep(self.ready, deadline)

    def receive_soon(self) -> Message | None:
        """The next message, if it is there, or comes while it still pays to look; None also for a part of one."""
        if self._stored:
            return self._stored.popleft()
        words = self._words
        word, place = self._slots[self._next]
        filled = words[word]
        if not filled:
            if not self.member.look(word, True):
                return None
            filled = words[word]
        if filled & PART or self._parts or not filled:
            return self._take() if filled else None
        # What `_take` does, here without another call:
        if WEAK:
            fence()
        data = self._map[place : place + (filled >> 3)]
        if WEAK:
            fence()
        words[word] = 0
        self._next = self._after[self._next]
        if words[self.wanting]:  # without a fence: if it is missed now, it is seen before this member sleeps
            self.memory.knock(self.writer)
        return filled & 3, data

    def store(self) -> None:
        """Take what is in the slots, for later."""
        while self._words[self._slots[self._next][0]]:
            message = self._take()
            if message is not None:
                self._stored.append(message)

    def _take(self) -> Message | None:
        """Empty one slot that is filled; None if there is more to come."""
        words = self._words
        word, place = self._slots[self._next]
        filled = words[word]
        if WEAK:
            fence()
        data = self._map[place : place + (filled >> 3)]
        if WEAK:
            fence()
        words[word] = 0
        self._next = self._after[self._next]
        fence()
        if words[self.wanting]:
            self.memory.knock(self.writer)
        kind = filled & _KINDS
        if kind >= PART:
            self._parts.append(data)
            return None
        if self._parts:
            data = b"".join((*self._parts, data))
            self._parts.clear()
        return kind, data


class Sender:
    """The writing end of a channel."""

    def __init__(self, member: Member, place: Place) -> None:
        memory = member.memory
        self.member = member
        self.memory = memory
        self._map, self._words = memory.map, memory.words
        self._slots, self._after = _ring(place)
        self._view = memory.view
        self._reserved = [PAGE] * place.slots
        self._next = 0
        self._room = place.room
        self.in_parts = False
        """Whether a message was begun and has not ended."""
        self._wanting = place.wanting
        self._reader = bell(place.reader)

    def has_room(self) -> bool:
        """Whether a message, or a part of one, can be written without waiting."""
        return not self._words[self._slots[self._next][0]]

    def send(self, kind: int, data: Data, deadline: float | None = None) -> None:
        """Write a message; waits for room, and raises, as `Member.sleep` does."""
        if self.send_now(kind, data):
            return
        if isinstance(data, bytes):
            self._send_long(kind, memoryview(data), deadline)
        elif data.size > self._room:
            self._send_long(kind, memoryview(data.to_bytes()), deadline)
        else:
            self.wait_for_room(deadline)
            place = self._reserve(data.size)
            data.write_into(self._view[place : place + data.size])
            self._fill(kind, data.size)

    def send_now(self, kind: int, data: Data) -> bool:
        """Write a message if it is short and there is room; whether it was."""
        word, place = self._slots[self._next]
        words, size = self._words, len(data)
        if words[word] or size > SHORT or size > self._room or type(data) is not bytes:
            return False
        self._map[place : place + size] = data
        if WEAK:
            fence()
        words[word] = size << 3 | kind
        self._next = self._after[self._next]
        fence()
        if words[self._reader]:
            self.memory.knock(self._reader)
        return True

    def _send_long(self, kind: int, data: memoryview, deadline: float | None) -> None:
        while True:
            part, data = data[: self._room], data[self._room :]
            self.wait_for_room(deadline)
            size = len(part)
            place = self._reserve(size)
            self._map[place : place + size] = part
            self._fill(kind | PART if data else kind, size)
            self.in_parts = bool(data)
            if not data:
                return

    def _reserve(self, size: int) -> int:
        """Where a message of that size starts; OSError when there is no memory for it."""
        _, place = self._slots[self._next]
        if size + LINE > self._reserved[self._next]:
            self.memory.reserve(place - 8, size + LINE)
            self._reserved[self._next] = size + LINE
        return place

    def _fill(self, kind: int, size: int) -> None:
        """Say that the next slot is filled."""
        if WEAK:
            fence()
        word, _ = self._slots[self._next]
        self._words[word] = size << 3 | kind
        self._next = self._after[self._next]
        fence()
        self.memory.knock(self._reader)

    def wait_for_room(self, deadline: float | None) -> None:
        """Return when a message, or a part of one, can be written."""
        if self.has_room():
            return
        self._words[self._wanting] = 1
        fence()
        self.memory.knock(self._reader)  # it may sleep, waiting for something else
        try:
            word, _ = self._slots[self._next]
            if not self.member.look(word, False):
                self.member.sleep(self.has_room, deadline)
        finally:
            self._words[self._wanting] = 0


class Kept:
    """References inside of values that went through channels: kept until the graph ends, for their readers' sake."""

    def __init__(self) -> None:
        self._keys: list[int] = []

    def keep(self, keys: Sequence[int]) -> None:
        """Count these once more."""
        for key in keys:
            engines.current().borrow(key)
            self._keys.append(key)

    def drop(self) -> None:
        """Count all of them once less."""
        keys, self._keys = self._keys, []
        refs.released.extend(keys)


def encode(value: Any, kept: Kept) -> Data:
    """A value as a message, with buffers not copied yet; TypeError names the path to a part that cannot be pickled."""
    if type(value) in _ATOMS:
        return _dumps(value, 5)
    packed = pack(value)
    if packed.refs:
        kept.keep(packed.refs)
    return packed if packed.buffers else packed.pickled


def decode(data: bytes) -> Any:
    """The value of a message; RaySystemError when its class cannot rebuild it."""
    if data[0] == _PICKLE:
        try:
            return _loads(data)
        except Exception:  # noqa: BLE001  a class may raise anything here, and `unpack_value` says so
            return unpack_value(data)
    return unpack_value(data)
