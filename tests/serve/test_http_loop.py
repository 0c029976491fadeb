"""Actors of serve run on uvloop, where it is installed, and do there all that actors do."""

from __future__ import annotations

import asyncio
from typing import Any

import skate
from skate.serve.http_loop import FastLoop


class Busy:
    def __init__(self, loop: FastLoop) -> None:
        self.loop = type(asyncio.get_running_loop()).__module__

    async def which(self) -> str:
        return self.loop

    async def asks(self, count: int) -> int:
        """Questions that block, calls that are awaited, and both at once: uvloop makes its descriptors non-blocking."""
        seen = 0
        for number in range(count):
            skate.get_actor("known")
            seen += skate.get(skate.put(number)) == number
            seen += await double.remote(number) == 2 * number
        found = await asyncio.gather(*(double.remote(number) for number in range(count)))
        return seen + len(found)


@skate.remote
def double(number: int) -> int:
    return 2 * number


def test_an_actor_on_uvloop_asks_and_waits_like_any_other() -> None:
    skate.init(num_cpus=2)
    busy: Any = skate.remote(Busy).options(name="known").remote(FastLoop())
    assert skate.get(busy.which.remote()) == "uvloop"
    assert skate.get(busy.asks.remote(20)) == 60


def test_the_programs_own_loop_is_left_alone() -> None:
    import pickle

    before = asyncio.get_event_loop_policy()
    pickle.loads(pickle.dumps(FastLoop()))
    assert asyncio.get_event_loop_policy() is before
