"""A driver killed with SIGKILL at any moment leaves no process, no shared memory and no session folder behind."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from pathlib import Path

import pytest
from programs import Program, eventually, marked, output_of, program

BUSY = """
import numpy as np

print("begun", flush=True)
ray.init(num_cpus=2)

@ray.remote
def leaf(value):
    time.sleep(0.002)
    return value

@ray.remote
def tree(depth):
    return sum(ray.get([tree.remote(depth - 1) for _ in range(2)])) if depth else 1

@ray.remote
def double(array):
    return array * 2

@ray.remote(max_restarts=-1)
class Keeper:
    def keep(self, array):
        self.array = array
        return array.sum()

@ray.remote
class Waiter:
    async def wait(self, box):
        return await box[0]

@ray.remote
def stubborn():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(0.1)

stubborn.options(num_cpus=0).remote()
print("running", flush=True)
while True:
    large = ray.put(np.ones(1 << 20))
    keeper, waiter = Keeper.remote(), Waiter.remote()
    work = [leaf.remote(i) for i in range(50)] + [tree.remote(3), double.remote(large), keeper.keep.remote(large)]
    work += [waiter.wait.remote([leaf.remote(1)]), keeper.keep.remote(double.remote(large))]
    ray.get(work)
"""


def folders(pid: int) -> list[Path]:
    """The session folders that a driver has made."""
    return list(Path(tempfile.gettempdir()).glob(f"skate-{os.getuid()}-{pid}-*"))


def kill_after(seconds: float, line: str) -> None:
    driver = Program(BUSY)
    try:
        driver.until(line)
        time.sleep(seconds)
        os.kill(driver.pid, signal.SIGKILL)
        killed = time.monotonic()
        driver.process.wait(5)
        gone = eventually(lambda: not marked(driver.mark), 2.0)
        left = [(each.pid, each.name()) for each in marked(driver.mark)]
        assert gone, f"killed {seconds:.3f} s after {line!r}, {time.monotonic() - killed:.1f} s later there are {left}"
    finally:
        driver.stop()
    if folders(driver.pid):
        output_of("ray.init(num_cpus=1); ray.shutdown()")
    assert not folders(driver.pid)


@pytest.mark.parametrize(("line", "seconds"), [("begun", 0.0), ("begun", 0.05), ("running", 0.0), ("running", 0.4)])
def test_killed_driver_leaves_nothing(line: str, seconds: float) -> None:
    kill_after(seconds, line)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_driver_killed_at_thirty_random_moments_leaves_nothing() -> None:
    rnd = random.Random(2026)
    for _ in range(30):
        kill_after(rnd.uniform(0, 1.5), "begun")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGSEGV])
def test_driver_ended_by_another_signal_leaves_nothing(number: int) -> None:
    with program(BUSY) as driver:
        driver.until("running")
        time.sleep(0.2)
        os.kill(driver.pid, number)
        driver.process.wait(5)
        assert eventually(lambda: not marked(driver.mark), 2.0), marked(driver.mark)


def test_driver_that_ends_by_os_exit_leaves_nothing() -> None:
    with program(BUSY.replace("    ray.get(work)", "    ray.get(work); os._exit(0)")) as driver:
        driver.process.wait(20)
        assert eventually(lambda: not marked(driver.mark), 2.0), marked(driver.mark)


def test_death_of_the_driver_reaches_processes_that_a_task_forked() -> None:
    text = """
    import multiprocessing

    @ray.remote
    def parent():
        multiprocessing.get_context("fork").Process(target=time.sleep, args=[100]).start()
        print("forked", flush=True)
        time.sleep(100)

    ray.init(num_cpus=1)
    ray.get(parent.remote())
    """
    with program(text) as driver:
        for line in driver.process.stdout:
            if "forked" in line:
                break
        os.kill(driver.pid, signal.SIGKILL)
        driver.process.wait(5)
        assert eventually(lambda: not marked(driver.mark), 2.0), marked(driver.mark)
