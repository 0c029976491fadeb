"""Shared memory for large values: one memfd, mapped once in every process, blocks recycled.

Only the hub's process allocates. Blocks are multiples of a page, kept in a best-fit free list that joins neighbours, so
that a loop of puts writes to the same warm memory. The file grows by `posix_fallocate`, which
says ENOSPC where touching a page that is not there would kill the process with SIGBUS. A memfd has no name: whatever
dies, nothing is left behind.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import os

from skate.core.views import Views
from skate.engines.local.boot import PAGE

GROWTH = 16 << 20
"""The file grows by doubling, by this much at most at a time."""
_MAP_FIXED = 0x10


class Mapping(Views):
    """A process's view of the arena."""

    def __init__(self, fd: int, capacity: int) -> None:
        super().__init__(mmap.mmap(fd, capacity))
        self.view = memoryview(self.map)

    def slice(self, offset: int, size: int) -> memoryview:
        """A writable view of a block, for the one who fills it."""
        return self.view[offset : offset + size]

    def keep(self) -> None:
        """Give every view that is left memory of its own: what it shows stays when others use the blocks again."""
        kept = self.alive()
        if not kept:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        how = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        for exporter in kept:
            address, size = ctypes.addressof(exporter), ctypes.sizeof(exporter)
            data = bytes(exporter)
            if libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, how, -1, 0) != address:
                raise OSError(ctypes.get_errno(), "a view could not be given memory of its own")
            ctypes.memmove(address, data, size)


class Arena:
    """The allocator, in the hub's process. Sizes are bytes."""

    def __init__(self, fd: int, capacity: int) -> None:
        self.fd = fd
        self.capacity = capacity
        self.mapping: Mapping | None = None
        self.grown = 0
        self.used = 0
        self._sizes: list[tuple[int, int]] = []
        """Free blocks as (size, offset), sorted."""
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}

    def map(self) -> Mapping:
        """This process's view, mapped on first use."""
        if self.mapping is None:
            self.mapping = Mapping(self.fd, self.capacity)
        return self.mapping

    def allocate(self, size: int) -> int | None:
        """The offset of a block for `size` bytes, or None when there is no room."""
        need = -(-size // PAGE) * PAGE
        place = bisect.bisect_left(self._sizes, (need, 0))
        if place < len(self._sizes):
            length, offset = self._sizes.pop(place)
            del self._starts[offset], self._ends[offset + length]
            if length > need:
                self._insert(offset + need, length - need)
        else:
            grown = self._grow(need)
            if grown is None:
                return None
            offset = grown
        self.used += need
        return offset

    def free(self, offset: int, size: int) -> None:
        """Give a block back."""
        length = -(-size // PAGE) * PAGE
        self.used -= length
        before = self._ends.get(offset)
        if before is not None:
            self._remove(before, offset - before)
            offset, length = before, offset - before + length
        after = self._starts.get(offset + length)
        if after is not None:
            self._remove(offset + length, after)
            length += after
        self._insert(offset, length)

    def _grow(self, need: int) -> int | None:
        """Room at the end of the file, joined with a free block that ends there."""
        last = self._ends.get(self.grown)
        start = self.grown if last is None else last
        if start + need > self.capacity:
            return None
        target = min(self.capacity, max(start + need, self.grown + max(1 << 20, min(GROWTH, self.grown))))
        if not self._extend(target):
            return None
        if last is not None:
            self._remove(last, self.grown - last)
        self.grown = target
        if target > start + need:
            self._insert(start + need, target - start - need)
        return start

    def _extend(self, target: int) -> bool:
        """Make the file so long; False when there is no memory for it, whatever the store's limit says."""
        try:
            os.posix_fallocate(self.fd, self.grown, target - self.grown)
        except OSError:
            return False
        return True

    def _insert(self, offset: int, length: int) -> None:
        bisect.insort(self._sizes, (length, offset))
        self._starts[offset] = length
        self._ends[offset + length] = offset

    def _remove(self, offset: int, length: int) -> None:
        del self._sizes[bisect.bisect_left(self._sizes, (length, offset))]
        del self._starts[offset], self._ends[offset + length]

    def close(self) -> None:
        """Let the memory go when the last view of it dies."""
        self.mapping = None
        os.close(self.fd)
