"""Shared memory: what does not fit is refused with numbers, what is dropped is room again, what was made survives."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from programs import BEGIN, eventually

import skate
from skate import exceptions
from skate.core import engine as engines

MB = 1 << 20
STORE = 100 * MB


@pytest.fixture
def store() -> Iterator[None]:
    """A session whose store holds 100 MB."""
    skate.init(engine="local", num_cpus=2, object_store_memory=STORE)
    yield
    skate.shutdown()


def used() -> int:
    """Bytes of shared memory in use, but for blocks that workers got ahead of need."""
    gc.collect()
    skate.available_resources()  # makes the engine count what was dropped
    engine = engines.current()
    granted = sum(-(-size // 4096) * 4096 for worker in engine.hub.workers.values() for _, size in worker.granted)
    return engine.hub.arena.used - granted


@skate.remote
def make(megabytes: int) -> np.ndarray:
    return np.ones(megabytes * MB, dtype=np.uint8)


@skate.remote
def measure(array: np.ndarray) -> int:
    return int(array.sum())


@pytest.mark.parametrize("where", ["put", "argument", "result", "put in a task"])
def test_value_larger_than_the_store_is_refused_with_both_sizes(where: str, store: None) -> None:
    large = np.ones(2 * STORE, dtype=np.uint8)

    @skate.remote
    def put_inside() -> None:
        skate.put(np.ones(2 * STORE, dtype=np.uint8))

    with pytest.raises(exceptions.ObjectStoreFullError, match=r"209,715,\d+ bytes.*104,857,600.*object_store_memory"):
        if where == "put":
            skate.put(large)
        elif where == "argument":
            measure.remote(large)
        elif where == "result":
            skate.get(make.remote(200), timeout=60)
        else:
            skate.get(put_inside.remote(), timeout=60)
    assert used() == 0
    assert skate.get(measure.remote(np.ones(MB, dtype=np.uint8)), timeout=60) == MB


def test_full_store_takes_more_and_gives_all_of_it_back(store: None) -> None:
    kept = [skate.put(np.full(9 * MB, i, dtype=np.uint8)) for i in range(30)]
    results = [make.remote(9) for _ in range(5)]
    assert [int(skate.get(ref)[0]) for ref in kept] == list(range(30))
    assert [skate.get(measure.remote(ref), timeout=60) for ref in results] == [9 * MB] * 5
    views = skate.get(kept)
    assert [int(view[-1]) for view in views] == list(range(30))
    del views
    kept.clear()
    results.clear()
    assert eventually(lambda: used() == 0)
    assert skate.get(measure.remote(skate.put(np.ones(90 * MB, dtype=np.uint8))), timeout=60) == 90 * MB


def test_store_many_times_over_passes_through_when_refs_are_dropped(store: None) -> None:
    for i in range(40):
        assert skate.get(measure.remote(make.remote(20)), timeout=60) == 20 * MB, i
    assert eventually(lambda: used() == 0)


def test_large_result_survives_the_death_of_its_worker(store: None) -> None:
    @skate.remote
    class Maker:
        def make(self) -> tuple[np.ndarray, skate.ObjectRef]:
            return np.arange(MB), skate.put(np.arange(MB) * 2)

    maker = Maker.remote()
    refs = [maker.make.remote() for _ in range(2)]
    skate.wait(refs, num_returns=2, timeout=60)
    skate.kill(maker)
    with pytest.raises(exceptions.ActorDiedError):
        skate.get(maker.make.remote(), timeout=60)
    for ref in refs:
        array, inner = skate.get(ref, timeout=60)
        assert int(array[-1]) == MB - 1
        assert int(skate.get(inner, timeout=60)[-1]) == 2 * (MB - 1)
    del array, inner, refs, ref
    assert eventually(lambda: used() == 0)


def test_view_outlives_reference_worker_and_session(store: None) -> None:
    array = skate.get(make.remote(4), timeout=60)
    skate.shutdown()
    assert int(array.sum()) == 4 * MB


@pytest.mark.parametrize("how", ["driver's closure", "task's closure", "second return", "item after item"])
def test_memory_comes_back_when_what_it_was_for_fails(how: str, store: None) -> None:
    guard = threading.Lock()

    @skate.remote
    def bad(value: object) -> object:
        return guard

    @skate.remote
    def tries() -> None:
        lock = threading.Lock()
        skate.remote(lambda value: lock).remote(np.ones(5 * MB, dtype=np.uint8))

    @skate.remote(num_returns=2)
    def half() -> tuple[object, object]:
        return np.ones(5 * MB, dtype=np.uint8), threading.Lock()

    @skate.remote(num_returns="streaming")
    def stream() -> Iterator[object]:
        yield np.ones(5 * MB, dtype=np.uint8)
        yield threading.Lock()

    for _ in range(3):
        with pytest.raises(TypeError):
            if how == "driver's closure":
                bad.remote(np.ones(5 * MB, dtype=np.uint8))
            elif how == "task's closure":
                skate.get(tries.remote(), timeout=60)
            elif how == "second return":
                skate.get(half.remote(), timeout=60)
            else:
                for ref in stream.remote():
                    skate.get(ref, timeout=60)
    ref = None
    arena = engines.current().hub.arena
    assert eventually(lambda: used() == 0)
    assert arena.used <= 6 * MB, "blocks that workers were granted pile up"


def test_memory_comes_back_from_tasks_cancelled_in_the_middle_of_a_put(store: None) -> None:
    @skate.remote
    def putter() -> None:
        while True:
            skate.put(np.ones(20 * MB, dtype=np.uint8))

    for i in range(8):
        ref = putter.remote()
        time.sleep(0.1 + i / 100)
        skate.cancel(ref)
        with pytest.raises(exceptions.TaskCancelledError):
            skate.get(ref, timeout=60)
    del ref
    assert eventually(lambda: used() == 0)
    assert skate.get(measure.remote(skate.put(np.ones(90 * MB, dtype=np.uint8))), timeout=60) == 90 * MB


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_memory_comes_back_from_workers_killed_in_the_middle_of_a_put(number: int, store: None) -> None:
    @skate.remote(max_retries=0)
    def doomed() -> None:
        threading.Timer(0.15, os.kill, (os.getpid(), number)).start()
        while True:
            skate.put(np.ones(20 * MB, dtype=np.uint8))

    for _ in range(3):
        with pytest.raises(exceptions.WorkerCrashedError, match=signal.Signals(number).name):
            skate.get(doomed.remote(), timeout=60)
    assert eventually(lambda: used() == 0)
    assert skate.get(measure.remote(np.ones(80 * MB, dtype=np.uint8)), timeout=60) == 80 * MB


def test_memory_comes_back_from_an_actor_that_dies_with_what_it_held(store: None) -> None:
    @skate.remote
    class Hoarder:
        def __init__(self) -> None:
            self.kept: list[object] = []

        def put(self) -> None:
            self.kept.append(skate.put(np.ones(5 * MB, dtype=np.uint8)))

        def take(self, box: list[skate.ObjectRef]) -> None:
            self.kept += [box[0], skate.get(box[0])]

        def read(self) -> None:
            @skate.remote(num_returns="streaming")
            def stream() -> Iterator[np.ndarray]:
                for _ in range(4):
                    yield np.ones(5 * MB, dtype=np.uint8)

            items = stream.remote()
            self.kept += [items, next(items)]
            time.sleep(0.3)

    hoarder = Hoarder.remote()
    skate.get([hoarder.put.remote(), hoarder.take.remote([skate.put(np.ones(9 * MB, dtype=np.uint8))])], timeout=60)
    skate.get(hoarder.read.remote(), timeout=60)
    assert eventually(lambda: used() > 30 * MB)
    skate.kill(hoarder)
    assert eventually(lambda: used() == 0), used()


SMALL_SHM = (
    BEGIN
    + """
import numpy as np, shutil
assert shutil.disk_usage("/dev/shm").total < 1 << 21
ray.init(num_cpus=2, object_store_memory=256 << 20)
ref = ray.put(np.ones(100 << 20, dtype=np.uint8))
print(ray.get(ray.remote(lambda array: int(array.sum())).remote(ref)))
ray.shutdown()
"""
)


@pytest.mark.parametrize("full", [False, True])
def test_tiny_or_full_dev_shm_does_not_matter(full: bool) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare(1) to mount a small /dev/shm")
    fill = "head -c 2000000 /dev/zero > /dev/shm/filler;" if full else ""
    script = f'mount -t tmpfs -o size=1m tmpfs /dev/shm || exit 77; {fill} exec "$0" -c "$1"'
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", script, sys.executable, SMALL_SHM], capture_output=True, text=True, timeout=60
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(100 << 20)
