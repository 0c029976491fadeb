"""An async actor serves many callers at once: a board where callers wait for news.

Its methods are coroutines on one event loop. A call that waits costs nothing and blocks nobody,
so hundreds of them can wait in one actor, and a later call wakes them all. The driver is async
too: a reference can be awaited like anything else.
"""

from __future__ import annotations

import asyncio
import time

import skate as ray

READERS = 200


@ray.remote(max_concurrency=1000)
class Board:
    """The latest news, for everybody who waits for it."""

    def __init__(self) -> None:
        self.news = ""
        self.changed = asyncio.Event()
        self.waiting = 0

    async def read(self) -> str:
        """Wait until there is news."""
        self.waiting += 1
        await self.changed.wait()
        self.waiting -= 1
        return self.news

    async def write(self, news: str) -> int:
        """Publish; return how many callers were waiting."""
        waiting, self.news = self.waiting, news
        self.changed.set()
        return waiting

    async def nap(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds


async def use(board: ray.actor.ActorHandle) -> tuple[int, list[str], float]:
    readers = [board.read.remote() for _ in range(READERS)]
    woken = await board.write.remote("the loop is free")
    texts = await asyncio.gather(*readers)
    began = time.perf_counter()
    naps = await asyncio.gather(*[board.nap.remote(0.2) for _ in range(READERS)])
    assert naps == [0.2] * READERS
    return woken, texts, time.perf_counter() - began


def main() -> None:
    ray.init()
    board = Board.remote()
    woken, texts, seconds = asyncio.run(use(board))

    assert woken == READERS and texts == ["the loop is free"] * READERS
    assert 0.2 <= seconds < READERS * 0.2 / 4, seconds
    print(f"{READERS} naps of 0.2 s took {seconds:.2f} s together")
    print(f"async_actor: {woken} readers waited in one actor and were woken by one call")
    ray.shutdown()


if __name__ == "__main__":
    main()
