"""Frames over pipes: however the bytes arrive, the same messages come out, or `BrokenFrame`."""

from __future__ import annotations

import itertools
import os
import select
import struct
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skate.engines.local.link import LARGEST_FRAME, BlockingLink, BrokenFrame, Frames, Link
from skate.engines.local.messages import Cancel, Done, Feed, Get, Hold, Item, Stored, encoder, to_hub, to_worker

PIPE_SIZE = 1 << 18
KEYS = st.integers(0, 2**64 - 1)
VALUES = st.binary(max_size=200) | st.builds(Stored, KEYS, KEYS, KEYS)
MESSAGES = st.one_of(
    st.builds(Done, KEYS, VALUES, st.lists(KEYS, max_size=3).map(tuple), st.integers(0, 10**9)),
    st.builds(Hold, st.lists(KEYS, max_size=5)),
    st.builds(Item, KEYS, VALUES),
    st.builds(Get, KEYS, st.lists(KEYS, max_size=5), st.integers(0, 5), st.none() | st.floats(0, 10), st.booleans(),
              st.booleans()),
)  # fmt: skip


def frame(messages: list[object]) -> bytes:
    body = encoder.encode(messages)
    return struct.pack("<I", len(body)) + body


def raw_frame(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in itertools.pairwise(places)]


@given(frames=st.lists(st.lists(MESSAGES, max_size=4), max_size=6), cuts=st.lists(st.integers(0, 10**6), max_size=20))
@settings(max_examples=200)
def test_any_splitting_of_the_stream_gives_the_same_messages(frames, cuts):
    stream = b"".join(map(frame, frames))
    found: list[object] = []
    receiver = Frames(to_hub.decode)
    for piece in pieces(stream, cuts):
        found += receiver.feed(piece)
    assert found == [message for messages in frames for message in messages]
    assert receiver.wanting() == 0


@given(messages=st.lists(MESSAGES, min_size=1, max_size=3), data=st.data())
def test_a_truncated_stream_gives_nothing_and_says_how_much_it_lacks(messages, data):
    whole = frame(messages)
    cut = data.draw(st.integers(1, len(whole) - 1))
    receiver = Frames(to_hub.decode)
    assert receiver.feed(whole[:cut]) == []
    assert receiver.wanting() == (len(whole) - cut if cut >= 4 else 4 - cut)
    assert receiver.feed(whole[cut:]) == messages


def deep(levels: int) -> bytes:
    """One message with a field more than it should have, nested deeper than any stack."""
    return b"\x91\x96" + b"\x28\x01\xc4\x00\x90\x00" + b"\x91" * levels + b"\x00"


@given(bodies=st.lists(st.binary(max_size=60) | st.lists(MESSAGES, max_size=2).map(encoder.encode), max_size=4),
       cuts=st.lists(st.integers(0, 10**6), max_size=5))  # fmt: skip
@example([b""], [])
@example([b"\x91\x91\xa1\xff"], [])
@example([b"\x90" * 3], [])
@example([b"\x91\x92\x28\xff"], [])
@example([b"\xdd\xff\xff\xff\xff"], [])
@example([b"\x91\xc6\xff\xff\xff\xff"], [])
@example([b"\x91\x92\xcd\xff\xff\x01"], [])
@example([b"\x91\x94\x2e\xc4\x00\xc4\x00\xa1\xff"], [])
@example([deep(100_000)], [])
@settings(max_examples=300)
def test_a_hostile_frame_breaks_and_nothing_else(bodies, cuts):
    receiver = Frames(to_hub.decode)
    try:
        for piece in pieces(b"".join(map(raw_frame, bodies)), cuts):
            for message in receiver.feed(piece):
                assert isinstance(message, msgspec.Struct)
    except BrokenFrame as broken:
        assert str(broken)


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_noise_gives_messages_or_breaks(noise):
    receiver = Frames(to_hub.decode)
    try:
        receiver.feed(noise)
    except BrokenFrame:
        return


@given(messages=st.lists(MESSAGES, min_size=1, max_size=3), data=st.data())
@settings(max_examples=200)
def test_one_damaged_byte_gives_messages_or_breaks(messages, data):
    damaged = bytearray(frame(messages))
    damaged[data.draw(st.integers(4, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        for message in Frames(to_hub.decode).feed(bytes(damaged)):
            assert isinstance(message, msgspec.Struct)
    except BrokenFrame:
        return


@pytest.mark.parametrize("length", [LARGEST_FRAME, 2**32 - 1])
def test_a_frame_longer_than_any_of_ours_breaks_before_it_is_collected(length):
    with pytest.raises(BrokenFrame, match="bytes"):
        Frames(to_hub.decode).feed(struct.pack("<I", length) + b"\x90")
    behind = Frames(to_hub.decode)
    with pytest.raises(BrokenFrame, match="bytes"):
        behind.feed(frame([Hold([1])]) + struct.pack("<I", length))


def test_messages_for_the_other_side_break():
    with pytest.raises(BrokenFrame):
        Frames(to_hub.decode).feed(frame([Cancel(1)]))
    with pytest.raises(BrokenFrame):
        Frames(to_worker.decode).feed(frame([Hold([1])]))


def test_a_large_frame_in_small_pieces_takes_time_in_proportion():
    def seconds(size: int) -> float:
        stream = frame([Done(1, b"x" * size)])
        receiver = Frames(to_hub.decode)
        began = time.process_time()
        found = []
        for start in range(0, len(stream), 4096):
            found += receiver.feed(stream[start : start + 4096])
        assert len(found) == 1
        return time.process_time() - began

    small = min(seconds(1 << 20) for _ in range(3))
    assert min(seconds(1 << 24) for _ in range(2)) < 16 * small * 10, (
        "sixteen times the bytes took far more than sixteen times as long"
    )


# ------------------------------------------------------------------------- links


class Wire:
    """The hub's link, and the worker's ends of its pipes."""

    def __init__(self) -> None:
        self.from_worker, self.worker_writes = os.pipe2(os.O_CLOEXEC)
        self.worker_reads, self.to_worker = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.from_worker, False)
        os.set_blocking(self.to_worker, False)
        self.dirty: list[Link] = []
        self.link = Link(self.from_worker, self.to_worker, to_hub.decode, self.dirty)
        self.worker = BlockingLink(self.worker_reads, self.worker_writes, to_worker.decode)
        self.open = {self.worker_writes, self.worker_reads}

    def close_worker(self) -> None:
        for fd in self.open:
            os.close(fd)
        self.open.clear()

    def worker_has_something(self) -> bool:
        return bool(select.select([self.worker_reads], [], [], 0)[0])


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close_worker()
    made.link.close()


def test_a_link_is_dirty_once_until_it_is_flushed(wire):
    for key in range(5):
        wire.link.send(Cancel(key))
    assert wire.dirty == [wire.link]
    assert not wire.worker_has_something(), "sending does no I/O"
    assert wire.link.flush()
    assert wire.worker.read() == [Cancel(key) for key in range(5)]


def test_a_full_pipe_keeps_the_order_and_loses_nothing(wire):
    """Nothing is read until the pipe is full and much has piled up behind it."""
    sent, full = 0, False
    while not full or sent < 20_000:
        for _ in range(500):
            wire.link.send(Cancel(sent))
            sent += 1
        full = not wire.link.flush()
    found: list[Cancel] = []
    while len(found) < sent:
        while wire.worker_has_something():
            found += wire.worker.read()
        wire.link.flush()
    assert [message.task for message in found] == list(range(sent))
    assert not wire.link.unsent and wire.link.flush()


@given(sizes=st.lists(st.integers(0, 3 * PIPE_SIZE) | st.integers(0, 100), max_size=12),
       reads=st.lists(st.integers(0, 8), max_size=12))  # fmt: skip
@settings(max_examples=40)
def test_any_mixture_of_sending_flushing_and_reading_delivers_all_in_order(sizes, reads):
    wire = Wire()
    try:
        found: list[object] = []
        for number, size in enumerate(sizes):
            wire.link.send(Cancel(number))
            wire.link.send(Feed([bytes(size)]))
            wire.link.flush()
            for _ in range(reads[number] if number < len(reads) else 0):
                if wire.worker_has_something():
                    found += wire.worker.read()
        deadline = time.monotonic() + 60
        while len(found) < 2 * len(sizes) and time.monotonic() < deadline:
            wire.link.flush()
            while wire.worker_has_something():
                found += wire.worker.read()
        assert found == [m for number, size in enumerate(sizes) for m in (Cancel(number), Feed([bytes(size)]))]
    finally:
        wire.close_worker()
        wire.link.close()


def test_a_dead_worker_breaks_the_link_and_what_was_for_it_is_dropped(wire):
    wire.close_worker()
    wire.link.send(Cancel(1))
    assert wire.link.flush()
    assert wire.link.broken and not wire.link.unsent
    wire.link.send(Cancel(2))
    assert wire.link.flush() and wire.link.out == []
    assert wire.link.read() is None


def test_a_worker_that_dies_with_its_pipe_full_does_not_keep_the_backlog(wire):
    while wire.link.flush():
        for key in range(1000):
            wire.link.send(Cancel(key))
    assert wire.link.unsent
    wire.close_worker()
    assert wire.link.flush()
    assert wire.link.broken and not wire.link.unsent


def test_a_backlog_behind_a_full_pipe_costs_time_in_proportion(wire):
    def seconds(flushes: int) -> float:
        began = time.process_time()
        for _ in range(flushes):
            wire.link.send(Feed([bytes(4096)]))
            wire.link.flush()
        return time.process_time() - began

    seconds(100)
    few = seconds(400)
    assert seconds(3200) < 8 * few * 3 + 0.1, "every flush copies the whole backlog"


def test_reading_gives_nothing_yet_messages_and_the_end_apart(wire):
    assert wire.link.read() == []
    whole = frame([Hold([1]), Hold([2])])
    os.write(wire.worker_writes, whole[:7])
    assert wire.link.read() == []
    os.write(wire.worker_writes, whole[7:])
    assert wire.link.read() == [Hold([1]), Hold([2])]
    wire.close_worker()
    assert wire.link.read() is None


def test_a_worker_that_writes_noise_breaks_the_frame_for_the_hub(wire):
    os.write(wire.worker_writes, b"\x02\x00\x00\x00no, this is text")
    with pytest.raises(BrokenFrame):
        wire.link.read()


def test_a_worker_waits_until_its_pipe_takes_more_and_loses_nothing(wire):
    def produce() -> None:
        for number in range(100):
            wire.worker.out.append(Done(number, bytes(20_000)))
            if number % 7 == 0:
                wire.worker.flush()
        wire.worker.flush()

    writer = threading.Thread(target=produce)
    writer.start()
    found: list[Done] = []
    while len(found) < 100:
        select.select([wire.from_worker], [], [], 5)
        found += wire.link.read() or []
    writer.join()
    assert [message.task for message in found] == list(range(100))


def test_a_flush_with_nothing_to_send_writes_nothing(wire):
    wire.worker.flush()
    assert wire.link.read() == []
    assert wire.link.flush()
    assert not wire.worker_has_something()


def test_a_worker_whose_hub_is_gone_hears_the_end_of_file():
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    os.close(write_fd)
    try:
        with pytest.raises(EOFError):
            BlockingLink(read_fd, read_fd, to_worker.decode).read()
    finally:
        os.close(read_fd)


def test_a_worker_reads_a_frame_larger_than_the_pipe(wire):
    big = Feed([b"v" * (5 * PIPE_SIZE)])
    wire.link.send(Cancel(1))
    wire.link.send(big)
    found: list[object] = []

    def consume() -> None:
        while len(found) < 2:
            found.extend(wire.worker.read())

    reader = threading.Thread(target=consume)
    reader.start()
    while not wire.link.flush():
        select.select([], [wire.to_worker], [], 5)
    reader.join()
    assert found == [Cancel(1), big]
