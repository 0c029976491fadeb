"""A driver killed with SIGKILL at any moment leaves no process, no shared memory and no session folder behind."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from kill_moments import DRIVER, killed_after, start_another_session
from programs import eventually, marked, program

PATIENCE = 30.0
"""Seconds after a driver's end in which its last process is gone: without its death none would end so soon."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for temporary files of our own: what is in it in the end was left behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def left_in(folder: Path) -> list[str]:
    """What the next session leaves of those before it."""
    start_another_session()
    return [path.name for path in folder.iterdir() if "skate" in path.name]


@pytest.mark.parametrize(
    ("line", "seconds"), [("begun", 0.0), ("begun", 0.05), ("up", 0.0), ("up", 0.2), ("down", 0.0), ("down", 0.02)]
)
def test_killed_driver_leaves_nothing(line: str, seconds: float, folder: Path) -> None:
    killed_after(seconds, line, PATIENCE)
    assert left_in(folder) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("moments", [40])
def test_driver_killed_at_random_moments_leaves_nothing(moments: int, folder: Path) -> None:
    rnd = random.Random(moments)
    took = [killed_after(rnd.uniform(0, 1.2), "begun", PATIENCE) for _ in range(moments)]
    assert left_in(folder) == []
    print(f"{moments} kills: gone after {sorted(took)[moments // 2]:.3f} s (median), {max(took):.3f} s (longest)")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGSEGV])
def test_driver_ended_by_another_signal_leaves_nothing(number: int) -> None:
    with program(DRIVER) as driver:
        driver.until("up")
        time.sleep(0.2)
        os.kill(driver.pid, number)
        driver.process.wait(90)
        assert eventually(lambda: not marked(driver.mark)), marked(driver.mark)


def test_driver_that_ends_by_os_exit_leaves_nothing() -> None:
    with program(DRIVER.replace("    ray.shutdown()", "    os._exit(0)")) as driver:
        driver.process.wait(90)
        assert eventually(lambda: not marked(driver.mark)), marked(driver.mark)


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
        driver.process.wait(90)
        assert eventually(lambda: not marked(driver.mark)), marked(driver.mark)
