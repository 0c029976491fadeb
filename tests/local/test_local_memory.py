"""Memory that runs short in a real session, and ``memory=`` where it is enforced."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from programs import eventually, output_of

import skate
from skate import exceptions
from skate.core.engine import running

MB = 1 << 20


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """Start a session with these settings of memory; gives its watch."""

    def begin(cpus: int = 2, **config: Any) -> Any:
        fast = {"memory_monitor_refresh_ms": 50, "task_oom_retry_delay_base_ms": 50}
        skate.init(engine="local", num_cpus=cpus, namespace="tests", _system_config={**fast, **config})
        return running().host.watch

    yield begin
    skate.shutdown()


def runs(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@skate.remote
def hog(size: int, seconds: float, path: str = "", until: tuple[str, int] = ("", 0)) -> int:
    """Have so many MB for so long, or until another has run so often; each run leaves a line in the file."""
    if path:
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")
    block = bytearray(size * MB)
    time.sleep(seconds)
    while until[1] and runs(Path(until[0])) < until[1]:
        time.sleep(0.01)
    return len(block) // MB


def driver_has() -> int:
    """Bytes of this process: they count against a limit too, and are many after many other tests."""
    rss: int = psutil.Process().memory_info().rss
    return rss


def test_newest_of_two_is_ended_and_tried_again_until_there_is_room(
    start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(memory_limit=driver_has() + 560 * MB)
    older = hog.remote(300, 0, str(tmp_path / "older"), until=(str(tmp_path / "newer"), 3))
    assert eventually(lambda: (tmp_path / "older").exists())
    newer = hog.remote(400, 0.3, str(tmp_path / "newer"))
    assert skate.get([older, newer], timeout=60) == [300, 400]
    assert runs(tmp_path / "older") == 1
    assert runs(tmp_path / "newer") > 1
    said = capsys.readouterr().err
    assert "memory is short" in said and "Ended hog" in said and "the session's memory_limit" in said
    assert "hog is tried again in 0.05 s" in said


def test_task_that_needs_more_than_there_is_fails_in_the_end(start: Any, tmp_path: Path) -> None:
    start(memory_limit=200 * MB)
    with pytest.raises(exceptions.OutOfMemoryError) as caught:
        skate.get(hog.options(max_retries=2).remote(400, 10, str(tmp_path / "runs")), timeout=60)
    pids = (tmp_path / "runs").read_text().split()
    text = str(caught.value)
    assert len(pids) == 3
    assert f"running hog was ended after 3 attempts: pid {pids[-1]}" in text
    assert "209.7 MB of the session's memory_limit" in text and "memory_usage_threshold=0.95" in text
    largest = text.partition("Most had: ")[2]  # this process may have more, from the tests before
    assert f"hog (pid {pids[-1]})" in largest and f"the driver (pid {os.getpid()})" in largest


def test_idle_workers_go_before_those_that_work(start: Any) -> None:
    @skate.remote
    def keep(size: int) -> int:
        global kept
        kept = bytearray(size * MB)
        return os.getpid()

    start(cpus=1, memory_limit=driver_has() + 420 * MB)
    first = skate.get(keep.remote(250))
    assert os.path.exists(f"/proc/{first}")

    @skate.remote
    class Other:
        def hog(self, size: int) -> int:
            self.block = bytearray(size * MB)
            time.sleep(0.5)
            return os.getpid()

    other = Other.options(runtime_env={"env_vars": {"OTHER": "1"}}).remote()
    assert skate.get(other.hog.remote(260), timeout=60) != first
    assert eventually(lambda: not os.path.exists(f"/proc/{first}"))


def test_those_who_have_little_are_spared_and_the_shortage_is_told_once(
    start: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = start(memory_limit=1)
    assert skate.get([hog.remote(1, 0.3) for _ in range(4)], timeout=60) == [1] * 4
    assert watch.looks > 3
    said = capsys.readouterr().err
    assert said.count("No worker has much of it") == 1 and "the driver" in said


def test_session_in_which_nothing_runs_is_left_asleep(start: Any) -> None:
    watch = start()
    skate.get([hog.remote(1, 0.2) for _ in range(2)])
    assert eventually(lambda: watch.resting)
    looks = watch.looks
    time.sleep(0.4)
    assert watch.looks == looks > 0


def test_monitor_can_be_turned_off(start: Any) -> None:
    watch = start(memory_monitor_refresh_ms=0, memory_limit=1)
    assert skate.get(hog.remote(64, 0.3), timeout=60) == 64
    assert watch.looks == 0


def test_monitor_that_can_read_nothing_says_so_and_is_off(start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    watch = start()

    def blind() -> Any:
        raise OSError("no such file")

    watch.meter = blind
    assert skate.get([hog.remote(1, 0.2) for _ in range(4)], timeout=60) == [1] * 4
    assert capsys.readouterr().err.count("the memory monitor is off") == 1


def test_cancel_of_a_task_that_waits_for_memory(start: Any, tmp_path: Path) -> None:
    start(memory_limit=200 * MB, task_oom_retry_delay_base_ms=60_000)
    task = hog.remote(400, 10, str(tmp_path / "runs"))
    rows = running().host.hub.rows
    assert eventually(lambda: any(row.shortage is not None for row in rows.values()))
    skate.cancel(task)
    with pytest.raises(exceptions.TaskCancelledError):
        skate.get(task, timeout=60)


# ---------------------------------------------------------------------- memory= enforced


def test_task_beyond_its_memory_is_ended_with_limit_and_use(start: Any, tmp_path: Path) -> None:
    start(enforce_memory=True)
    task = hog.options(memory=100 * MB, max_retries=1)
    assert skate.get(task.remote(60, 0.3), timeout=60) == 60
    with pytest.raises(exceptions.OutOfMemoryError, match=r"hog was ended after 2 attempts.*took .*memory=104857600"):
        skate.get(task.remote(300, 10, str(tmp_path / "runs")), timeout=60)
    assert runs(tmp_path / "runs") == 2


def test_task_is_not_charged_with_what_others_left_in_its_process(start: Any) -> None:
    @skate.remote(memory=200 * MB)
    def leave() -> int:
        global left
        left = bytearray(150 * MB)
        return os.getpid()

    start(cpus=1, enforce_memory=True)
    before = skate.get(leave.remote())
    assert skate.get(hog.options(memory=200 * MB, max_retries=0).remote(100, 0.4), timeout=60) == 100
    assert os.path.exists(f"/proc/{before}")


def test_actor_beyond_its_memory_dies_of_it(start: Any) -> None:
    @skate.remote(memory=100 * MB)
    class Keeper:
        def keep(self, size: int) -> int:
            self.block = bytearray(size * MB)
            time.sleep(0.4 if size < 100 else 60)
            return size

    start(enforce_memory=True)
    keeper = Keeper.remote()
    assert skate.get(keeper.keep.remote(40), timeout=60) == 40
    with pytest.raises(exceptions.ActorDiedError, match=r"Keeper.*took .*memory=104857600") as caught:
        skate.get(keeper.keep.remote(300), timeout=60)
    assert isinstance(caught.value, exceptions.OutOfMemoryError)


def test_memory_is_for_scheduling_alone_unless_it_is_enforced(start: Any) -> None:
    start()
    assert skate.get(hog.options(memory=1 * MB).remote(100, 0.3), timeout=60) == 100


def test_settings_come_from_the_environment_too() -> None:
    text = """
    ray.init(num_cpus=1)

    @ray.remote(memory=50 << 20, max_retries=0)
    def hog():
        block = bytearray(200 << 20)
        time.sleep(10)

    try:
        ray.get(hog.remote())
    except ray.exceptions.OutOfMemoryError as error:
        print("memory=52428800" in str(error))
    ray.shutdown()
    """
    environment = {"SKATE_ENFORCE_MEMORY": "1", "RAY_memory_monitor_refresh_ms": "20"}
    assert output_of(text, env=environment).split() == ["True"]


# ------------------------------------------------------------------------------- deaths


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os._exit(3)", "exited with code 3"),
        ("os._exit(0)", "exited with code 0 \\(by os._exit"),
        ("os.kill(os.getpid(), 11)", "killed by SIGSEGV \\(a crash in native code\\)"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ],
)
def test_error_of_a_death_has_everything_that_is_known(start: Any, end: str, words: str) -> None:
    @skate.remote(max_retries=0)
    def doomed() -> None:
        print("begun", flush=True)
        bytearray(100 * MB)
        print(f"pid {os.getpid()}", flush=True)
        exec(end, {"os": os})

    start()
    with pytest.raises(exceptions.WorkerCrashedError, match=words) as caught:
        skate.get(doomed.remote())
    text = str(caught.value)
    pid = text.split("pid ")[1].split()[0]
    assert "doomed" in text and text.endswith(f"  begun\n  pid {pid}")
    had = float(text.split("with up to ")[1].split(" MB")[0])
    assert 105 < had < 250


def test_actors_death_has_it_too(start: Any) -> None:
    @skate.remote
    class Doomed:
        def die(self) -> None:
            os._exit(4)

    start()
    with pytest.raises(
        exceptions.ActorDiedError, match=r"Doomed\(.*pid \d+\) died: exited with code 4, with up to .* MB"
    ):
        skate.get(Doomed.remote().die.remote())
