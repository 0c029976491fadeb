"""Cancel: quick in every state that a call can be in, and never a race that hangs or leaves something behind."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import cancelling
import numpy as np
import pytest

import skate as ray
from skate.core import engine as engines
from skate.engines.local.boot import PAGE
from skate.exceptions import GetTimeoutError, TaskCancelledError, WorkerCrashedError

pytestmark = pytest.mark.timeout(300)
WITHIN = 100.0
"""Milliseconds, on a machine that has nothing else to do."""


@pytest.fixture(scope="module")
def with_slot() -> Iterator[None]:
    """A session with 4 CPUs and something scarce."""
    ray.init(engine="local", num_cpus=4, resources={"slot": 1}, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("name", cancelling.CASES)
def test_a_cancelled_call_answers_at_once(with_slot, name):
    took, other = [], []
    for _ in range(5):
        took += cancelling.measure(name, 1)
        other.append(cancelling.beside())
    assert statistics.median(took) < WITHIN + 10 * statistics.median(other)


def test_one_long_call_of_native_code_ends_when_it_returns_unless_forced(with_slot, tmp_path):
    ref = cancelling.one_long_call.remote(str(tmp_path / "begun"))
    cancelling.begun(str(tmp_path / "begun"))
    ray.cancel(ref)
    with pytest.raises((TaskCancelledError, GetTimeoutError)):
        ray.get(ref, timeout=0.2)
    ray.cancel(ref, force=True)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=60)


# -------------------------------------------------------------------------- races


@ray.remote
def give(value: Any = 0) -> Any:
    return value


@ray.remote
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return 0.0


@ray.remote
def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@ray.remote
def nest(depth: int, seconds: float) -> int:
    if depth == 0:
        time.sleep(seconds)
        return 0
    return 1 + ray.get(nest.remote(depth - 1, seconds))


@ray.remote
def boxes() -> list[Any]:
    return [ray.put(np.ones(20_000)), give.remote(3)]


@ray.remote
def items(count: int, seconds: float, size: int) -> Iterator[Any]:
    for _ in range(count):
        yield np.ones(size)
        time.sleep(seconds)


@ray.remote(max_retries=3, retry_exceptions=True)
def flaky(seconds: float) -> None:
    time.sleep(seconds)
    raise ValueError("flaky")


@ray.remote
def cancels_its_own(seconds: float) -> int:
    refs = [nap.remote(seconds) for _ in range(3)]
    for ref in refs:
        ray.cancel(ref)
    ready, _ = ray.wait(refs, num_returns=3)
    return len(ready)


class Methods:
    def nap(self, seconds: float) -> float:
        time.sleep(seconds)
        return 0.0

    def items(self, count: int) -> Iterator[int]:
        yield from range(count)

    def ask(self, other: Any, seconds: float) -> float:
        return ray.get(other.nap.remote(seconds))


@ray.remote
class Loop:
    async def nap(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return 0.0

    async def items(self, count: int) -> Any:
        for number in range(count):
            yield number
            await asyncio.sleep(0)


class Race:
    """Calls of every kind, cancelled at random moments around their begin and end."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        plain = ray.remote(Methods)
        self.actors = [plain.remote(), Loop.remote(), plain.options(max_concurrency=3).remote()]
        self.other = plain.remote()
        ray.get([actor.nap.remote(0) for actor in (*self.actors, self.other)])
        self.live: list[Any] = []
        self.due: list[tuple[float, Any]] = []
        self.ends: Counter[str] = Counter()

    def call(self) -> Any:
        choose = self.random.choice
        seconds, actor = choose([0, 0, 0.001, 0.003, 0.02]), choose(self.actors)
        return choose(
            [
                lambda: give.remote(),
                lambda: nap.remote(seconds),
                lambda: nap.options(num_cpus=0.5).remote(seconds),
                lambda: spin.remote(seconds),
                lambda: give.remote(np.ones(choose([10, 20_000, 100_000]))),
                lambda: nest.remote(choose(range(4)), seconds),
                lambda: items.remote(choose(range(8)), seconds / 4, choose([1, 20_000])),
                lambda: items.options(_generator_backpressure_num_objects=2).remote(9, 0, 1),
                lambda: flaky.remote(seconds / 4),
                lambda: give.remote(nap.remote(seconds)),
                lambda: give.options(resources={"slot": 1}).remote(nap.remote(seconds)),
                lambda: cancels_its_own.remote(seconds),
                lambda: boxes.remote(),
                lambda: actor.nap.remote(seconds),
                lambda: actor.nap.remote(nap.remote(seconds)),
                lambda: actor.items.remote(choose(range(8))),
                lambda: self.actors[0].ask.remote(self.other, seconds),
            ]
        )()

    def run(self, calls: int) -> None:
        while calls or self.live:
            if calls and len(self.live) < 40:
                calls -= 1
                self.live.append(self.call())
                if self.random.random() < 0.8:
                    delay = self.random.choice([0, 0, self.random.uniform(0, 0.005), self.random.uniform(0, 0.03)])
                    self.due.append((time.monotonic() + delay, self.live[-1]))
            self.cancel_due()
            if self.live and (not calls or self.random.random() < 0.6):
                self.take(self.live.pop(self.random.randrange(len(self.live))))
        self.due.clear()

    def cancel_due(self) -> None:
        now = time.monotonic()
        due = [ref for when, ref in self.due if when <= now]
        self.due = [(when, ref) for when, ref in self.due if when > now]
        for ref in due:
            try:
                ray.cancel(ref, force=self.random.random() < 0.05, recursive=self.random.random() < 0.8)
            except ValueError:
                self.ends["not forced: a call of an actor"] += 1

    def take(self, ref: Any) -> None:
        """Get what became of a call, or drop it."""
        if self.random.random() < 0.1:
            self.ends["dropped"] += 1
            return
        try:
            if isinstance(ref, ray.ObjectRefGenerator):
                while ray.wait([ref], timeout=60)[0] or pytest.fail("a stream hangs"):
                    ray.get(next(ref), timeout=60)
            ray.get(ref, timeout=60)
            self.ends["done"] += 1
        except StopIteration:
            self.ends["done"] += 1
        except (TaskCancelledError, WorkerCrashedError, ValueError) as error:
            self.ends[type(error).__name__] += 1


def left_behind() -> dict[str, Any]:
    """What a session without calls should not have."""
    gc.collect()
    free = ray.available_resources()
    engine: Any = engines.current()
    hub = engine.hub
    granted = sum(-(-size // PAGE) * PAGE for worker in hub.workers.values() for _, size in worker.granted)
    found = {
        "resources": {
            name: free.get(name) for name in ("CPU", "slot") if free.get(name) != {"CPU": 4, "slot": 1}[name]
        },
        "rows": {key: row for key, row in hub.rows.items() if row.actor is None},
        "memory": engine.arena.used - granted,
        "streams": dict(hub.streams),
        "running": [worker.pid for worker in hub.workers.values() if worker.running or worker.blocked],
        "remembered": dict(hub.recipes),
    }
    return {name: what for name, what in found.items() if what}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_every_cancelled_call_ends_and_nothing_is_left(with_slot, seed):
    race = Race(seed)
    race.run(500)
    assert race.ends["done"] > 20 and race.ends["TaskCancelledError"] > 20
    end = time.monotonic() + 60
    while left_behind() and time.monotonic() < end:
        time.sleep(0.05)
    assert left_behind() == {}
