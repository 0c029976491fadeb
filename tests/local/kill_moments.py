"""A driver that does everything, killed at any moment of its life; what is left of it, and for how long."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from pathlib import Path

from programs import MARK, Program, output_of

DRIVER = """
import numpy as np

print("begun", flush=True)

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

@ray.remote(num_returns="streaming")
def stream():
    for number in range(5):
        yield np.full(1 << 16, number)

@ray.remote(max_restarts=-1)
class Keeper:
    def keep(self, array):
        self.array = array
        return array.sum()

@ray.remote
class Waiter:
    async def wait(self, box):
        return await box[0]

@ray.remote(num_cpus=0)
def stubborn():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(0.1)

@ray.remote(num_cpus=0)
def parent():
    import multiprocessing
    multiprocessing.get_context("fork").Process(target=time.sleep, args=[100]).start()
    time.sleep(100)

while True:
    ray.init(num_cpus=2, object_store_memory=80 << 20)
    print("up", flush=True)
    stubborn.remote(), parent.remote()
    large = ray.put(np.ones(1 << 20))
    keeper, waiter = Keeper.remote(), Waiter.remote()
    work = [leaf.remote(i) for i in range(30)] + [tree.remote(3), double.remote(large), keeper.keep.remote(large)]
    work += [waiter.wait.remote([leaf.remote(1)]), keeper.keep.remote(double.remote(large))]
    ray.get(work)
    ray.get(list(stream.remote()))
    crowd = [ray.put(np.ones(1 << 20)) for _ in range(12)]  # more than the store holds
    del large, work, crowd
    ray.shutdown()
    print("down", flush=True)
"""


def killed_after(seconds: float, line: str, patience: float) -> float:
    """Kill a driver so long after its line; seconds until its last process is gone."""
    driver = Program(DRIVER)
    try:
        driver.until(line)
        time.sleep(seconds)
        os.kill(driver.pid, signal.SIGKILL)
        killed = time.monotonic()
        driver.process.wait(30)
        while left := names_of(driver.mark):
            took = time.monotonic() - killed
            assert took < patience, f"killed {seconds:.4f} s after {line!r}, {took:.2f} s later there are {left}"
            time.sleep(0.005)
        return time.monotonic() - killed
    finally:
        driver.stop()


def names_of(mark: str) -> dict[int, str]:
    """Names of the processes with a mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if entry.isdigit() and wanted in Path("/proc", entry, "environ").read_bytes():
                found[int(entry)] = Path("/proc", entry, "comm").read_text().strip()
    return found


def leftovers() -> list[Path]:
    """Folders of sessions, also those half made, of drivers that are gone."""
    found = list(Path(tempfile.gettempdir()).glob(f"skate-{os.getuid()}-*"))
    found += Path(tempfile.gettempdir()).glob(f".skate-{os.getuid()}-*")
    return [path for path in found if not Path("/proc", path.name.split("-")[2]).exists()]


def start_another_session() -> None:
    """The next session, which sweeps."""
    output_of("ray.init(num_cpus=1); ray.shutdown()")
