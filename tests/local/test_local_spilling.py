"""A store that is too small for what the program keeps: files take the rest, and lost ones are made again."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from programs import output_of, program

import skate
from skate import exceptions
from skate.core import engine as engines

MB = 1 << 20
STORE = 100 * MB


@skate.remote
def make(value: int, log: str = "") -> np.ndarray:
    if log:
        with open(log, "a") as file:
            file.write("x")
    return np.full(10 * MB // 8, value)


@skate.remote
def add(array: np.ndarray, number: int) -> np.ndarray:
    return array + number


@skate.remote
def first(array: np.ndarray) -> int:
    return int(array[0])


@skate.remote
def first_of_each(refs: list[skate.ObjectRef]) -> list[int]:
    return [int(skate.get(ref)[0]) for ref in refs]


@skate.remote
class Reader:
    def first(self, array: np.ndarray) -> int:
        return int(array[0])

    async def never(self) -> None:
        """Makes this an async actor."""

    async def later(self, refs: list[skate.ObjectRef]) -> int:
        return int((await refs[0])[0])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A session with a store of 100 MB; the directory that its files lie under."""
    config = {"object_spilling_config": {"type": "filesystem", "params": {"directory_path": str(tmp_path / "spills")}}}
    skate.init(num_cpus=2, object_store_memory=STORE, _system_config=config)
    yield tmp_path / "spills"
    skate.shutdown()
    assert list((tmp_path / "spills").iterdir()) == []


def files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*/*") if path.name != "lock"]


def left() -> tuple[int, int, int]:
    """Objects, bytes in memory, bytes in files."""
    engine = engines.running()
    assert engine is not None
    engine.resources()
    return len(engine.rows), engine.arena.used, engine.host.spills.used


def settled() -> bool:
    deadline = time.monotonic() + 60
    while left() != (0, 0, 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left() == (0, 0, 0)


def test_four_times_the_store_goes_through_puts_gets_tasks_and_actors(store: Path) -> None:
    refs = [skate.put(np.full(10 * MB // 8, i)) for i in range(40)]
    assert len(files(store)) >= 30
    assert [int(skate.get(ref)[-1]) for ref in refs] == list(range(40))
    assert skate.get([first.remote(ref) for ref in refs], timeout=60) == list(range(40))
    assert skate.get(first_of_each.remote(refs), timeout=60) == list(range(40))
    reader = Reader.remote()
    assert skate.get([reader.first.remote(ref) for ref in refs], timeout=60) == list(range(40))
    assert skate.get([reader.later.remote([ref]) for ref in refs], timeout=60) == list(range(40))
    del refs, reader
    assert settled() and files(store) == []


def test_more_than_the_store_is_read_at_once(store: Path) -> None:
    refs = [make.remote(i) for i in range(25)]
    arrays = skate.get(refs, timeout=60)
    assert [int(array[-1]) for array in arrays] == list(range(25))
    assert int(skate.get(skate.put(np.full(20 * MB // 8, 7)))[0]) == 7
    assert int(skate.get(make.remote(8), timeout=60)[0]) == 8
    del arrays, refs
    assert settled()


def test_task_that_puts_one_after_the_other_takes_the_memory_of_one(store: Path) -> None:
    """What it has dropped makes room before the next, and nothing goes to a file."""

    @skate.remote
    def put_and_drop() -> None:
        for number in range(8):
            skate.put(np.full(60 * MB // 8, number))

    skate.get(put_and_drop.remote(), timeout=60)
    engine = engines.running()
    assert engine.arena.grown < 70 * MB and engine.hub.history.events == deque()


def test_stream_that_nobody_reads_yet_goes_to_disk(store: Path) -> None:
    @skate.remote(num_returns="streaming")
    def items(count: int) -> Iterator[np.ndarray]:
        for i in range(count):
            yield np.full(10 * MB // 8, i)

    stream = items.remote(25)
    skate.get(stream.completed(), timeout=60)
    assert [int(skate.get(ref)[0]) for ref in stream] == list(range(25))
    del stream
    assert settled()


def test_budget_of_the_disk_is_kept_and_its_end_is_an_error(tmp_path: Path) -> None:
    text = """
    import numpy as np
    ray.init(num_cpus=1, object_store_memory=100 << 20)
    kept = []
    try:
        for i in range(100):
            kept.append(ray.put(np.full((10 << 20) // 8, i)))
    except ray.exceptions.OutOfDiskError as error:
        print(len(kept), "10,48" in str(error), "52,428,800 bytes that they may" in str(error))
    print([int(ray.get(ref)[0]) for ref in kept] == list(range(len(kept))))
    kept.clear()
    print(int(ray.get(ray.put(np.full((10 << 20) // 8, 7)))[0]))
    """
    limits = {"SKATE_SPILL_LIMIT": str(50 * MB), "SKATE_SPILL_DIRECTORY": str(tmp_path)}
    assert output_of(text, env=limits).split() == ["13", "True", "True", "True", "7"]
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_killed_driver_go_with_the_next_session(tmp_path: Path) -> None:
    text = """
    import numpy as np
    ray.init(num_cpus=1, object_store_memory=100 << 20)
    kept = [ray.put(np.full((10 << 20) // 8, i)) for i in range(20)]
    os.kill(os.getpid(), signal.SIGKILL)
    """
    place = {"SKATE_SPILL_DIRECTORY": str(tmp_path)}
    with program(text, env=place) as killed:
        assert killed.end()[0] == -signal.SIGKILL
    assert len(files(tmp_path)) >= 10
    output_of("ray.init(num_cpus=1)", env=place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", [{"object_spilling_config": {"type": "s3"}}, {"object_spilling_config": "no json"}])
def test_settings_that_mean_nothing_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="s3|JSON|Expecting"):
        skate.init(_system_config=config)
    assert not skate.is_initialized()


# -------------------------------------------------------------------------- lineage


@pytest.mark.parametrize("how", ["gone", "changed", "cut short"])
@pytest.mark.parametrize("reader", ["driver", "task", "get in a task", "actor", "await"])
def test_lost_files_are_made_again(how: str, reader: str, store: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    refs = [make.remote(i, str(log)) for i in range(20)]
    skate.wait(refs, num_returns=20, timeout=60)
    for path in files(store):
        if how == "gone":
            path.unlink()
        elif how == "changed":
            with open(path, "r+b") as file:
                file.seek(5000)
                file.write(b"something else")
        else:
            os.truncate(path, 100)
    if reader == "driver":
        values = [int(skate.get(ref)[0]) for ref in refs]
    elif reader == "task":
        values = skate.get([first.remote(ref) for ref in refs], timeout=60)
    elif reader == "get in a task":
        values = skate.get(first_of_each.remote(refs), timeout=60)
    else:
        actor = Reader.remote()
        calls = [actor.first.remote(ref) if reader == "actor" else actor.later.remote([ref]) for ref in refs]
        values = skate.get(calls, timeout=60)
    assert values == list(range(20))
    assert 20 < log.stat().st_size <= 60


def test_what_was_dropped_on_the_way_is_made_again_too(store: Path) -> None:
    ends = []
    for i in range(15):
        ref = make.remote(i)
        for _ in range(3):
            ref = add.remote(ref, 1)
        ends.append(ref)
    skate.wait(ends, num_returns=len(ends), timeout=60)
    for path in files(store):
        path.unlink()
    assert [int(skate.get(ref)[0]) for ref in ends] == [i + 3 for i in range(15)]
    del ends, ref
    assert settled()


def test_lost_put_is_an_error_that_says_so_everywhere(store: Path) -> None:
    refs = [skate.put(np.full(10 * MB // 8, i)) for i in range(20)]
    for path in files(store):
        path.unlink()
    with pytest.raises(exceptions.ObjectReconstructionFailedError, match=r"put\(\)"):
        skate.get(refs[0])
    with pytest.raises(exceptions.ObjectLostError, match=r"put\(\)"):
        skate.get(first.remote(refs[1]), timeout=60)
    with pytest.raises(exceptions.ObjectLostError, match=r"put\(\)"):
        skate.get(first_of_each.remote(refs), timeout=60)
    assert int(skate.get(refs[-1])[0]) == 19


CEILING = """
import numpy as np

@ray.remote
def make(i):
    return np.full((10 << 20) // 8, i)

@ray.remote
def add(array, other):
    return array + other

ray.init(num_cpus=2, object_store_memory=int(sys.argv[1]) << 20)
puts = [ray.put(np.full((10 << 20) // 8, i)) for i in range(15)]
made = [make.remote(i) for i in range(15)]
sums = [add.remote(a, b) for a, b in zip(puts, made)]
print([int(ray.get(ref)[0]) for ref in sums] == [2 * i for i in range(15)])
"""


def test_data_of_four_times_the_store_stays_under_a_ceiling_of_memory(tmp_path: Path) -> None:
    ceiling = {"SKATE_MEMORY_LIMIT": str(300 * MB), "RAY_memory_monitor_refresh_ms": "5"}
    with program(CEILING, "100", env=ceiling) as small:
        status, out, err = small.end(90)
    assert (status, out) == (0, "True\n"), err
    assert "memory is short" not in err
    with program(CEILING, "1000", env=ceiling) as large:  # the ceiling is there
        _, _, err = large.end(90)
    assert "memory is short" in err
