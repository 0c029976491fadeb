"""One program, two engines: `inline` runs everything here, `local` in worker processes.

`inline` is for debugging and unit tests: breakpoints, profilers and patches work as in any other
program. What a program sees is the same: arguments are copied, calls of an actor are ordered,
an exception arrives at `get`. Outside a program, SKATE_ENGINE=inline chooses the engine.
"""

from __future__ import annotations

import os
import time

import skate as ray


@ray.remote
def add_word(words: list[str], word: str) -> list[str]:
    words.append(word)  # a copy: the caller's list stays as it is
    return words


@ray.remote
def fail() -> None:
    raise ValueError("as agreed")


@ray.remote
class Counter:
    """Counts calls, and knows the process it lives in."""

    def __init__(self) -> None:
        self.calls = 0

    def call(self) -> int:
        self.calls += 1
        return self.calls

    def process(self) -> int:
        return os.getpid()


def program() -> tuple[list[str], list[str], list[int], str, bool]:
    mine = ["one"]
    longer = ray.get(add_word.remote(mine, "two"))
    counter = Counter.remote()
    calls = ray.get([counter.call.remote() for _ in range(5)])
    try:
        ray.get(fail.remote())
    except ValueError as error:
        caught = type(error.cause).__name__ if isinstance(error, ray.exceptions.RayTaskError) else ""
    here = ray.get(counter.process.remote()) == os.getpid()
    return mine, longer, calls, caught, here


def main() -> None:
    seen = []
    for engine in ("inline", "local"):
        began = time.perf_counter()
        ray.init(engine=engine)
        *result, here = program()
        ray.shutdown()
        ms = (time.perf_counter() - began) * 1000
        place = "in this process" if here else "in worker processes"
        print(f"{engine:>6}: {place}, {ms:.0f} ms from init to shutdown")
        assert here == (engine == "inline")
        seen.append(result)

    assert seen[0] == seen[1] == [["one"], ["one", "two"], [1, 2, 3, 4, 5], "ValueError"]
    print("engines: both gave the same results")


if __name__ == "__main__":
    main()
