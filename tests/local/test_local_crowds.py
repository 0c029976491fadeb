"""Many at once: references, arguments, results, actors, callers."""

from __future__ import annotations

import os
import resource
import time

import pytest
from programs import output_of

import skate
from skate import exceptions


@skate.remote
def echo(value: object) -> object:
    return value


@skate.remote
def total(*values: int) -> int:
    return sum(values)


@skate.remote
class Log:
    def __init__(self) -> None:
        self.entries: list[tuple[int, int]] = []

    def write(self, caller: int, number: int) -> None:
        self.entries.append((caller, number))

    def read(self) -> list[tuple[int, int]]:
        return self.entries


@skate.remote
class Cell:
    def get(self) -> int:
        return os.getpid()


def test_get_of_ten_thousand_references(session: None) -> None:
    refs = [echo.remote(i) for i in range(10_000)]
    assert skate.get(refs, timeout=60) == list(range(10_000))
    assert skate.get(refs[::-1], timeout=60) == list(range(9_999, -1, -1))


def test_get_of_ten_thousand_references_inside_a_task(session: None) -> None:
    @skate.remote
    def gather(box: list[skate.ObjectRef]) -> int:
        return sum(skate.get(box))

    refs = [skate.put(i) for i in range(10_000)]
    assert skate.get(gather.remote(refs), timeout=60) == sum(range(10_000))


def test_task_with_ten_thousand_references_as_arguments(session: None) -> None:
    refs = [echo.remote(i) for i in range(10_000)]
    assert skate.get(total.remote(*refs), timeout=60) == sum(range(10_000))


def test_task_with_three_thousand_results(session: None) -> None:
    @skate.remote(num_returns=3000)
    def spread() -> list[int]:
        return list(range(3000))

    refs = spread.remote()
    assert len(refs) == 3000
    assert skate.get(refs, timeout=60) == list(range(3000))

    @skate.remote(num_returns=3000, max_retries=0)
    def broken() -> list[int]:
        raise ValueError("none of them")

    for ref in broken.remote()[::500]:
        with pytest.raises(ValueError, match="none of them"):
            skate.get(ref, timeout=60)


def test_wait_loop_over_two_thousand_tasks_takes_each_once(session: None) -> None:
    refs, found = [echo.remote(i) for i in range(2000)], []
    while refs:
        ready, refs = skate.wait(refs, num_returns=min(10, len(refs)), timeout=60)
        found += skate.get(ready)
    assert sorted(found) == list(range(2000))


def test_cancel_of_a_thousand_queued_tasks_is_quick(session: None) -> None:
    @skate.remote
    def sleeper() -> None:
        time.sleep(60)

    waiting = [sleeper.remote() for _ in range(20_000)]
    begun = time.monotonic()
    for ref in waiting[2:1002]:
        skate.cancel(ref)
    for ref in waiting[2:1002]:
        with pytest.raises(exceptions.TaskCancelledError):
            skate.get(ref, timeout=60)
    assert time.monotonic() - begun < 30


def test_calls_of_each_caller_keep_their_order_under_load(session: None) -> None:
    @skate.remote(num_cpus=0)
    def caller(log: object, number: int) -> None:
        for i in range(1000):
            log.write.remote(number, i)
        skate.get(log.write.remote(number, 1000))

    log = Log.remote()
    callers = [caller.remote(log, number) for number in (1, 2, 3)]
    for i in range(1000):
        log.write.remote(0, i)
    skate.get(callers, timeout=150)
    entries = skate.get(log.read.remote(), timeout=60)
    for number in (0, 1, 2, 3):
        mine = [i for caller_number, i in entries if caller_number == number]
        assert mine == list(range(1001 if number else 1000)), number


@pytest.mark.slow
def test_hundred_named_actors_asked_for_by_twenty_tasks_at_once_are_a_hundred(session: None) -> None:
    @skate.remote(num_cpus=0)
    def ask(shift: int) -> dict[str, int]:
        found = {}
        for i in range(100):
            name = f"cell {(i + shift * 5) % 100}"
            cell = Cell.options(name=name, get_if_exists=True, lifetime="detached", num_cpus=0).remote()
            found[name] = skate.get(cell.get.remote())
        return found

    answers = skate.get([ask.remote(i) for i in range(20)], timeout=150)
    assert all(answer == answers[0] for answer in answers)
    assert len(set(answers[0].values())) == 100


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_thousand_actors_answer() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 6000:
        pytest.skip(f"each actor takes a few descriptors, and only {hard} may be open here")
    text = """
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 6000), hard))

    @ray.remote(num_cpus=0)
    class Cell:
        def get(self, value):
            return value

    ray.init(num_cpus=2)
    cells = [Cell.remote() for _ in range(1000)]
    print(sum(ray.get([cell.get.remote(i) for i, cell in enumerate(cells)], timeout=100)))
    """
    assert output_of(text, timeout=110).strip() == str(sum(range(1000)))


def test_too_few_descriptors_are_an_error_that_says_so_and_the_session_goes_on() -> None:
    text = """
    import resource
    ray.init(num_cpus=2)

    @ray.remote
    def echo(value):
        return value

    @ray.remote(num_cpus=0)
    class Cell:
        def get(self):
            return 1

    assert ray.get(echo.remote(1)) == 1
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    cells, problem = [], None
    try:
        for _ in range(60):
            cells.append(Cell.remote())
        ray.get([cell.get.remote() for cell in cells], timeout=60)
    except Exception as error:
        problem = error
    print(type(problem).__name__, problem)
    del cells
    problem = None
    gc.collect()
    deadline = time.monotonic() + 60
    while True:
        try:
            print("still works:", ray.get(echo.remote(5), timeout=60))
            break
        except Exception as error:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    """
    said = output_of(text, timeout=150).splitlines()
    assert "descriptor" in said[0] or "open files" in said[0], said
    assert said[-1] == "still works: 5"


def test_process_that_forgot_its_handles_has_no_actors_left(session: None) -> None:
    import psutil

    for _ in range(3):
        cells = [Cell.remote() for _ in range(10)]
        processes = [psutil.Process(pid) for pid in skate.get([cell.get.remote() for cell in cells], timeout=60)]
        del cells
        assert psutil.wait_procs(processes, timeout=60)[1] == []
