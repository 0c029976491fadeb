"""Tasks that do what no task should: their worker may suffer, their neighbours and the session do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from programs import eventually, output_of

import skate
from skate import exceptions


@skate.remote
def echo(value: object) -> object:
    return value


@skate.remote(max_retries=0)
def quick(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def session_works() -> None:
    assert skate.get([echo.remote(i) for i in range(50)], timeout=60) == list(range(50))


@pytest.mark.parametrize(("upto", "reopened"), [(20, 0), (20, 40), (400, 0), (400, 400)])
def test_task_that_closes_descriptors_ends_with_a_value_or_a_clear_error(
    upto: int, reopened: int, one_cpu: None, tmp_path: os.PathLike[str]
) -> None:
    @skate.remote(max_retries=0)
    def closer() -> str:
        os.closerange(0, upto)
        kept = [open(os.path.join(tmp_path, str(i)), "w+") for i in range(reopened)]  # noqa: SIM115  kept open
        return f"closed, {len(kept)} open"

    try:
        assert skate.get(closer.remote(), timeout=60) == f"closed, {reopened} open"
    except exceptions.WorkerCrashedError as error:
        assert "closer" in str(error)
    session_works()
    assert all(not file.stat().st_size for file in tmp_path.iterdir()), "the engine wrote into a task's file"


@pytest.mark.parametrize(
    "how", ["sys.exit(3)", "raise ValueError('child')", "value = 'child'", "os._exit(0)", "os.abort()"]
)
def test_forked_child_of_a_task_does_not_talk_for_it(how: str, one_cpu: None) -> None:
    @skate.remote(max_retries=0)
    def parent() -> object:
        value: object = "parent"
        pid = os.fork()
        if pid == 0:
            space: dict[str, object] = {"sys": sys, "os": os, "value": value}
            exec(how, space)
            return space["value"]
        time.sleep(0.3)
        os.waitpid(pid, 0)
        return value

    for _ in range(3):
        assert skate.get(parent.remote(), timeout=60) == "parent"
        session_works()


def test_forked_child_of_a_task_that_uses_the_session_is_refused(one_cpu: None) -> None:
    @skate.remote(max_retries=0)
    def parent() -> str:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                skate.get(echo.remote(1), timeout=60)
                os.write(writing, b"worked")
            except BaseException as error:
                os.write(writing, repr(error).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        return os.read(reading, 4096).decode()

    assert "fork" in skate.get(parent.remote(), timeout=60)
    session_works()


def test_forked_child_of_an_actor_does_not_talk_for_it(session: None) -> None:
    @skate.remote
    class Forker:
        def fork(self) -> str:
            pid = os.fork()
            if pid == 0:
                return "child"
            os.waitpid(pid, 0)
            return "parent"

    actor = Forker.remote()
    assert [skate.get(actor.fork.remote(), timeout=60) for _ in range(3)] == ["parent"] * 3


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_pool_works_inside_a_task(method: str, session: None) -> None:
    @skate.remote(max_retries=0)
    def parent() -> list[int]:
        import multiprocessing

        with multiprocessing.get_context(method).Pool(2) as pool:
            return pool.map(abs, range(-5, 0))

    assert skate.get(parent.remote(), timeout=60) == [5, 4, 3, 2, 1]
    session_works()


def test_task_may_start_subprocesses(session: None) -> None:
    @skate.remote
    def shell(text: str) -> str:
        return subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True).stdout

    assert skate.get([shell.remote(f"echo {i}") for i in range(10)], timeout=60) == [f"{i}\n" for i in range(10)]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler])
def test_handler_of_sigint_left_behind_by_a_task_does_not_touch_later_tasks(handler: object, one_cpu: None) -> None:
    @skate.remote(max_retries=0)
    def change() -> int:
        signal.signal(signal.SIGINT, handler)
        return os.getpid()

    changed = skate.get(change.remote(), timeout=60)
    assert skate.get([quick.remote(0) for _ in range(50)], timeout=60) == [0] * 50
    # a long call among short ones: those behind it are taken back from its worker
    assert skate.get([quick.remote(x) for x in (0, 0, 0.3, 0, 0)], timeout=60) == [0, 0, 0.3, 0, 0]
    late = quick.remote(30)
    time.sleep(0.3)
    skate.cancel(late)
    with pytest.raises(exceptions.TaskCancelledError):
        skate.get(late, timeout=60)
    assert isinstance(changed, int)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.default_int_handler])
def test_handler_of_sigint_changed_by_a_long_task_does_not_end_it(handler: object, one_cpu: None) -> None:
    @skate.remote(max_retries=0)
    def step(seconds: float) -> float:
        if seconds:
            signal.signal(signal.SIGINT, handler)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                time.sleep(0.01)
        return seconds

    assert skate.get([step.remote(0) for _ in range(50)], timeout=60) == [0] * 50
    assert skate.get([step.remote(x) for x in (0, 0, 0.4, 0, 0)], timeout=60) == [0, 0, 0.4, 0, 0]


def test_working_directory_left_by_a_task_may_vanish(session: None, tmp_path: os.PathLike[str]) -> None:
    @skate.remote
    def move() -> None:
        folder = os.path.join(tmp_path, str(os.getpid()))
        os.makedirs(folder, exist_ok=True)
        os.chdir(folder)
        os.rmdir(folder)

    skate.get([move.remote() for _ in range(4)], timeout=60)
    session_works()


def test_driver_whose_working_directory_is_gone_still_starts_workers(tmp_path: os.PathLike[str]) -> None:
    text = """
    import tempfile
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)
    ray.init(num_cpus=2)
    print(ray.get(ray.remote(lambda: 5).remote(), timeout=60))
    """
    assert output_of(text).strip() == "5"


def test_task_that_closes_its_output_leaves_printing_to_the_next(one_cpu: None) -> None:
    @skate.remote(max_retries=0)
    def close() -> None:
        sys.stdout.close()
        sys.stderr.close()

    @skate.remote(max_retries=0)
    def speak() -> None:
        print("hello")
        print("hello", file=sys.stderr)

    skate.get(close.remote(), timeout=60)
    skate.get(speak.remote(), timeout=60)


def test_actor_that_closed_its_output_still_leaves_in_order(session: None) -> None:
    @skate.remote
    class Mute:
        def close(self) -> None:
            sys.stdout.close()
            os.close(1)
            os.close(2)

        def leave(self) -> None:
            skate.actor.exit_actor()

    mute = Mute.remote()
    skate.get(mute.close.remote(), timeout=60)
    with pytest.raises(exceptions.ActorDiedError):
        skate.get(mute.leave.remote(), timeout=60)
    session_works()


def test_threads_that_outlive_their_task_do_not_disturb(one_cpu: None) -> None:
    @skate.remote
    def leave_threads() -> int:
        def babble() -> None:
            while True:
                print("still here")
                skate.put(b"x" * 200_000)
                time.sleep(0.001)

        for _ in range(3):
            threading.Thread(target=babble, daemon=True).start()
        threading.Thread(target=time.sleep, args=[0.5]).start()
        return os.getpid()

    skate.get(leave_threads.remote(), timeout=60)
    for _ in range(5):
        session_works()
    skate.shutdown()


def test_task_that_raises_the_recursion_limit_and_recurses_is_one_error(session: None) -> None:
    @skate.remote(max_retries=0)
    def recurse() -> None:
        def down(depth: int) -> int:
            return down(depth + 1) + 1

        down(0)

    with pytest.raises(RecursionError):
        skate.get(recurse.remote(), timeout=60)
    session_works()


def test_memory_error_in_a_task_is_that_tasks_error(session: None) -> None:
    @skate.remote(max_retries=0)
    def greedy() -> int:
        return len(bytearray(1 << 50))

    with pytest.raises(MemoryError):
        skate.get(greedy.remote(), timeout=60)
    session_works()


def test_task_killed_by_its_own_resource_limit_is_one_error(session: None) -> None:
    import resource

    @skate.remote(max_retries=0)
    def burn() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        while True:
            pass

    with pytest.raises(exceptions.WorkerCrashedError, match="SIG(XCPU|KILL)"):
        skate.get(burn.remote(), timeout=60)
    session_works()


def test_stopped_worker_is_ended_by_shutdown() -> None:
    skate.init(engine="local", num_cpus=1)

    @skate.remote
    def stop() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    stop.remote()
    time.sleep(0.3)
    begun = time.monotonic()
    skate.shutdown()
    assert time.monotonic() - begun < 30


def test_garbage_on_the_link_costs_only_the_worker(session: None) -> None:
    @skate.remote(max_retries=0)
    def babble(data: bytes) -> str:
        for entry in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{entry}")
                if target.startswith("pipe:") and int(entry) > 2:
                    os.write(int(entry), data)
            except OSError:
                continue
        time.sleep(0.2)
        return "wrote"

    for data in (b"\xff" * 400, b"\x05\0\0\0hello", b"\x02\0\0\0\x91\x07", b"\0\0\0\0" * 3):
        with pytest.raises(exceptions.WorkerCrashedError):
            skate.get(babble.remote(data), timeout=60)
        session_works()
    assert eventually(lambda: skate.available_resources()["CPU"] == 2)
