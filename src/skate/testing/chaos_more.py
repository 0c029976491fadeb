"""More kinds of work for a chaos run: what tasks and actors do to other tasks and actors."""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import skate
from skate.exceptions import ActorDiedError, ActorUnavailableError, TaskCancelledError
from skate.testing import chaos_work as work

LOST: tuple[type[BaseException], ...] = (ActorDiedError, ActorUnavailableError)


@work.for_ever
def read_stream(i: int, count: int, size: int, upto: int) -> int:
    """A task that reads another's stream, and may leave it half read."""
    good = 0
    for n, ref in enumerate(work.stream.remote(i, count, size)):
        if n == upto:
            break
        good += skate.get(ref) == (work.pattern(i + n, size) if n % 3 == 2 else work.number(i + n))
    return good


@work.for_ever
def make_actor(i: int, restarts: int) -> int:
    """A task that has an actor of its own."""
    tellers: Any = skate.remote(work.Teller)
    actor = tellers.options(max_restarts=restarts, max_task_retries=restarts).remote()
    first = actor.number.remote(i)
    second = actor.sum.remote(first, 1)
    got: list[int] = skate.get([first, second])
    return sum(got)


@skate.remote(max_retries=-1, max_calls=3)
def retire(i: int) -> int:
    """Its worker ends after three calls."""
    return work.number(i)


@work.for_ever
def environment(i: int) -> str:
    """Runs where a variable is set."""
    return f"{os.environ['CHAOS']} {i}"


@skate.remote(max_retries=-1, num_returns="dynamic")
def dynamic(i: int, count: int) -> Any:
    """As many references as it turns out."""
    for n in range(count):
        yield work.number(i + n)


@work.for_ever
def cancel_inside(i: int, seconds: float) -> bool:
    """A task that cancels another."""
    ref = work.slow.remote(i, seconds)
    skate.cancel(ref)
    try:
        got: int = skate.get(ref)
        return got == work.number(i)
    except TaskCancelledError:
        return True


@work.for_ever
def find_and_call(name: str) -> bool:
    """Looks an actor up; there may be none any more."""
    try:
        got: bool = skate.get(skate.get_actor(name).check.remote())
    except (ValueError, ActorDiedError, ActorUnavailableError):
        return True
    return got


@work.for_ever
def kill_and_go(name: str) -> str:
    """Kills an actor by name, from a task."""
    try:
        skate.kill(skate.get_actor(name), no_restart=random.random() < 0.5)
    except ValueError:
        return "gone"
    return "gone"


@skate.remote(max_restarts=-1, max_task_retries=-1)
class Keeper:
    """Holds references and memory that others have dropped."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, boxed: list[Any], size: int) -> bool:
        """Keep these references, and the values of some; let older ones go."""
        values = [memoryview(skate.get(ref)) for ref in boxed]
        self.kept = [*self.kept[-3:], (boxed, values)]
        return all(len(view) == size for _, views in self.kept[-1:] for view in views)

    def check(self) -> bool:
        """Whether what was kept is as it was."""
        return all(
            bytes(view) == skate.get(ref) for boxed, views in self.kept for ref, view in zip(boxed, views, strict=True)
        )


@skate.remote(max_restarts=-1)
class Leaver:
    """Goes of its own will."""

    async def go(self) -> None:
        """End for good."""
        skate.actor.exit_actor()

    async def number(self, i: int) -> int:
        """A call that may come too late."""
        await asyncio.sleep(0)
        return work.number(i)


def read_all(refs: list[Any]) -> list[Any]:
    """What a driver that runs an event loop gets."""

    async def together() -> list[Any]:
        return list(await asyncio.gather(*refs))

    return asyncio.run(together())
