"""Generators are made on demand where nothing runs by itself."""

from __future__ import annotations

import asyncio
import itertools

import pytest

import skate
from skate.exceptions import TaskCancelledError

pytestmark = pytest.mark.usefixtures("engine")


class Notes:
    """What code wrote down, in a file, because functions of tests run as copies."""

    def __init__(self, path):
        self.path = str(path)
        open(path, "w").close()

    def add(self, text):
        with open(self.path, "a") as out:
            out.write(f"{text} ")

    def __str__(self):
        with open(self.path) as source:
            return source.read().strip()


@pytest.fixture
def notes(tmp_path):
    return Notes(tmp_path / "notes")


@skate.remote
def count(notes, n=None, fail_at=None):
    try:
        for i in itertools.count() if n is None else range(n):
            notes.add(i)
            if i == fail_at:
                raise ValueError(i)
            yield i
    finally:
        notes.add("closed")


def test_items_are_made_as_they_are_asked_for(notes):
    stream = count.remote(notes)
    assert str(notes) == ""
    assert skate.get(next(stream)) == 0
    assert str(notes) == "0"
    assert skate.get([next(stream), next(stream)]) == [1, 2]
    assert str(notes) == "0 1 2"
    del stream
    skate.put(0)
    assert str(notes) == "0 1 2 closed"


def test_waiting_for_the_end_makes_the_rest(notes):
    stream = count.remote(notes, 4)
    next(stream)
    assert skate.get(stream.completed()) is None
    assert str(notes) == "0 1 2 3 closed"
    assert skate.get(list(stream)) == [1, 2, 3]


def test_end_can_be_awaited_without_the_generator(notes):
    done = count.remote(notes, 3).completed()
    assert skate.wait([done], timeout=0) == ([done], [])
    assert str(notes) == "0 1 2 closed"


def test_error_midway_then_the_end(notes):
    stream = count.remote(notes, 5, fail_at=2)
    assert skate.get([next(stream), next(stream)]) == [0, 1]
    with pytest.raises(ValueError, match="2"):
        skate.get(next(stream))
    with pytest.raises(StopIteration):
        next(stream)
    assert skate.get(stream.completed()) is None


def test_retried_stream_does_not_deliver_twice(notes):
    @skate.remote(max_retries=1, retry_exceptions=True)
    def unsteady(notes):
        for i in range(4):
            if i == 2 and not skate.get_runtime_context().get_attempt_number():
                raise ValueError("once")
            notes.add(i)
            yield i

    assert skate.get(list(unsteady.remote(notes))) == [0, 1, 2, 3]
    assert str(notes) == "0 1 0 1 2 3"


def test_later_call_of_an_actor_sees_what_an_earlier_stream_does():
    @skate.remote
    class A:
        def __init__(self):
            self.made = []

        def items(self, n):
            for i in range(n):
                self.made.append(i)
                yield i

        def seen(self):
            return list(self.made)

    a = A.remote()
    first, second = a.items.remote(2), a.items.remote(1)
    assert skate.get(next(second)) == 0
    assert skate.get(a.seen.remote()) == [0, 1, 0]
    assert skate.get(list(first)) == [0, 1]
    assert skate.get(list(second)) == []


def test_dropped_stream_of_an_actor_lets_it_go_on(notes):
    @skate.remote
    class A:
        def forever(self, notes):
            try:
                yield from itertools.count()
            finally:
                notes.add("closed")

        def ping(self):
            return "pong"

    a = A.remote()
    stream = a.forever.remote(notes)
    assert skate.get(next(stream)) == 0
    del stream
    assert skate.get(a.ping.remote()) == "pong"
    assert str(notes) == "closed"


def test_cancelled_stream_ends(notes):
    stream = count.remote(notes)
    next(stream)
    skate.cancel(stream)
    assert str(notes) == "0 closed"
    with pytest.raises(TaskCancelledError):
        skate.get(next(stream))
    with pytest.raises(StopIteration):
        next(stream)


def test_async_generator_runs_ahead_as_far_as_its_backpressure_allows(notes):
    @skate.remote
    class A:
        async def items(self, notes):
            try:
                for i in itertools.count():
                    notes.add(i)
                    yield i
            finally:
                notes.add("closed")

        async def pause(self):
            await asyncio.sleep(0.05)

    a = A.remote()
    stream = a.items.options(_generator_backpressure_num_objects=2).remote(notes)
    skate.get(a.pause.remote())
    assert str(notes) == "0 1"
    assert skate.get([next(stream), next(stream), next(stream)]) == [0, 1, 2]
    del stream
    skate.put(0)
    skate.get(a.pause.remote())
    assert str(notes).endswith("closed")


def test_threaded_generator_runs_ahead_as_far_as_its_backpressure_allows(notes):
    @skate.remote(max_concurrency=2)
    class A:
        def items(self, notes, n):
            for i in range(n):
                notes.add(i)
                yield i

        def ping(self):
            return "pong"

    a = A.remote()
    stream = a.items.options(_generator_backpressure_num_objects=1).remote(notes, 10)
    assert skate.get(next(stream)) == 0
    assert skate.get(a.ping.remote()) == "pong"
    assert len(str(notes).split()) <= 3
    assert skate.get(list(stream)) == list(range(1, 10))


def test_async_generator_of_a_task():
    @skate.remote
    async def items(n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    async def main():
        return [await ref async for ref in items.remote(3)]

    assert skate.get(list(items.remote(3))) == [0, 1, 2]
    assert asyncio.run(main()) == [0, 1, 2]


def test_stream_of_an_unready_argument():
    @skate.remote
    class Late:
        def __init__(self):
            self.event = asyncio.Event()

        async def wait(self):
            await self.event.wait()
            return 2

        async def fire(self):
            self.event.set()

    @skate.remote
    def items(n):
        yield from range(n)

    a = Late.remote()
    stream = items.remote(a.wait.remote())
    assert skate.wait([stream], timeout=0.05) == ([], [stream])
    skate.get(a.fire.remote())
    assert skate.get(list(stream)) == [0, 1]
