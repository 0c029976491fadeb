"""The cases of the scale benchmark, written once for every package that has Ray's API.

A case is a generator, as in api_cases.py. Each runs its work in the driver and again inside a task: the figures of the
latter have `_nested` at the end of their names. Tasks are defined inside of the cases, so that they travel by value.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import Any

import memory
from api_cases import Case, settle

ARGUMENTS = 10_000
RETURNS = 3_000
GOT = 10_000
SOME = 100_000
LARGE = 60_000
GIB_4 = 1 << 32
GROUPS = 10_000
READY_GROUPS = 100
GROUP_TASKS = 1_000


def both(ray: Any, figure: str, work: Callable[[], float]) -> dict[str, float]:
    """Seconds of `work` in this process, and in a task."""
    inside = ray.remote(work)
    settle(ray)
    return {figure: work(), f"{figure}_nested": ray.get(inside.remote())}


def arguments(ray: Any) -> Case:
    @ray.remote
    def nothing(number: int) -> int:
        return number

    @ray.remote
    def count(*values: int) -> int:
        return len(values)

    def work() -> float:
        refs = [nothing.remote(number) for number in range(ARGUMENTS)]
        ray.wait(refs, num_returns=len(refs))
        start = time.perf_counter()
        assert ray.get(count.remote(*refs)) == ARGUMENTS
        return time.perf_counter() - start

    while True:
        yield both(ray, "arguments", work)


def returns(ray: Any) -> Case:
    @ray.remote(num_returns=RETURNS)
    def numbers() -> list[int]:
        return list(range(RETURNS))

    def work() -> float:
        start = time.perf_counter()
        assert ray.get(numbers.remote()) == list(range(RETURNS))
        return time.perf_counter() - start

    while True:
        yield both(ray, "returns", work)


def gets(ray: Any) -> Case:
    @ray.remote
    def same(number: int) -> int:
        return number

    def work() -> float:
        refs = [same.remote(number) for number in range(GOT)]
        ray.wait(refs, num_returns=len(refs))
        start = time.perf_counter()
        assert ray.get(refs) == list(range(GOT))
        return time.perf_counter() - start

    while True:
        yield both(ray, "gets", work)


def gets_large(ray: Any) -> Case:
    """Together more than any one message may hold; each too small for shared memory."""

    def work() -> float:
        value = b"x" * LARGE
        refs = [ray.put(value) for _ in range(GOT)]
        start = time.perf_counter()
        assert sum(map(len, ray.get(refs))) == GOT * LARGE
        return time.perf_counter() - start

    while True:
        yield both(ray, "gets_large", work)


def object_4gib(ray: Any) -> Case:
    return array_4gib(ray, "object_4gib", as_result=False)


def result_4gib(ray: Any) -> Case:
    return array_4gib(ray, "result_4gib", as_result=True)


def array_4gib(ray: Any, figure: str, as_result: bool) -> Case:
    """An array that is put, or that a task returns, and that is read."""

    def ones() -> Any:
        import numpy as np

        return np.ones(GIB_4 // 8)

    make = ray.remote(ones)

    def work() -> float:
        array = None if as_result else ones()
        start = time.perf_counter()
        found = ray.get(make.remote() if as_result else ray.put(array))
        seconds = time.perf_counter() - start
        assert found.nbytes == GIB_4 and found[-1] == 1
        return seconds

    while True:
        yield both(ray, figure, work)


def queued_some(ray: Any) -> Case:
    while True:
        yield queue(ray, SOME, "queued_some")


def queued_million(ray: Any) -> Case:
    while True:
        yield queue(ray, int(os.environ.get("BENCH_QUEUED", "1000000")), "queued_million")


def queue(ray: Any, count: int, figure: str) -> dict[str, float]:
    """Submit so many tasks and get them all; and what memory they take while they are queued."""

    @ray.remote
    def nothing() -> None:
        return None

    def work() -> float:
        start = time.perf_counter()
        refs = [nothing.remote() for _ in range(count)]
        assert ray.get(refs) == [None] * count
        return time.perf_counter() - start

    settle(ray)
    before = memory.footprint()
    start = time.perf_counter()
    refs = [nothing.remote() for _ in range(count)]
    driver, everything = memory.growth(before)
    assert ray.get(refs) == [None] * count
    seconds = time.perf_counter() - start
    del refs
    gc.collect()
    return {
        figure: seconds,
        f"{figure}_nested": ray.get(ray.remote(work).remote()),
        f"{figure}_driver": driver / count,
        f"{figure}_tree": everything / count,
    }


CASES = {
    case.__name__: case
    for case in (
        arguments,
        returns,
        gets,
        gets_large,
        object_4gib,
        result_4gib,
        queued_some,
        queued_million,
    )
}
