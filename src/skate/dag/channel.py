"""Channels of a compiled graph: each leads from one member to one other, and holds a few messages.

A channel has *slots* that are filled and emptied in turn. The first word of a slot says what is in it: 0 nothing, else
the length of the message and its kind. So the writer sees by that word whether there is room, the reader whether there
is something, and neither needs to know how far the other has come.

A message that is too long for a slot lies in a *block*, which the slot names. The writer takes the first block that no
full slot names and that the reader does not keep: when little is under way it is always the same, and warm. The reader
does not copy a large message out of its block, but keeps the block as long as anything looks at it: arrays in a value
are views of it. It keeps a few at most, and copies what comes while it does, so there is a block for each free slot. A
message that is too long for a block goes in parts, which are copied together.

Who waits looks a few times more before it sleeps, as often as that has paid lately: a woken process takes several
microseconds to get going, but an idle one must not use a CPU. Between the looks it offers its CPU to others.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from skate.core.serialization import Packed
from skate.dag.memory import CLOSED, WEAK, Memory, bell, fence
from skate.dag.place import KEPT, SHORT, Place
from skate.dag.values import Bytes, Data
from skate.exceptions import RayChannelError, RayChannelTimeoutError

VALUE, ERROR = 1, 2
"""Kinds of messages."""
LONG = 4
"""Stands beside the kind of what lies in a block. The words after it: the block's number, and the bytes yet to come."""
VIEWED = 32_768
"""Bytes from which on a message is not copied: below, watching a view costs more."""
LEAST, MOST = 4, 400
"""How often at least, and at most, who waits looks before it sleeps; a look takes about a quarter of a microsecond."""
BUSY = 50e-6
"""Seconds: if others run for so long when this process offers its CPU, it does better to sleep, for who is woken gets a
CPU before who has one all the time."""
SHORTEST_REST, LONGEST_REST = 8, 2048
"""How many waits a member then goes to sleep at once: more and more of them each time that it finds the machine busy
again, for that costs it milliseconds; fewer again when looking pays."""
WORTH = 200e-6
"""Seconds: a sleep shorter than this would better have been spent looking."""

Message = tuple[int, Bytes]
_yield, _now = os.sched_yield, time.perf_counter


class Closed(RayChannelError):
    """The graph has ended."""


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
                if self.resting > SHORTEST_REST:
                    self.resting -= self.resting >> 3
                return True
            _yield()
            now = _now()
            if now - last > BUSY:
                self.rest = self.resting = min(self.resting * 4, LONGEST_REST)
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
        self._map, self._words, self._view = memory.map, memory.words, memory.view
        self._views = memory.views
        self._slots, self._after = _ring(place)
        self._next = 0
        self._blocks = [(place.block(number), place.kept(number)) for number in range(place.blocks)]
        self._mapped = [0] * place.blocks
        """Bytes of each block that this process has mapped."""
        self._keeps: set[int] = set()
        self._parts: bytearray | None = None
        """What has come of a message that comes in parts."""
        self._missing = 0
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
            missing = self._missing
            message = self.receive_soon()
            if message is not None:
                return message
            if self._missing == missing and not self.ready():
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
        if filled & LONG or not filled:
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
        data: Bytes | None
        if filled & LONG:
            data = self._take_block(words[word + 1], filled >> 3, words[word + 2])
        else:
            data = self._map[place : place + (filled >> 3)]
        if WEAK:
            fence()
        words[word] = 0
        self._next = self._after[self._next]
        fence()
        if words[self.wanting]:
            self.memory.knock(self.writer)
        return None if data is None else (filled & 3, data)

    def _take_block(self, number: int, size: int, more: int) -> Bytes | None:
        """What lies in a block, as a view where that pays and may be; None if it is a part and more is to come."""
        start, kept = self._blocks[number]
        if size > self._mapped[number]:
            self.memory.populate(start, size, False)
            self._mapped[number] = size
        if not more and self._parts is None:
            if size < VIEWED or len(self._keeps) >= KEPT:
                return self._map[start : start + size]
            self._keeps.add(number)
            self._words[kept] = 1
            return self._views.read(start, size, partial(self._let_go, number))
        parts = self._parts
        if parts is None:
            parts = self._parts = bytearray(size + more)
        end = len(parts) - more
        parts[end - size : end] = self._view[start : start + size]
        self._missing = more
        if more:
            return None
        self._parts = None
        return memoryview(parts)

    def _let_go(self, number: int) -> None:
        """Nothing looks at a block any more. Called by a destructor, at any moment, also when the graph has ended."""
        if WEAK:
            fence()
        with contextlib.suppress(ValueError):  # the memory is unmapped already
            self._words[self._blocks[number][1]] = 0
        self._keeps.discard(number)


class Sender:
    """The writing end of a channel."""

    def __init__(self, member: Member, place: Place) -> None:
        memory = member.memory
        self.member = member
        self.memory = memory
        self._map, self._words = memory.map, memory.words
        self._slots, self._after = _ring(place)
        self._view = memory.view
        self._blocks = [(place.block(number), place.kept(number)) for number in range(place.blocks)]
        self._reserved = [0] * place.blocks
        """Bytes of each block that there is memory for."""
        self._named = [-1] * place.slots
        """The block that each slot named last."""
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
        self.wait_for_room(deadline)
        if self.send_now(kind, data):
            return
        if not isinstance(data, Packed):
            self._send_parts(kind, memoryview(data), deadline)
        elif data.size <= self._room:
            number, place = self._block(data.size)
            data.write_into(self._view[place : place + data.size])
            self._fill(kind, number, data.size, 0)
        else:
            target = memoryview(bytearray(data.size))
            data.write_into(target)
            self._send_parts(kind, target, deadline)

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

    def _send_parts(self, kind: int, data: memoryview, deadline: float | None) -> None:
        while True:
            part, data = data[: self._room], data[self._room :]
            self.wait_for_room(deadline)
            number, place = self._block(len(part))
            self._view[place : place + len(part)] = part
            self._fill(kind, number, len(part), len(data))
            self.in_parts = bool(data)
            if not data:
                return

    def _block(self, size: int) -> tuple[int, int]:
        """A free block, by its number and its place; OSError when there is no memory for it. A slot is free."""
        words = self._words
        named = {number for number, (word, _) in zip(self._named, self._slots, strict=True) if words[word]}
        if WEAK:
            fence()
        number = next(n for n, (_, kept) in enumerate(self._blocks) if n not in named and not words[kept])
        place, _ = self._blocks[number]
        if size > self._reserved[number]:
            self.memory.reserve(place, size)
            self.memory.populate(place, size, True)
            self._reserved[number] = size
        return number, place

    def _fill(self, kind: int, number: int, size: int, more: int) -> None:
        """Say that the next slot is filled, by a block, and that so many bytes are yet to come."""
        word, _ = self._slots[self._next]
        self._named[self._next] = number
        self._words[word + 1] = number
        self._words[word + 2] = more
        if WEAK:
            fence()
        self._words[word] = size << 3 | kind | LONG
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
