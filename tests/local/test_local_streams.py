"""Streams: nothing twice, nothing lost, nothing kept that nobody will read; whoever dies or leaves in the middle."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skate as ray
from skate.core import engine as engines
from skate.exceptions import ActorDiedError, TaskCancelledError, WorkerCrashedError

pytestmark = [pytest.mark.usefixtures("session"), pytest.mark.timeout(300)]
LARGE = 1 << 17
"""Numbers in an item of one MiB."""


class Marks:
    """Counts what processes did."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        path.touch()

    def add(self) -> None:
        with open(self.path, "a") as file:
            file.write("x")

    def count(self) -> int:
        return os.path.getsize(self.path)


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    return Marks(tmp_path / "marks")


@ray.remote
def numbers(count: int, marks: Marks | None = None, pause: float = 0) -> Iterator[int]:
    try:
        for number in range(count):
            if marks is not None:
                marks.add()
            yield number
            if pause:
                time.sleep(pause)
    finally:
        if marks is not None:
            marks.add()


@ray.remote
def blocks(count: int) -> Iterator[Any]:
    for number in range(count):
        yield np.full(LARGE, number)


def eventually(check: Any, timeout: float = 60) -> bool:
    end = time.monotonic() + timeout
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def stored() -> int:
    """MiB of shared memory that values take."""
    gc.collect()
    ray.available_resources()
    engine: Any = engines.current()
    granted = sum(size for worker in engine.hub.workers.values() for _, size in worker.granted)
    return round((engine.arena.used - granted) / (1 << 20))


def quiet() -> bool:
    """Nothing is left of any stream."""
    gc.collect()
    ray.available_resources()
    hub = engines.current().hub  # type: ignore[attr-defined]
    return not hub.streams and not any(worker.running or worker.blocked for worker in hub.workers.values())


def test_unread_items_go_with_the_generator():
    stream = blocks.remote(20)
    ray.get(stream.completed())
    assert stored() == 20
    first = next(stream)
    del stream
    assert eventually(lambda: stored() == 1)
    assert int(ray.get(first)[0]) == 0
    del first
    assert eventually(lambda: stored() == 0) and quiet()


def test_items_that_are_dropped_make_room_at_once():
    for count, ref in enumerate(blocks.options(_generator_backpressure_num_objects=2).remote(30)):
        assert int(ray.get(ref)[0]) == count
        del ref
        assert stored() <= 4


def test_a_dropped_generator_stops_its_task_and_runs_its_finally(marks):
    stream = numbers.remote(10_000, marks, 0.01)
    assert ray.get(next(stream)) == 0
    del stream
    assert eventually(quiet)
    made = marks.count()
    time.sleep(0.1)
    assert made == marks.count() < 10_000


def test_break_is_an_early_close(marks):
    for ref in numbers.remote(10_000, marks, 0.01):
        if ray.get(ref) == 3:
            break
    del ref
    assert eventually(quiet) and marks.count() < 10_000


def test_a_dropped_generator_stops_a_method_at_its_next_item(marks):
    class Source:
        def items(self, marks: Marks) -> Iterator[int]:
            for number in range(10_000):
                marks.add()
                yield number
                time.sleep(0.01)

        def ping(self) -> str:
            return "alive"

    for actor in (ray.remote(Source).remote(), ray.remote(max_concurrency=2)(Source).remote()):
        stream = actor.items.remote(marks)
        assert ray.get(next(stream)) == 0
        del stream
        gc.collect()
        assert ray.get(actor.ping.remote(), timeout=60) == "alive"
        assert eventually(quiet) and marks.count() < 10_000


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_a_maker_is_so_many_items_ahead_and_no_more(marks, ahead):
    stream = numbers.options(_generator_backpressure_num_objects=ahead).remote(20, marks)
    assert eventually(lambda: marks.count() == ahead)
    time.sleep(0.1)
    assert marks.count() == ahead
    assert ray.get(next(stream)) == 0
    assert eventually(lambda: marks.count() == ahead + 1)
    assert [ray.get(ref) for ref in stream] == list(range(1, 20))


def test_makers_that_are_held_back_lend_their_cpus():
    streams = [numbers.options(_generator_backpressure_num_objects=1).remote(5) for _ in range(6)]
    assert [ray.get(next(stream)) for stream in reversed(streams)] == [0] * 6
    assert [ray.get(list(stream)) for stream in streams] == [[1, 2, 3, 4]] * 6
    del streams
    assert eventually(quiet) and ray.available_resources()["CPU"] == 2


def test_a_maker_that_is_held_back_can_be_cancelled_killed_and_dropped():
    held = numbers.options(_generator_backpressure_num_objects=1, max_retries=0)
    streams = [held.remote(5) for _ in range(3)]
    for stream in streams:
        ray.wait([stream])
    ray.cancel(streams[0])
    ray.cancel(streams[1], force=True)
    for stream in streams[:2]:
        with pytest.raises(TaskCancelledError):
            ray.get(list(stream))
    del streams, stream
    assert eventually(quiet) and ray.available_resources()["CPU"] == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_maker_killed_at_any_moment_yields_nothing_twice(seed, marks):
    chance = random.Random(seed)

    @ray.remote(max_retries=-1, _generator_backpressure_num_objects=chance.choice([-1, 1, 3]))
    def source() -> Iterator[Any]:
        for number in range(60):
            yield number, os.getpid(), np.full(LARGE // 8, number)
            time.sleep(0.002)

    pids, got = set(), []
    for ref in source.remote():
        number, pid, block = ray.get(ref, timeout=60)
        assert int(block[0]) == number
        got.append(number)
        if chance.random() < 0.1 and pid not in pids:
            os.kill(pid, signal.SIGKILL)
        pids.add(pid)
    assert got == list(range(60))
    assert eventually(quiet)


def test_an_error_in_the_middle_and_a_retry(marks):
    @ray.remote(max_retries=3, retry_exceptions=True)
    def source() -> Iterator[int]:
        for number in range(4):
            if number == 2 and marks.count() < 3:
                marks.add()
                raise ValueError("not yet")
            yield number

    assert ray.get(list(source.remote())) == [0, 1, 2, 3]
    open(marks.path, "w").close()
    with pytest.raises(ValueError, match="not yet"):
        ray.get(list(source.options(retry_exceptions=False).remote()))


def test_a_maker_that_dies_for_good_ends_the_stream_with_its_error():
    @ray.remote(max_retries=0)
    def source() -> Iterator[int]:
        yield 1
        yield 2
        os._exit(3)

    first, second, last = list(source.remote())
    assert ray.get([first, second]) == [1, 2]
    with pytest.raises(WorkerCrashedError):
        ray.get(last)


def test_the_streams_of_a_dying_actor():
    @ray.remote
    class Source:
        def items(self) -> Iterator[int]:
            yield os.getpid()
            time.sleep(30)

    @ray.remote
    class Loop:
        async def items(self, name: str) -> Any:
            yield os.getpid()
            await asyncio.sleep(30)

    actor, loop = Source.remote(), Loop.remote()
    streams = [actor.items.remote(), actor.items.remote(), loop.items.remote("a"), loop.items.remote("b")]
    pids = {ray.get(next(stream), timeout=60) for stream in (streams[0], *streams[2:])}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for stream in streams:
        with pytest.raises(ActorDiedError):
            ray.get(next(stream), timeout=60)
        with pytest.raises(StopIteration):
            next(stream)


def test_reader_and_maker_in_other_processes():
    @ray.remote
    def reader(actor: Any) -> list[int]:
        return [int(ray.get(ref)[0]) for ref in actor.items.remote(5)]

    @ray.remote
    class Source:
        def items(self, count: int) -> Iterator[Any]:
            for number in range(count):
                yield np.full(LARGE, number)

    source = Source.remote()
    assert ray.get([reader.remote(source), reader.remote(source)]) == [[0, 1, 2, 3, 4]] * 2
    assert eventually(lambda: stored() == 0)


def test_a_reader_that_dies_stops_the_maker(marks):
    @ray.remote(max_retries=0)
    def reader(marks: Marks) -> None:
        stream = numbers.remote(10_000, marks, 0.01)
        next(stream)
        os._exit(1)

    with pytest.raises(WorkerCrashedError):
        ray.get(reader.remote(marks))
    assert eventually(quiet) and marks.count() < 10_000


def test_items_are_objects_like_others():
    @ray.remote
    def first(block: Any) -> int:
        return int(block[0])

    stream = blocks.remote(6)
    assert ray.get([first.remote(ref) for ref in stream]) == list(range(6))


def test_several_threads_read_one_generator():
    stream, got = numbers.remote(400), []

    def read() -> None:
        for ref in stream:
            got.append(ray.get(ref))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(400))


def test_async_iteration_in_the_driver_in_a_task_and_in_an_actor():
    async def total(stream: Any) -> int:
        return sum([await ref async for ref in stream])

    @ray.remote
    def task() -> int:
        return asyncio.run(total(numbers.remote(5)))

    @ray.remote
    class Loop:
        async def both(self) -> int:
            return sum(await asyncio.gather(total(numbers.remote(5)), total(numbers.remote(5))))

    assert asyncio.run(total(numbers.remote(5))) == 10
    assert ray.get(task.remote()) == 10
    assert ray.get(Loop.remote().both.remote()) == 20


def test_many_streams_at_once():
    @ray.remote
    class Loop:
        async def items(self, count: int) -> Any:
            for number in range(count):
                yield number
                await asyncio.sleep(0)

    loop = Loop.remote()
    streams = [loop.items.remote(20) if number % 2 else numbers.remote(20) for number in range(60)]
    assert [sum(ray.get(list(stream))) for stream in streams] == [190] * 60
