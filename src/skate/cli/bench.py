"""`skate bench`: how fast the engine is on this machine. Uses the public API alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import skate

IN_FLIGHT = 1000
ROUNDS = 3
MB = 1 << 20
START = "start and first task"


class Figure(NamedTuple):
    """One measured figure."""

    name: str
    value: float
    unit: str
    """`ms`, `/s` or `GB/s`."""

    def readable(self) -> str:
        """The value with its unit, with three digits or so."""
        digits = 0 if self.value >= 100 else 1 if self.value >= 10 else 2
        space = "" if self.unit.startswith("/") else " "
        return f"{self.value:,.{digits}f}{space}{self.unit}"


def measure(
    *,
    quick: bool = False,
    num_cpus: int | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Figure]:
    """Start the engine, measure, shut it down.

    `say` is told the name of each figure before it is measured.
    """
    tell = say or (lambda name: None)
    tell(START)
    figures = [Figure(START, 1000 * start_seconds(num_cpus), "ms")]
    skate.init(num_cpus=num_cpus, log_to_driver=False)
    try:
        for name, operation, unit in operations():
            tell(name)
            figures.append(Figure(name, rate(operation, 0.15 if quick else 0.7), unit))
    finally:
        skate.shutdown()
    return figures


def start_seconds(num_cpus: int | None) -> float:
    """From `init` to the first task's result; the best of several starts."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        skate.init(num_cpus=num_cpus, log_to_driver=False)
        skate.get(skate.remote(nothing).remote())
        best = min(best, time.perf_counter() - start)
        skate.shutdown()
    return best


def rate(operation: Callable[[], float], seconds: float) -> float:
    """Work per second, the best of several rounds; `operation` returns how much it did."""
    operation()  # the first time starts workers and sends functions
    best = 0.0
    for _ in range(ROUNDS):
        amount = 0.0
        start = now = time.perf_counter()
        while now < start + seconds:
            amount += operation()
            now = time.perf_counter()
        best = max(best, amount / (now - start))
    return best


def nothing() -> None:
    """A task that only comes and goes."""
    return None


def same(value: Any) -> Any:
    """A task that gives back what it got."""
    return value


class Sync:
    """An actor with a plain method."""

    @skate.method
    def nothing(self) -> None:
        """A call that only comes and goes."""
        return None


class Async:
    """An actor with a coroutine."""

    @skate.method
    async def nothing(self) -> None:
        """The same, as a coroutine."""
        return None


def operations() -> list[tuple[str, Callable[[], float], str]]:
    """What is measured: its name, one step of it that returns the amount done, and the unit."""
    task = skate.remote(nothing)
    actor = skate.remote(Sync).remote()
    async_actor = skate.remote(Async).remote()
    stored = skate.put(0)

    def one(call: Callable[[], Any]) -> Callable[[], float]:
        def step() -> float:
            skate.get(call())
            return 1

        return step

    def many(call: Callable[[], Any]) -> Callable[[], float]:
        def step() -> float:
            skate.get([call() for _ in range(IN_FLIGHT)])
            return IN_FLIGHT

        return step

    def put_small() -> float:
        skate.put(0)
        return 1

    def get_small() -> float:
        skate.get(stored)
        return 1

    return [
        ("task, one at a time", one(task.remote), "/s"),
        ("task, 1,000 in flight", many(task.remote), "/s"),
        ("actor call, one at a time", one(actor.nothing.remote), "/s"),
        ("actor call, 1,000 in flight", many(actor.nothing.remote), "/s"),
        ("async actor call, 1,000 in flight", many(async_actor.nothing.remote), "/s"),
        ("put of a small value", put_small, "/s"),
        ("get of a small value", get_small, "/s"),
        *array_operations(),
    ]


def array_operations() -> list[tuple[str, Callable[[], float], str]]:
    """What needs NumPy; empty without it."""
    try:
        import numpy
    except ImportError:
        return []
    echo = skate.remote(same)
    array = numpy.zeros(MB, dtype=numpy.uint8)
    large = numpy.ones(100 * MB, dtype=numpy.uint8)

    def there_and_back() -> float:
        skate.get(echo.remote(array))
        return 1

    def put_large() -> float:
        skate.put(large)
        return large.nbytes / 1e9

    return [
        ("1 MB array as argument and result", there_and_back, "/s"),
        ("put of a 100 MB array", put_large, "GB/s"),
    ]
