"""The cases of the engine benchmark, written once for every package that has Ray's API.

A case is a generator: what comes before its first `yield` is its preparation, and every `yield`
hands over one sample as `{figure: value}` (seconds or bytes; lower is better; facts are 0 or 1).
Tasks and actors are defined inside of the cases: so they travel by value, and workers need none of
these files.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import memory
from clock import per_operation

Sample = dict[str, float]
Case = Iterator[Sample]

BATCH = 1000
ACTORS = 100
LIVE_REFS = 100_000


def task_sync(ray: Any) -> Case:
    @ray.remote
    def answer() -> bytes:
        return b"ok"

    while True:
        yield {"task_sync": per_operation(lambda: ray.get(answer.remote()))}


def task_batch(ray: Any) -> Case:
    @ray.remote
    def answer() -> bytes:
        return b"ok"

    def batch() -> None:
        ray.get([answer.remote() for _ in range(BATCH)])

    while True:
        yield {"task_batch": per_operation(batch, BATCH)}


def actor_sync(ray: Any) -> Case:
    @ray.remote
    class Answerer:
        def answer(self) -> bytes:
            return b"ok"

    actor = Answerer.remote()
    while True:
        yield {"actor_sync": per_operation(lambda: ray.get(actor.answer.remote()))}


def actor_batch(ray: Any) -> Case:
    """Both kinds of actor in one case, turn by turn, because the one is judged by the other."""

    @ray.remote
    class Answerer:
        def answer(self) -> bytes:
            return b"ok"

    @ray.remote
    class AsyncAnswerer:
        async def answer(self) -> bytes:
            return b"ok"

    plain, awaiting = Answerer.remote(), AsyncAnswerer.remote()

    def batch(actor: Any) -> None:
        ray.get([actor.answer.remote() for _ in range(BATCH)])

    while True:
        yield {
            "actor_batch": per_operation(lambda: batch(plain), BATCH),
            "async_actor_batch": per_operation(lambda: batch(awaiting), BATCH),
        }


def small_values(ray: Any) -> Case:
    while True:
        refs: list[Any] = []

        def put_next(refs: list[Any] = refs) -> None:
            refs.append(ray.put(len(refs)))

        put = per_operation(put_next)
        del refs[BATCH:]
        # One get per ref: a second one may be answered from a cache.
        waiting = list(enumerate(refs))
        start = time.perf_counter()
        for number, ref in waiting:
            if ray.get(ref) != number:
                raise AssertionError(f"the value put as number {number} came back changed")
        yield {"put_small": put, "get_small": (time.perf_counter() - start) / len(waiting)}


def array_1mb(ray: Any) -> Case:
    import numpy as np

    @ray.remote
    def add_one(array: Any) -> Any:
        return array + 1

    array = np.zeros(131_072)
    while True:
        yield {"array_1mb": per_operation(lambda: ray.get(add_one.remote(array)))}


def array_100mb(ray: Any) -> Case:
    import numpy as np

    @ray.remote
    def make() -> Any:
        return np.ones(13_107_200)

    array = np.ones(13_107_200)
    while True:
        put = per_operation(lambda: ray.put(array), at_least=5)
        ref = ray.put(array)
        one, two = ray.get(ref), ray.get(ref)
        facts = {
            "zero_copy": float(np.shares_memory(one, two)),
            "shared_mapping": float(memory.in_shared_mapping(one.__array_interface__["data"][0])),
        }
        again = per_operation(partial(ray.get, ref))
        first = median(first_get(ray, make) for _ in range(5))
        del ref, one, two
        yield {"put_100mb": put, "get_100mb": again, "get_100mb_first": first, **facts}


def first_get(ray: Any, make: Any) -> float:
    """Seconds of the first get of an array that a worker has made and this process never saw."""
    made = make.remote()
    ray.wait([made])
    start = time.perf_counter()
    result = ray.get(made)
    seconds = time.perf_counter() - start
    if result[-1] != 1:
        raise AssertionError("the 100 MB result came back changed")
    return seconds


def actors_100(ray: Any) -> Case:
    @ray.remote
    class Process:
        def pid(self) -> int:
            return os.getpid()

    while True:
        start = time.perf_counter()
        actors = [Process.remote() for _ in range(ACTORS)]
        pids = ray.get([actor.pid.remote() for actor in actors])
        seconds = time.perf_counter() - start
        if len(set(pids)) != ACTORS:
            raise AssertionError(f"{ACTORS} actors live in {len(set(pids))} processes")
        sample = {
            "actors_100": seconds,
            "actor_private": sum(map(memory.private, pids)) / ACTORS,
            "actor_proportional": sum(map(memory.proportional, pids)) / ACTORS,
        }
        for actor in actors:
            ray.kill(actor)
        del actors
        wait_for_end(pids)
        yield sample


def wait_for_end(pids: list[int], seconds: float = 60.0) -> None:
    """The next contestant's turn must not begin while these still end."""
    deadline = time.monotonic() + seconds
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        if time.monotonic() > deadline:
            raise AssertionError(f"killed actors are still there after {seconds:.0f} s")
        time.sleep(0.02)


def settle(ray: Any) -> None:
    """Have the workers started and quiet, so that memory that grows later is that of the case."""

    @ray.remote
    def nothing() -> None:
        return None

    ray.get([nothing.remote() for _ in range(BATCH)])
    time.sleep(2)
    gc.collect()


def live_refs(ray: Any) -> Case:
    while True:
        settle(ray)
        before = memory.footprint()
        start = time.perf_counter()
        refs = [ray.put(number) for number in range(LIVE_REFS)]
        seconds = time.perf_counter() - start
        driver, everything = memory.growth(before)
        if ray.get(refs[-1]) != LIVE_REFS - 1:
            raise AssertionError("the last of the live refs holds another value")
        start = time.perf_counter()
        refs.clear()
        dropped = time.perf_counter() - start
        yield {
            "live_refs": seconds,
            "live_refs_drop": dropped,
            "live_ref_driver": driver / LIVE_REFS,
            "live_ref_tree": everything / LIVE_REFS,
        }


def queued_tasks(ray: Any) -> Case:
    """Queue many tasks while all CPUs are taken, weigh them, then let them run."""
    count = int(os.environ.get("BENCH_QUEUED", "1000000"))

    @ray.remote
    def nothing() -> None:
        return None

    while True:
        settle(ray)
        with taken_cpus(ray) as let_go:
            before = memory.footprint()
            start = time.perf_counter()
            refs = [nothing.remote() for _ in range(count)]
            submitting = time.perf_counter() - start
            driver, everything = memory.growth(before)
            let_go()
            start = time.perf_counter()
            results = ray.get(refs)
            running = time.perf_counter() - start
        if results != [None] * count:
            raise AssertionError("some of the queued tasks have another result than None")
        del refs, results
        yield {
            "queued": submitting + running,
            "queued_count": float(count),
            "queued_submit": submitting,
            "queued_driver": driver / count,
            "queued_tree": everything / count,
        }


@contextmanager
def taken_cpus(ray: Any) -> Iterator[Any]:
    """Occupy every CPU with a task that waits at a FIFO; the value is what lets them go."""

    @ray.remote
    def wait_at(ready: str, gate: str) -> None:
        with open(ready, "wb", buffering=0) as here:
            here.write(b".")
        with open(gate, "rb", buffering=0) as entrance:
            entrance.read(1)

    with tempfile.TemporaryDirectory() as folder:
        ready, gate = os.path.join(folder, "ready"), os.path.join(folder, "gate")
        os.mkfifo(ready)
        os.mkfifo(gate)
        # Open for both directions: no open blocks, and no end of file can let a task through early.
        ready_end, gate_end = os.open(ready, os.O_RDWR), os.open(gate, os.O_RDWR)
        cpus = int(ray.cluster_resources()["CPU"])
        waiting = [wait_at.remote(ready, gate) for _ in range(cpus)]
        arrived = 0
        while arrived < cpus:
            arrived += len(os.read(ready_end, cpus))
        yield lambda: os.write(gate_end, b"." * cpus)
        ray.get(waiting)
        os.close(ready_end)
        os.close(gate_end)


CASES = {
    case.__name__: case
    for case in (
        task_sync,
        task_batch,
        actor_sync,
        actor_batch,
        small_values,
        array_1mb,
        array_100mb,
        actors_100,
        live_refs,
        queued_tasks,
    )
}


def start(ray: Any, options: dict[str, Any]) -> Sample:
    """From nothing to the first result, in a process that has only imported the package."""

    def answer() -> bytes:
        return b"ok"

    begin = time.perf_counter()
    ray.init(**options)
    running = time.perf_counter()
    if ray.get(ray.remote(answer).remote()) != b"ok":
        raise AssertionError("the first task has another result than it returned")
    done = time.perf_counter()
    ray.shutdown()
    return {
        "start": done - begin,
        "start_init": running - begin,
        "shutdown": time.perf_counter() - done,
    }
