"""The arena: blocks never overlap, every byte comes back, and memory lives as long as a view of it."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from skate.engines.local.arena import Arena, Mapping
from skate.engines.local.boot import PAGE


def new_arena(capacity: int) -> Arena:
    fd = os.memfd_create("test-arena", os.MFD_CLOEXEC)
    os.ftruncate(fd, capacity)
    return Arena(fd, capacity)


def rounded(size: int) -> int:
    return -(-size // PAGE) * PAGE


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = new_arena(64 * PAGE)
    yield made
    made.close()
    made.mapping = None


class ArenaAgainstAModel(RuleBasedStateMachine):
    """The model is a list of the blocks given out; gaps between them are what must be free."""

    @initialize(pages=st.sampled_from([1, 3, 64, 300, 1000]))
    def start(self, pages: int) -> None:
        self.arena = new_arena(pages * PAGE)
        self.live: dict[int, int] = {}

    def teardown(self) -> None:
        if not hasattr(self, "arena"):
            return
        self.arena.close()
        if sys.exc_info()[0] is not None:
            return
        for offset, size in self.live.items():
            self.arena.free(offset, size)
        assert self.arena.used == 0
        # everything freed is one block: the file as far as it has grown
        assert self.arena._sizes == ([(self.arena.grown, 0)] if self.arena.grown else [])

    @rule(size=st.integers(1, 400 * PAGE) | st.integers(1, 3 * PAGE) | st.sampled_from([1, PAGE - 1, PAGE, PAGE + 1]))
    def allocate(self, size: int) -> None:
        offset = self.arena.allocate(size)
        if offset is None:
            assert self.largest_gap() < rounded(size)
            return
        assert offset % PAGE == 0
        assert offset + rounded(size) <= self.arena.capacity
        for other, length in self.live.items():
            assert offset + rounded(size) <= other or other + rounded(length) <= offset, "two blocks overlap"
        self.live[offset] = size

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        if self.live:
            offset = data.draw(st.sampled_from(sorted(self.live)))
            self.arena.free(offset, self.live.pop(offset))

    def gaps(self, end: int) -> list[tuple[int, int]]:
        found, at = [], 0
        for offset in sorted(self.live):
            if offset > at:
                found.append((at, offset))
            at = offset + rounded(self.live[offset])
        if end > at:
            found.append((at, end))
        return found

    def largest_gap(self) -> int:
        return max((end - start for start, end in self.gaps(self.arena.capacity)), default=0)

    @invariant()
    def used_is_exact(self) -> None:
        if hasattr(self, "arena"):
            assert self.arena.used == sum(rounded(size) for size in self.live.values())

    @invariant()
    def free_neighbours_are_joined(self) -> None:
        if not hasattr(self, "arena"):
            return
        arena = self.arena
        free = sorted((offset, offset + length) for length, offset in arena._sizes)
        assert free == self.gaps(arena.grown)
        assert arena._starts == {start: end - start for start, end in free}
        assert arena._ends == {end: start for start, end in free}

    @invariant()
    def the_file_has_the_memory_it_gave_out(self) -> None:
        if hasattr(self, "arena"):
            assert self.arena.grown <= self.arena.capacity
            assert os.fstat(self.arena.fd).st_blocks * 512 >= self.arena.grown


TestArenaAgainstAModel = ArenaAgainstAModel.TestCase
TestArenaAgainstAModel.settings = settings(max_examples=60, stateful_step_count=40)


def test_an_arena_that_is_full_says_so_and_serves_again_after_a_free(arena):
    blocks = [arena.allocate(16 * PAGE) for _ in range(4)]
    assert None not in blocks
    assert arena.allocate(1) is None
    arena.free(blocks[2], 16 * PAGE)
    assert arena.allocate(17 * PAGE) is None
    assert arena.allocate(16 * PAGE) == blocks[2]


def test_an_object_larger_than_the_arena_is_refused_and_changes_nothing(arena):
    assert arena.allocate(64 * PAGE + 1) is None
    assert (arena.used, arena.grown) == (0, 0)
    assert arena.allocate(64 * PAGE) == 0


def test_a_machine_without_memory_makes_the_arena_full_rather_than_crash(arena, monkeypatch):
    def no_space(*_: int) -> None:
        raise OSError(28, "No space left on device")

    first = arena.allocate(PAGE)
    in_hand = arena.grown - PAGE
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    offset = arena.allocate(in_hand) if in_hand else None
    assert arena.allocate(PAGE) is None
    assert arena.used == PAGE + in_hand
    if offset is not None:
        arena.free(offset, in_hand)
    arena.free(first, PAGE)
    assert arena.used == 0


def test_growing_uses_the_free_block_at_the_end_of_the_file():
    arena = new_arena(2048 * PAGE)
    first = arena.allocate(PAGE)
    tail = arena.grown - PAGE
    offset = arena.allocate(tail + PAGE)
    assert offset == PAGE, "the free tail was left behind as a hole"
    arena.free(first, PAGE)
    arena.free(offset, tail + PAGE)
    arena.close()


# ---------------------------------------------------------------------- mapping


def filled(arena: Arena, content: bytes) -> tuple[Mapping, int]:
    offset = arena.allocate(len(content))
    assert offset is not None
    mapping = arena.map()
    mapping.slice(offset, len(content))[:] = content
    return mapping, offset


def test_what_is_read_is_what_was_written_and_cannot_be_changed(arena):
    mapping, offset = filled(arena, b"abc" * 5000)
    view = mapping.read(offset, 15_000, lambda: None)
    assert view == b"abc" * 5000
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        np.frombuffer(view, np.uint8)[0] = 0


def test_memory_is_given_up_once_when_the_view_dies(arena):
    mapping, offset = filled(arena, b"x" * PAGE)
    gone: list[int] = []
    view = mapping.read(offset, PAGE, lambda: gone.append(1))
    gc.collect()
    assert gone == []
    del view
    assert gone == [1]
    gc.collect()
    assert gone == [1] and not mapping._watched


def test_two_views_of_one_block_are_given_up_each_for_itself(arena):
    mapping, offset = filled(arena, b"x" * PAGE)
    gone: list[str] = []
    one = mapping.read(offset, PAGE, lambda: gone.append("one"))
    two = mapping.read(offset, PAGE, lambda: gone.append("two"))
    del one
    assert gone == ["one"] and two[0] == ord("x")
    del two
    assert gone == ["one", "two"]


def test_the_last_array_that_shares_memory_keeps_it_however_it_was_made(arena):
    mapping, offset = filled(arena, bytes(range(256)) * 16)
    gone: list[int] = []
    view = mapping.read(offset, 4096, lambda: gone.append(1))
    last = memoryview(np.frombuffer(view, np.uint8).reshape(16, 256)[3:9].T[::2].view()[5:])[1:]
    del view
    gc.collect()
    assert gone == []
    assert last[0, 0] == 12
    del last
    assert gone == [1]


STEPS = st.lists(st.sampled_from(["slice", "reshape", "transpose", "view", "memoryview", "cast", "stride"]), max_size=6)


@given(steps=STEPS, size=st.integers(1, 3 * PAGE))
@settings(max_examples=80)
def test_a_chain_of_views_holds_the_memory_to_its_end(steps, size):
    arena = new_arena(8 * PAGE)
    try:
        mapping, offset = filled(arena, b"s" * size)
        gone: list[int] = []
        shared: np.ndarray | None = np.frombuffer(mapping.read(offset, size, lambda: gone.append(1)), np.uint8)
        for step in steps:
            shared = {
                "slice": lambda a: a[: max(1, len(a) - 1)],
                "reshape": lambda a: a.reshape(-1),
                "transpose": lambda a: a.T,
                "view": lambda a: a.view(),
                "memoryview": lambda a: np.asarray(memoryview(a)),
                "cast": lambda a: a.view(np.int8).view(np.uint8),
                "stride": lambda a: a[::1],
            }[step](shared)
            assert gone == [] and shared[0] == ord("s") and not shared.flags.writeable
        del shared
        assert gone == [1]
    finally:
        arena.close()


def test_a_copy_does_not_hold_the_memory(arena):
    mapping, offset = filled(arena, b"c" * PAGE)
    gone: list[int] = []
    copy = np.frombuffer(mapping.read(offset, PAGE, lambda: gone.append(1)), np.uint8).copy()
    assert gone == [1] and copy[0] == ord("c")


def test_the_last_block_of_the_arena_can_be_read(arena):
    assert arena.allocate(63 * PAGE) == 0
    mapping, offset = filled(arena, b"e" * 10)
    assert offset == 63 * PAGE
    assert mapping.read(offset, 10, lambda: None) == b"e" * 10


def test_a_view_outlives_the_arena():
    arena = new_arena(4 * PAGE)
    mapping, offset = filled(arena, b"still here")
    view = mapping.read(offset, 10, lambda: None)
    arena.close()
    del arena, mapping
    gc.collect()
    assert view == b"still here"


def test_a_closed_arena_gives_its_memory_back_though_its_owner_lives():
    arena = new_arena(4 * PAGE)
    name = os.readlink(f"/proc/self/fd/{arena.fd}")
    mapping, offset = filled(arena, b"x")
    view = mapping.read(offset, 1, lambda: None)
    arena.close()
    del mapping, view
    gc.collect()
    open_on = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)]
    still_open = name in open_on
    arena.mapping = None
    assert not still_open
