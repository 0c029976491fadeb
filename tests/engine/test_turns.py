"""Leader and followers: one reads for all, nobody sleeps on when what it wants has come, deadlines hold."""

from __future__ import annotations

import os
import random
import select
import threading
import time
from collections.abc import Iterator

import pytest

from skate.engines.local import turns
from skate.engines.local.turns import Turns

PATIENCE = 60.0
"""Seconds after which a thread that still waits has lost its wake-up."""


class Source:
    """Numbers that arrive over a pipe, as messages do; whoever leads reads them."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        self.arrived: set[int] = set()
        self.turns = Turns(self.work, self.nudge)
        self.reading = 0
        self.most_readers = 0
        self.nudged = 0

    def work(self, timeout: float | None) -> None:
        self.reading += 1
        self.most_readers = max(self.most_readers, self.reading)
        try:
            if select.select([self.read_fd], [], [], PATIENCE if timeout is None else timeout)[0]:
                data = os.read(self.read_fd, 4096)
                self.arrived |= {int.from_bytes(data[i : i + 4], "big") for i in range(0, len(data), 4)}
        finally:
            self.reading -= 1

    def nudge(self) -> None:
        self.nudged += 1

    def send(self, *numbers: int) -> None:
        os.write(self.write_fd, b"".join(number.to_bytes(4, "big") for number in numbers))

    def wait(self, number: int, seconds: float | None = None) -> bool:
        deadline = None if seconds is None else time.monotonic() + seconds
        return self.turns.until(lambda: number in self.arrived, deadline)

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


@pytest.fixture
def source() -> Iterator[Source]:
    made = Source()
    yield made
    made.close()


def started(*targets: object) -> list[threading.Thread]:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    return threads


def until_followers(source: Source, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(source.turns.followers) < count:
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "a thread sleeps though what it wants has come"


def test_what_has_arrived_is_not_waited_for(source):
    source.arrived.add(1)
    assert source.wait(1) and source.turns.taken == 0


def test_a_lone_thread_reads_for_itself(source):
    source.send(5)
    assert source.wait(5)
    assert source.turns.taken == 1 and not source.turns.lead.locked()


def test_one_thread_reads_for_all(source):
    threads = started(*(lambda number=number: source.wait(number) for number in range(8)))
    until_followers(source, 7)
    source.send(*range(8))
    join(threads)
    assert source.most_readers == 1 and source.turns.followers == []


def test_the_lead_passes_on_when_the_leader_has_what_it_wants(source):
    leader = started(lambda: source.wait(1))
    while not source.reading:
        time.sleep(0.0005)
    followers = started(lambda: source.wait(2), lambda: source.wait(3))
    until_followers(source, 2)
    source.send(1)
    join(leader)
    source.send(2)
    source.send(3)
    join(followers)


def test_the_lead_passes_on_past_a_follower_that_has_what_it_wants(source):
    """The leader and the first follower get theirs at once; the second follower must come to lead."""
    for _ in range(30):
        source.arrived.clear()
        leader = started(lambda: source.wait(1))
        while not source.reading:
            time.sleep(0.0005)
        first = started(lambda: source.wait(2))
        until_followers(source, 1)
        second = started(lambda: source.wait(3))
        until_followers(source, 2)
        source.send(1, 2)
        join(leader + first)
        source.send(3)
        join(second)


def test_the_lead_passes_on_past_a_follower_whose_time_is_up(source, monkeypatch):
    """Its turn comes after its time was up, but before it is gone."""
    time_is_up, go_on = threading.Event(), threading.Event()
    real = turns._Follower.sleep

    def sleep(follower: turns._Follower, timeout: float | None) -> bool:
        woken = real(follower, timeout)
        if timeout is not None:
            time_is_up.set()
            go_on.wait(PATIENCE)
        return woken

    monkeypatch.setattr(turns._Follower, "sleep", sleep)
    leader = started(lambda: source.wait(1))
    while not source.reading:
        time.sleep(0.0005)
    first = started(lambda: source.wait(99, 0.001))
    until_followers(source, 1)
    second = started(lambda: source.wait(3))
    until_followers(source, 2)
    assert time_is_up.wait(PATIENCE)
    source.send(1)
    join(leader)
    go_on.set()
    join(first)
    source.send(3)
    join(second)


def test_a_follower_goes_on_when_it_has_what_it_wants_though_the_leader_waits(source):
    leader = started(lambda: source.wait(1))
    while not source.reading:
        time.sleep(0.0005)
    followers = started(lambda: source.wait(2), lambda: source.wait(3))
    until_followers(source, 2)
    source.send(3, 2)
    join(followers)
    assert leader[0].is_alive()
    source.send(1)
    join(leader)


def test_eight_threads_under_stress_never_lose_a_wake_up(source):
    rounds, failures = 60, []
    numbers = list(range(8 * rounds))
    random.Random(1).shuffle(numbers)

    def consume(mine: range) -> None:
        for number in mine:
            if not source.wait(number, None if number % 3 else PATIENCE):
                failures.append(number)

    def produce() -> None:
        sent: set[int] = set()
        waiting = [iter(range(i * rounds, (i + 1) * rounds)) for i in range(8)]
        order = random.Random(2)
        while waiting:
            batch = []
            for steps in order.sample(waiting, order.randint(1, len(waiting))):
                number = next(steps, None)
                if number is None:
                    waiting.remove(steps)
                else:
                    batch.append(number)
            if batch:
                sent.update(batch)
                source.send(*batch)
            if order.random() < 0.3:
                time.sleep(order.random() * 0.001)

    threads = started(*(lambda i=i: consume(range(i * rounds, (i + 1) * rounds)) for i in range(8)), produce)
    join(threads)
    assert failures == [] and source.most_readers == 1
    assert source.turns.followers == [] and not source.turns.lead.locked()


@pytest.mark.parametrize("others", [0, 1], ids=["as leader", "as follower"])
def test_a_deadline_is_kept(source, others):
    threads = started(*(lambda: source.wait(7) for _ in range(others)))
    while others and not source.reading:
        time.sleep(0.0005)
    began = time.monotonic()
    assert not source.wait(99, 0.05)
    assert 0.045 <= time.monotonic() - began < 30
    assert source.wait(7, 0) is False
    source.send(7)
    join(threads)


def test_a_deadline_in_the_past_looks_once_and_takes_what_is_there(source):
    source.send(3)
    assert source.wait(3, -1)


def test_a_follower_whose_time_is_up_leaves_the_others_waiting(source):
    threads = started(lambda: source.wait(1))
    while not source.reading:
        time.sleep(0.0005)
    assert not source.wait(2, 0.02)
    assert source.turns.followers == []
    source.send(1)
    join(threads)


def test_an_error_in_the_leaders_work_frees_the_lead_and_others_go_on(source):
    class Broken(Exception):
        pass

    real, raised = source.turns.work, []

    def breaks_once(timeout: float | None) -> None:
        if not raised:
            until_followers(source, 1)
            raised.append(1)
            raise Broken
        real(timeout)

    source.turns.work = breaks_once

    def lead() -> None:
        with pytest.raises(Broken):
            source.wait(1)

    leader = started(lead)
    while not source.turns.lead.locked() and not raised:
        time.sleep(0.0005)
    follower = started(lambda: source.wait(2))
    join(leader)
    source.send(2)
    join(follower)


def test_a_leader_that_only_helps_out_is_asked_to_make_way(source):
    source.turns.lead.acquire()
    threads = started(lambda: source.wait(1))
    until_followers(source, 1)
    while not source.nudged:
        time.sleep(0.0005)
    source.turns.lead.release()
    source.turns.pass_on()
    source.send(1)
    join(threads)
