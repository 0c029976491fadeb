"""A driver of the rehearsal `skate.testing.churn`: work of many kinds without end, each result checked.

What it makes carries its own mark, so that anything of another driver would be seen.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import skate
from skate.util.placement_group import placement_group, remove_placement_group
from skate.util.scheduling_strategies import PlacementGroupSchedulingStrategy

WAIT = 60.0
"""Seconds after which a result counts as lost."""
LARGE = 300_000


@skate.remote
def marked(mark: str, number: int) -> tuple[str, int]:
    """Where it runs, and what it was given."""
    return f"{mark}/{skate.get_runtime_context().namespace}/{os.environ['CHURN']}", number


@skate.remote
def total(mark: str, *numbers: tuple[str, int]) -> int:
    """The sum of the numbers, all of which must be of this driver."""
    assert all(found == f"{mark}/{mark}/{mark}" for found, _ in numbers), numbers
    return sum(number for _, number in numbers)


@skate.remote
def nested(mark: str, count: int) -> int:
    """Calls in a call."""
    found: int = skate.get(total.remote(mark, *[marked.remote(mark, i) for i in range(count)]))
    return found


@skate.remote
def large(mark: str, number: int) -> bytes:
    """A result in shared memory."""
    return mark.encode().ljust(LARGE, b".") + str(number).encode()


@skate.remote
def stream(mark: str, count: int) -> Iterator[tuple[str, int]]:
    """Items, some of them large."""
    for number in range(count):
        yield mark + "x" * (LARGE if number % 5 == 4 else 0), number


class Counter:
    """An actor with a state."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.numbers: list[int] = []

    def add(self, number: int) -> tuple[str, int]:
        """Its mark, and how many numbers there are."""
        self.numbers.append(number)
        return self.mark, len(self.numbers)


Tally: Any = skate.remote(Counter)


class Driver:
    """What one driver does over and over."""

    def __init__(self, mark: str, chance: random.Random) -> None:
        self.mark = mark
        self.own = f"{mark}/{mark}/{mark}"
        self.chance = chance
        self.tally = Tally.remote(mark)
        self.added = 0
        self.kinds: list[Callable[[], None]] = [
            self.tasks,
            self.calls,
            self.objects,
            self.streams,
            self.names,
            self.awaits,
            self.children,
            self.groups,
        ]

    def step(self) -> None:
        """One piece of work of some kind."""
        self.chance.choice(self.kinds)()

    def tasks(self) -> None:
        """Many small tasks."""
        count = self.chance.randrange(1, 200)
        found = skate.get([marked.remote(self.mark, i) for i in range(count)], timeout=WAIT)
        assert found == [(self.own, i) for i in range(count)], found

    def calls(self) -> None:
        """Calls of an actor, in order."""
        count = self.chance.randrange(1, 100)
        found = skate.get([self.tally.add.remote(i) for i in range(count)], timeout=WAIT)
        assert found == [(self.mark, self.added + 1 + i) for i in range(count)], found
        self.added += count

    def objects(self) -> None:
        """Values in shared memory, put and returned."""
        put = skate.put(self.mark.encode() * (LARGE // len(self.mark)))
        made = [large.remote(self.mark, i) for i in range(self.chance.randrange(1, 8))]
        assert skate.get(put, timeout=WAIT) == self.mark.encode() * (LARGE // len(self.mark))
        for number, value in enumerate(skate.get(made, timeout=WAIT)):
            assert value.startswith(self.mark.encode()) and value.endswith(str(number).encode()), value[:100]

    def streams(self) -> None:
        """A stream, read to its end or dropped on the way."""
        count = self.chance.randrange(1, 30)
        items: Any = stream.options(num_returns="streaming").remote(self.mark, count)
        last = self.chance.choice([count, count // 2])
        for number, ref in zip(range(last), items, strict=False):
            found, value = skate.get(ref, timeout=WAIT)
            assert found.startswith(self.mark) and value == number, (found[:100], value)

    def names(self) -> None:
        """A name that every driver uses, in its own namespace; sometimes on an actor that stays."""
        stays = self.chance.random() < 0.3
        named = Tally.options(
            name="stays" if stays else "same", lifetime="detached" if stays else None, get_if_exists=True
        ).remote(self.mark)
        assert skate.get(named.add.remote(0), timeout=WAIT)[0] == self.mark
        again: Any = skate.get_actor("stays" if stays else "same")
        assert skate.get(again.add.remote(0), timeout=WAIT)[0] == self.mark
        if self.chance.random() < 0.5:
            skate.kill(again)

    def awaits(self) -> None:
        """An event loop that waits."""

        async def gather() -> list[Any]:
            refs: Any = [marked.remote(self.mark, i) for i in range(20)]
            return list(await asyncio.wait_for(asyncio.gather(*refs), WAIT))

        assert asyncio.run(gather()) == [(self.own, i) for i in range(20)]

    def children(self) -> None:
        """Calls within calls, and calls that are never waited for."""
        count = self.chance.randrange(1, 30)
        assert skate.get(nested.remote(self.mark, count), timeout=WAIT) == sum(range(count))
        for _ in range(self.chance.randrange(20)):
            nested.remote(self.mark, 3)

    def groups(self) -> None:
        """A placement group, which is left to the hub now and then."""
        group = placement_group([{"CPU": 0.01}] * 2)
        assert skate.get(group.ready(), timeout=WAIT) == group
        inside = marked.options(
            num_cpus=0.01, scheduling_strategy=PlacementGroupSchedulingStrategy(group, self.chance.randrange(2))
        )
        assert skate.get(inside.remote(self.mark, 1), timeout=WAIT) == (self.own, 1)
        if self.chance.random() < 0.7:
            remove_placement_group(group)


def main(address: str, mark: str, seed: str, seconds: str) -> None:
    """Work for so many seconds, then leave; an error ends the program with status 1."""
    skate.init(address=address, namespace=mark, runtime_env={"env_vars": {"CHURN": mark}})
    driver = Driver(mark, random.Random(seed))
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        driver.step()
    if driver.chance.random() < 0.5:
        skate.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
