"""The work of a chaos run: tasks and actors of many kinds, whose right results anybody can compute."""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import asyncio
import faulthandler
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import skate

STACKS = "SKATE_CHAOS_STACKS"
"""Names a folder: a worker that gets SIGUSR2 writes its stacks to a file there."""
if STACKS in os.environ:
    _stacks = open(os.path.join(os.environ[STACKS], f"stacks-{os.getpid()}"), "w")  # noqa: SIM115  open as long as we
    faulthandler.register(signal.SIGUSR2, _stacks, all_threads=True)

for_ever: Any = skate.remote(max_retries=-1)
once: Any = skate.remote(max_retries=0)


def number(i: int) -> int:
    """What most tasks make of a number."""
    return i * 7 + 1


def pattern(i: int, size: int) -> bytes:
    """Bytes that differ from those of any other number."""
    unit = b"%d:%d;" % (i, size)
    return (unit * (size // len(unit) + 1))[:size]


class Expected(ValueError):
    """What a task raises on purpose."""


def plain(i: int) -> int:
    """A short task."""
    return number(i)


plain_usual: Any = skate.remote(plain)
plain_for_ever: Any = for_ever(plain)
plain_once: Any = once(plain)


@for_ever
def slow(i: int, seconds: float) -> int:
    """A task that others overtake."""
    time.sleep(seconds)
    return number(i)


@for_ever
def add(*numbers: int) -> int:
    """Arguments by reference arrive as values."""
    return sum(numbers)


@once
def add_once(*numbers: int) -> int:
    """The same without another try."""
    return sum(numbers)


@for_ever
def nested(i: int, depth: int) -> int:
    """Tasks within tasks."""
    if depth == 0:
        return number(i)
    left, right = nested.remote(i, depth - 1), plain_for_ever.remote(i)
    got: tuple[int, int] = tuple(skate.get([left, right]))
    return got[0] + got[1]


@for_ever
def large(i: int, size: int) -> bytes:
    """A result that goes to shared memory."""
    return pattern(i, size)


@once
def large_once(i: int, size: int) -> bytes:
    """The same without another try."""
    return pattern(i, size)


@for_ever
def length(i: int, data: bytes) -> Any:
    """Takes a large value, by reference or not."""
    return len(data) if data == pattern(i, len(data)) else f"{len(data)} bytes of {data[:20]!r}, not of {i}"


@for_ever
def puts(i: int, size: int) -> list[Any]:
    """References inside a result."""
    return [skate.put(pattern(i, size)), plain_for_ever.remote(i)]


@for_ever
def gets(i: int, boxed: list[Any]) -> int:
    """References inside an argument."""
    done, rest = skate.wait(boxed, num_returns=len(boxed))
    assert not rest
    got: list[int] = skate.get(done)
    return sum(got) + i


@skate.remote(max_retries=-1, num_returns=3)
def three(i: int, size: int) -> tuple[int, bytes, int]:
    """Several results, one of them large."""
    return number(i), pattern(i, size), i


def items(i: int, count: int, size: int) -> Iterator[Any]:
    """A stream; every third item is large."""
    for n in range(count):
        yield pattern(i + n, size) if n % 3 == 2 else number(i + n)


stream: Any = skate.remote(max_retries=-1, num_returns="streaming")(items)
stream_once: Any = skate.remote(max_retries=0, num_returns="streaming")(items)
# It waits for its reader with its resources in hand, so it gets none that the reader's other calls may need.
stream_slowly: Any = skate.remote(
    max_retries=-1, num_cpus=0, num_returns="streaming", _generator_backpressure_num_objects=2
)(items)


@for_ever
def wrong(i: int) -> None:
    """Raises, always."""
    raise Expected(f"as expected of {i}")


@skate.remote(max_retries=-1, retry_exceptions=[Expected])
def moody(i: int) -> int:
    """Raises, often, and is tried again."""
    if random.random() < 0.4:
        raise Expected(f"not this time: {i}")
    return number(i)


@for_ever
def parent_of_sleepers(i: int, seconds: float) -> int:
    """What a recursive cancel finds."""
    return sum(skate.get([slow.remote(i, seconds), slow.remote(i, seconds)]))


@for_ever
def call_actor(actor: Any, i: int) -> int:
    """Calls an actor from a task."""
    got: int = skate.get(actor.number.remote(i))
    return got


class Teller:
    """An actor; what it answers does not depend on its life before."""

    def __init__(self, boxed: Any = None) -> None:
        self.boxed = boxed
        self.last = -1

    def number(self, i: int) -> int:
        """A short call."""
        return number(i)

    def in_order(self, i: int) -> bool:
        """Whether calls come in the order in which they were made; a restart may leave some out."""
        good, self.last = i > self.last, i
        return good

    def sum(self, *numbers: int) -> int:
        """Arguments by reference."""
        return sum(numbers)

    def large(self, i: int, size: int) -> bytes:
        """A result that goes to shared memory."""
        return pattern(i, size)

    def ask(self, i: int) -> int:
        """A task within a call."""
        got: int = skate.get(plain_for_ever.remote(i))
        return got

    def wrong(self, i: int) -> None:
        """Raises, always."""
        raise Expected(f"as expected of {i}")

    def stream(self, i: int, count: int, size: int) -> Iterator[Any]:
        """Items from an actor."""
        yield from items(i, count, size)

    def pid(self) -> int:
        """Where it lives."""
        return os.getpid()


class AsyncTeller:
    """The same with coroutines."""

    def __init__(self, boxed: Any = None) -> None:
        self.boxed = boxed

    async def number(self, i: int) -> int:
        """A call that waits a little."""
        await asyncio.sleep(0.001)
        return number(i)

    async def sum(self, *numbers: int) -> int:
        """Arguments by reference."""
        return sum(numbers)

    async def large(self, i: int, size: int) -> bytes:
        """A result that goes to shared memory."""
        return pattern(i, size)

    async def ask(self, i: int) -> int:
        """A task within a call."""
        got: int = await plain_for_ever.remote(i)
        return got

    async def wrong(self, i: int) -> None:
        """Raises, always."""
        raise Expected(f"as expected of {i}")

    async def stream(self, i: int, count: int, size: int) -> AsyncIterator[Any]:
        """Items from an actor."""
        for item in items(i, count, size):
            await asyncio.sleep(0)
            yield item


ACTORS: dict[str, Any] = {
    # name: (class, options); what may happen to a call of one is in `chaos.py`
    "immortal": (Teller, {"max_restarts": -1, "max_task_retries": -1}),
    "immortal_async": (AsyncTeller, {"max_restarts": -1, "max_task_retries": -1}),
    "immortal_threads": (Teller, {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": 3}),
    "phoenix": (Teller, {"max_restarts": -1}),
    "phoenix_async": (AsyncTeller, {"max_restarts": -1}),
    "mortal": (Teller, {}),
    "mortal_async": (AsyncTeller, {}),
}
