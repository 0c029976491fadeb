"""Where a channel lies in the shared memory of its graph, and how it is divided.

A page of flags comes first, then the *slots*, a page each, then the *blocks*, for messages that are longer.
"""

from __future__ import annotations

from typing import NamedTuple

from skate.dag.memory import LINE, PAGE

SHORT = PAGE - LINE
"""Longest message, in bytes, that lies in a slot."""
KEPT = 8
"""Blocks of a channel that its reader may keep, because values in use are views of them."""


class Place(NamedTuple):
    """Where a channel lies: its start in bytes, and its measures."""

    start: int
    slots: int
    room: int
    """Longest message of one part, in bytes."""
    writer: int
    reader: int

    @property
    def wanting(self) -> int:
        """The word that is 1 while the writer waits for room."""
        return self.start // 8

    @property
    def blocks(self) -> int:
        """How many blocks there are: one for each slot, and those that the reader may keep."""
        return self.slots + KEPT

    @property
    def stride(self) -> int:
        """Bytes from block to block."""
        return -(-self.room // PAGE) * PAGE

    def slot(self, number: int) -> int:
        """Where a slot starts, in bytes."""
        return self.start + PAGE * (1 + number)

    def block(self, number: int) -> int:
        """Where a block starts, in bytes."""
        return self.slot(self.slots) + number * self.stride

    def kept(self, number: int) -> int:
        """The word that is 1 while the reader keeps a block."""
        return (self.start + LINE * (1 + number)) // 8

    @property
    def size(self) -> int:
        """Bytes that the channel takes."""
        return PAGE * (1 + self.slots) + self.blocks * self.stride
