"""How long a cancelled call keeps its caller waiting, in each state a call can be in.

    python tests/local/cancelling.py [rounds]

prints a table: from the call of `cancel` to the TaskCancelledError of `get`, in milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import skate as ray
from skate.exceptions import RayError, TaskCancelledError

Case = Callable[[str], Iterator[Any]]
"""Yields once: the reference to cancel, when its call is in the state in question. What follows cleans up."""
CASES: dict[str, Case] = {}
FORCED = {"forced"}


def case(function: Case) -> Case:
    """Add a case to the table."""
    CASES[function.__name__.replace("_", " ")] = function
    return function


def mark(path: str) -> None:
    """Say that a call has begun."""
    with open(path, "a") as file:
        file.write("x")


def begun(path: str, times: int = 1) -> None:
    """Wait until so many calls have begun."""
    end = time.monotonic() + 60
    while not os.path.exists(path) or os.path.getsize(path) < times:
        assert time.monotonic() < end, "it did not begin"
        time.sleep(0.002)
    time.sleep(0.005)  # into the middle of what it does


def over(*refs: Any) -> None:
    """End helpers of a case."""
    for ref in refs:
        ray.cancel(ref)
    for ref in refs:
        with contextlib.suppress(RayError):
            ray.get(ref, timeout=60)


@ray.remote(num_cpus=0)
def sleep_long(path: str, seconds: float = 60) -> None:
    mark(path)
    time.sleep(seconds)


@ray.remote(num_cpus=0)
def loop(path: str) -> None:
    mark(path)
    while True:
        pass


@ray.remote(num_cpus=0)
def use(value: Any) -> Any:
    return value


@ray.remote(num_cpus=0)
def wait_in_get(path: str, box: list[Any]) -> Any:
    mark(path)
    return ray.get(box[0])


@ray.remote(num_cpus=0)
def wait_in_wait(path: str, box: list[Any]) -> Any:
    mark(path)
    return ray.wait(box)


@ray.remote(num_cpus=0)
def nest(path: str, depth: int) -> Any:
    mark(path)
    if depth == 0:
        time.sleep(60)
    return ray.get(nest.remote(path, depth - 1))


@ray.remote(num_cpus=0)
def stream(path: str, pause: float) -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1
        if number == 2:
            mark(path)
        time.sleep(pause)


@ray.remote(num_cpus=0, max_retries=-1, retry_exceptions=True)
def fail_often(path: str) -> None:
    mark(path)
    raise ValueError("again")


@ray.remote(num_cpus=0, max_retries=-1)
def die_often(path: str) -> None:
    mark(path)
    os._exit(1)


@ray.remote(num_cpus=0)
def many_rows(path: str) -> float:
    import numpy as np

    array = np.random.default_rng(0).random((300, 300))
    mark(path)
    while True:
        array = array @ array
        array /= np.abs(array).max()


@ray.remote(num_cpus=0)
def one_long_call(path: str) -> float:
    mark(path)
    return sum(range(10**12))  # hours, in which Python looks for no signal


@ray.remote
class Plain:
    def sleep(self, path: str, seconds: float) -> None:
        mark(path)
        time.sleep(seconds)

    def quick(self) -> None:
        return None


@ray.remote
class Loop:
    async def sleep(self, path: str) -> None:
        mark(path)
        await asyncio.sleep(60)

    async def items(self, path: str) -> Any:
        mark(path)
        while True:
            yield 1
            await asyncio.sleep(0.01)


@ray.remote(max_concurrency=2)
class Threads:
    def sleep(self, path: str, seconds: float) -> None:
        mark(path)
        time.sleep(seconds)


@case
def pending_for_an_argument(path: str) -> Iterator[Any]:
    first = sleep_long.remote(path)
    begun(path)
    yield use.remote(first)
    over(first)


@case
def pending_for_resources(path: str) -> Iterator[Any]:
    first = sleep_long.options(resources={"slot": 1}).remote(path)
    begun(path)
    yield use.options(resources={"slot": 1}).remote(1)
    over(first)


@case
def worker_not_up_yet(path: str) -> Iterator[Any]:
    yield sleep_long.options(runtime_env={"env_vars": {"CASE": path}}).remote(path)


@case
def just_submitted(path: str) -> Iterator[Any]:
    yield sleep_long.remote(path)


@case
def python_loop(path: str) -> Iterator[Any]:
    ref = loop.remote(path)
    begun(path)
    yield ref


@case
def one_long_sleep(path: str) -> Iterator[Any]:
    ref = sleep_long.remote(path)
    begun(path)
    yield ref


@case
def short_numpy_calls(path: str) -> Iterator[Any]:
    ref = many_rows.remote(path)
    begun(path)
    yield ref


@case
def nested_five_deep(path: str) -> Iterator[Any]:
    ref = nest.remote(path, 5)
    begun(path, 6)
    yield ref


@case
def forced(path: str) -> Iterator[Any]:
    ref = loop.remote(path)
    begun(path)
    yield ref


@case
def in_get(path: str) -> Iterator[Any]:
    first = sleep_long.remote(path)
    ref = wait_in_get.remote(path, [first])
    begun(path, 2)
    yield ref
    over(first)


@case
def in_wait(path: str) -> Iterator[Any]:
    first = sleep_long.remote(path)
    ref = wait_in_wait.remote(path, [first])
    begun(path, 2)
    yield ref
    over(first)


@case
def retried_after_errors(path: str) -> Iterator[Any]:
    ref = fail_often.remote(path)
    begun(path, 3)
    yield ref


@case
def retried_after_deaths(path: str) -> Iterator[Any]:
    ref = die_often.remote(path)
    begun(path, 2)
    yield ref


@case
def stream_that_is_read(path: str) -> Iterator[Any]:
    generator = stream.remote(path, 0.01)
    for _ in range(3):
        ray.get(next(generator))
    begun(path)
    yield generator


@case
def stream_that_nobody_reads(path: str) -> Iterator[Any]:
    generator = stream.remote(path, 60)
    next(generator)
    yield generator


@case
def stream_held_back(path: str) -> Iterator[Any]:
    generator = stream.options(_generator_backpressure_num_objects=3).remote(path, 0)
    begun(path)
    yield generator


@case
def running_async_call(path: str) -> Iterator[Any]:
    actor = Loop.remote()
    ref = actor.sleep.remote(path)
    begun(path)
    yield ref


@case
def queued_async_call(path: str) -> Iterator[Any]:
    actor = Loop.options(max_concurrency=1).remote()
    first = actor.sleep.remote(path)
    begun(path)
    yield actor.sleep.remote(path)
    over(first)


@case
def stream_of_an_async_actor(path: str) -> Iterator[Any]:
    actor = Loop.remote()
    generator = actor.items.remote(path)
    begun(path)
    yield generator


@case
def queued_call_of_an_actor(path: str) -> Iterator[Any]:
    actor = Plain.remote()
    actor.sleep.remote(path, 60)
    begun(path)
    yield actor.quick.remote()
    ray.kill(actor)


@case
def running_call_of_an_actor(path: str) -> Iterator[Any]:
    actor = Plain.remote()
    ref = actor.sleep.remote(path, 60)
    begun(path)
    yield ref
    ray.kill(actor)


@case
def running_call_in_a_thread(path: str) -> Iterator[Any]:
    actor = Threads.remote()
    ref = actor.sleep.remote(path, 60)
    begun(path)
    yield ref
    ray.kill(actor)


@case
def call_of_an_actor_being_made(path: str) -> Iterator[Any]:
    yield Plain.remote().quick.remote()


def beside() -> float:
    """Milliseconds that the machine takes at this moment to start an actor and call it."""
    start = time.perf_counter()
    ray.get(Plain.remote().quick.remote())
    return (time.perf_counter() - start) * 1e3


def measure(name: str, rounds: int) -> list[float]:
    """Milliseconds from `cancel` to the error, so many times."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            steps = CASES[name](os.path.join(folder, str(number)))
            target = next(steps)
            start = time.perf_counter()
            ray.cancel(target, force=name in FORCED)
            try:
                if isinstance(target, ray.ObjectRefGenerator):
                    for item in target:
                        ray.get(item, timeout=60)
                else:
                    ray.get(target, timeout=60)
            except TaskCancelledError:
                pass
            times.append((time.perf_counter() - start) * 1e3)
            del target
            assert next(steps, None) is None
    return times


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    ray.init(num_cpus=4, resources={"slot": 1}, log_to_driver=False)
    print(f"{'cancel of a call':30} {'median ms':>10} {'max ms':>10}")
    for name in CASES:
        times = measure(name, rounds)
        print(f"{name:30} {statistics.median(times):10.2f} {max(times):10.2f}", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
