"""Channels of compiled graphs: messages in order and whole, waits that end, memory that goes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from skate.dag import memory
from skate.dag.channel import LEAST, VALUE, Closed, Member, Receiver, Sender
from skate.dag.memory import CLOSED, PAGE, Memory, bell, fence, head_size
from skate.dag.place import KEPT, Place
from skate.dag.values import Kept, decode, encode
from skate.exceptions import RayChannelTimeoutError

ROOM = 1000


class Pair:
    """A channel with both of its ends in this process."""

    def __init__(self, slots: int = 2, room: int = ROOM) -> None:
        self.place = Place(head_size(2), slots, room, 0, 1)
        self.memory = Memory.create(head_size(2) + self.place.size)
        for number in range(slots):
            self.memory.reserve(self.place.slot(number), PAGE)
        self.writer, self.reader = Member(self.memory, 0), Member(self.memory, 1)
        self.sender = Sender(self.writer, self.place)
        self.receiver = Receiver(self.reader, self.place)

    def close(self) -> None:
        self.memory.words[CLOSED] = 1
        fence()
        self.memory.knock(bell(0))
        self.memory.knock(bell(1))


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.memory.close()
    made.__dict__.clear()  # the mapping goes with the last who has it


def test_messages_come_in_order_and_whole(pair: Pair) -> None:
    messages = [os.urandom(size) for size in (1, 10, ROOM, ROOM + 1, 10 * ROOM, 3)]
    sending = threading.Thread(target=lambda: [pair.sender.send(VALUE, data) for data in messages])
    sending.start()
    got = [pair.receiver.receive(time.monotonic() + 60) for _ in messages]
    sending.join()
    assert got == [(VALUE, data) for data in messages]


def test_a_hundred_thousand_messages_between_two_threads(pair: Pair) -> None:
    count = 30_000

    def send() -> None:
        for number in range(count):
            pair.sender.send(VALUE, b"%d" % number)

    sending = threading.Thread(target=send)
    sending.start()
    got = [int(pair.receiver.receive(time.monotonic() + 60)[1]) for _ in range(count)]
    sending.join()
    assert got == list(range(count))


def test_threads_fence_at_once_and_one_that_was_interrupted_harms_nobody() -> None:
    wrong: list[BaseException] = []
    ends = time.monotonic() + 0.3

    def run() -> None:
        try:
            while time.monotonic() < ends:
                for _ in range(500):
                    fence()
        except BaseException as error:  # noqa: BLE001  it is what the test is about
            wrong.append(error)

    memory._acquire(False)  # as if a Ctrl-C had come in the middle
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_a_full_channel_holds_up_its_writer(pair: Pair) -> None:
    for _ in range(2):
        pair.sender.send(VALUE, b"x")
    assert not pair.sender.has_room()
    with pytest.raises(RayChannelTimeoutError):
        pair.sender.send(VALUE, b"y", time.monotonic() + 0.05)
    pair.receiver.receive()
    pair.sender.send(VALUE, b"z", time.monotonic() + 60)
    assert [pair.receiver.receive()[1] for _ in range(2)] == [b"x", b"z"]


def test_an_empty_channel_holds_up_its_reader_until_time_is_up(pair: Pair) -> None:
    began = time.monotonic()
    with pytest.raises(RayChannelTimeoutError):
        pair.receiver.receive(began + 0.1)
    assert 0.1 <= time.monotonic() - began < 30


def test_closing_wakes_reader_and_writer(pair: Pair) -> None:
    raised: list[str] = []

    def read() -> None:
        try:
            pair.receiver.receive()
        except Closed:
            raised.append("reader")

    reading = threading.Thread(target=read)
    reading.start()
    time.sleep(0.1)
    pair.close()
    reading.join(60)
    assert raised == ["reader"]
    for _ in range(2):
        pair.sender.send(VALUE, b"x")
    with pytest.raises(Closed):
        pair.sender.send(VALUE, b"y")


def test_who_waits_for_something_else_takes_in_what_comes(pair: Pair) -> None:
    """Or two members that write much to each other would wait for ever."""
    data = os.urandom(50 * ROOM)
    sent = threading.Event()

    def send() -> None:
        pair.sender.send(VALUE, data)
        sent.set()

    sending = threading.Thread(target=send)
    sending.start()
    for _ in range(60):
        with pytest.raises(RayChannelTimeoutError):
            pair.reader.sleep(lambda: False, time.monotonic() + 1)
        if sent.is_set():
            break
    assert sent.is_set()
    sending.join()
    assert pair.receiver.receive() == (VALUE, data)


def test_looking_pays_or_stops(pair: Pair) -> None:
    for _ in range(10):
        with pytest.raises(RayChannelTimeoutError):
            pair.receiver.receive(time.monotonic() + 0.01)
    assert pair.reader.patience == LEAST


def travelled(value: object, room: int = 1 << 20) -> Any:
    """`value` as it comes out of a channel."""
    pair = Pair(room=room)
    pair.sender.send(VALUE, encode(value, Kept()))
    again = decode(pair.receiver.receive()[1])
    pair.memory.close()
    return again


@pytest.mark.parametrize(
    "value",
    [None, 0, "text", b"", [1, {"a": (2,)}], b"x" * 100_000, lambda: 5],
    ids=["none", "zero", "text", "empty", "nested", "large", "function"],
)
def test_values_survive(value: object) -> None:
    again = travelled(value)
    assert again() == value() if callable(again) and callable(value) else again == value


def test_arrays_survive_and_are_read_only() -> None:
    again = travelled(np.arange(10_000))
    assert (again == np.arange(10_000)).all()
    assert not again.flags.writeable


def test_what_looks_at_a_message_keeps_it_and_others_take_other_blocks() -> None:
    pair, values = Pair(room=1 << 20), []
    for number in range(3 * KEPT):
        pair.sender.send(VALUE, encode(np.full(50_000, number), Kept()), time.monotonic() + 60)
        values.append(decode(pair.receiver.receive()[1]))
    assert all((value == number).all() for number, value in enumerate(values))
    assert len(pair.receiver._keeps) == KEPT
    del values
    assert not pair.receiver._keeps
    pair.memory.close()


def test_a_block_serves_again_as_soon_as_nothing_looks_at_it() -> None:
    pair = Pair(slots=4, room=1 << 20)
    for number in range(50):
        pair.sender.send(VALUE, encode(np.full(50_000, number), Kept()), time.monotonic() + 60)
        half = decode(pair.receiver.receive()[1])[::2]
        assert (half == number).all()
    assert sum(map(bool, pair.sender._reserved)) == 2  # the one that is looked at, and the next
    del half
    assert not pair.receiver._keeps
    pair.memory.close()


def test_a_value_outlives_the_memory_of_its_graph() -> None:
    pair = Pair(room=1 << 20)
    for number in range(2):
        pair.sender.send(VALUE, encode(np.full(50_000, number), Kept()))
    first = decode(pair.receiver.receive()[1])
    pair.memory.unmap()
    assert (first == 0).all()
    del first
    assert not pair.receiver._keeps


def test_memory_of_another_process_is_known_by_its_token(pair: Pair) -> None:
    pair.memory.words[1] = 77
    size = head_size(2) + pair.place.size
    again = Memory.attach(os.getpid(), pair.memory.fd, size, 77)
    again.close()
    with pytest.raises(OSError, match="another"):
        Memory.attach(os.getpid(), pair.memory.fd, size, 78)
    with pytest.raises(OSError, match="another"):
        Memory.attach(os.getpid(), pair.memory.fd, size + 1, 77)
