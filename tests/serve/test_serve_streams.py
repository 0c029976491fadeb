"""Items of a stream travel in groups, and none waits for the next."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from skate.serve.streams import AHEAD, LARGEST, MOST, grouped, grouped_in_thread


async def in_thread(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return await asyncio.to_thread(function, *args, **kwargs)


async def counting(number: int) -> AsyncIterator[int]:
    for value in range(number):
        yield value


def gather(make: Callable[[], AsyncIterator[list[Any]]]) -> list[list[Any]]:
    async def main() -> list[list[Any]]:
        return [list(group) async for group in make()]

    return asyncio.run(main())


def flat(groups: list[list[Any]]) -> list[Any]:
    return [item for group in groups for item in group]


@pytest.mark.parametrize("number", [0, 1, 2, 5, 1000])
def test_all_items_in_order_from_a_coroutine_and_from_a_thread(number: int) -> None:
    for groups in (
        gather(lambda: grouped(counting(number))),
        gather(lambda: grouped_in_thread(iter(range(number)), in_thread)),
    ):
        assert flat(groups) == list(range(number))
        assert all(0 < len(group) <= MOST for group in groups)


def test_what_comes_without_waiting_comes_in_few_groups_the_first_alone() -> None:
    groups = gather(lambda: grouped(counting(5000)))
    assert groups[0] == [0]
    assert len(groups) < 500


def test_an_item_does_not_wait_for_the_next() -> None:
    async def main() -> list[int]:
        has_second = asyncio.Event()

        async def pairs() -> AsyncIterator[int]:
            yield 1
            yield 2
            await asyncio.wait_for(has_second.wait(), 60)
            yield 3
            await asyncio.sleep(60)
            yield 4

        seen: list[int] = []
        async for group in grouped(pairs()):
            seen += group
            if seen[-1] == 2:
                has_second.set()
            if seen[-1] == 3:
                return seen
        return seen

    assert asyncio.run(main()) == [1, 2, 3]


def test_an_item_from_a_thread_does_not_wait_for_the_next() -> None:
    stop = threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        stop.wait(30)
        yield 2

    async def main() -> int:
        async for group in grouped_in_thread(slow(), in_thread):
            stop.set()
            return group[0]
        return 0

    began = time.monotonic()
    assert asyncio.run(main()) == 1 and time.monotonic() - began < 10


def test_a_generator_that_never_waits_leaves_others_their_turn() -> None:
    async def main() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        async for _ in grouped(counting(20_000)):
            pass
        task.cancel()
        return turns

    assert asyncio.run(main()) > 50


def test_large_items_are_not_heaped_up() -> None:
    async def large() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * (LARGEST // 2)

    groups = gather(lambda: grouped(large()))
    assert max(len(group) for group in groups) <= 2


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
def test_items_before_an_error_arrive_before_it(kind: str) -> None:
    async def fails() -> AsyncIterator[int]:
        for value in range(7):
            yield value
        raise KeyError("seven")

    def fails_in_thread() -> Iterator[int]:
        yield from range(7)
        raise KeyError("seven")

    async def main() -> list[int]:
        seen: list[int] = []
        groups = grouped(fails()) if kind == "coroutine" else grouped_in_thread(fails_in_thread(), in_thread)
        with pytest.raises(KeyError, match="seven"):
            async for group in groups:
                seen += group
        return seen

    assert asyncio.run(main()) == list(range(7))


def test_a_cancel_reaches_the_generator_where_it_waits() -> None:
    async def main() -> list[str]:
        seen = []

        async def waits() -> AsyncIterator[int]:
            try:
                yield 1
                await asyncio.sleep(30)
                yield 2
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        async def read() -> None:
            async for _ in grouped(waits()):
                pass

        task = asyncio.ensure_future(read())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return seen

    assert asyncio.run(main()) == ["cancelled"]


def test_a_thread_does_not_run_far_ahead_and_ends_when_nobody_reads_on() -> None:
    made: list[int] = []
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                made.append(len(made))
                yield made[-1]
        finally:
            closed.set()

    async def main() -> None:
        groups = grouped_in_thread(endless(), in_thread)
        await anext(groups)
        await asyncio.sleep(0.05)
        await groups.aclose()

    asyncio.run(main())
    assert closed.wait(5)
    assert len(made) <= AHEAD + MOST + 2
