"""Deep: nested tasks, chains of dependencies, values inside values; nothing deadlocks, overflows or starves."""

from __future__ import annotations

import gc
import time

import pytest
from programs import eventually

import skate
from skate import exceptions
from skate.core import engine as engines


@skate.remote
def echo(value: object, *rest: object) -> object:
    return value


@skate.remote
def sleeper(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@skate.remote
def fail_late(seconds: float) -> None:
    time.sleep(seconds)
    raise ValueError("the first of the chain")


@skate.remote
def nest(depth: int) -> int:
    return skate.get(nest.remote(depth - 1)) + 1 if depth else 0


@skate.remote
def get_first(box: list[skate.ObjectRef]) -> object:
    return skate.get(box[0])


@skate.remote
class Cell:
    def echo(self, value: object) -> object:
        return value

    def wait_for_later(self, box: list[object]) -> str:
        try:
            skate.get(box[0].echo.remote(1), timeout=0.3)
        except exceptions.GetTimeoutError:
            return "timed out"
        return "answered"


def free_cpus() -> float:
    return skate.available_resources().get("CPU", 0)


def rows() -> int:
    gc.collect()
    skate.available_resources()
    return len(engines.current().hub.rows)


@pytest.mark.parametrize("depth", [30, pytest.param(100, marks=pytest.mark.slow)])
def test_nested_tasks_need_one_cpu_however_deep(depth: int, one_cpu: None) -> None:
    assert skate.get(nest.remote(depth), timeout=150) == depth
    assert eventually(lambda: free_cpus() == 1)


@pytest.mark.slow
def test_two_hundred_tasks_that_each_wait_for_a_child(session: None) -> None:
    @skate.remote
    def parent(i: int) -> int:
        return skate.get(echo.remote(i))

    assert skate.get([parent.remote(i) for i in range(200)], timeout=150) == list(range(200))
    assert eventually(lambda: free_cpus() == 2)


def test_wait_inside_tasks_gives_the_cpu_to_what_is_waited_for(one_cpu: None) -> None:
    @skate.remote
    def parent() -> list[int]:
        refs, found = [echo.remote(i) for i in range(5)], []
        while refs:
            ready, refs = skate.wait(refs, timeout=60)
            found += skate.get(ready)
        return sorted(found)

    assert skate.get([parent.remote() for _ in range(3)], timeout=150) == [list(range(5))] * 3


def test_actor_that_waits_for_its_own_next_call_times_out_and_goes_on(session: None) -> None:
    cell = Cell.remote()
    assert skate.get(cell.wait_for_later.remote([cell]), timeout=60) == "timed out"
    assert skate.get(cell.echo.remote(2), timeout=60) == 2


@pytest.mark.parametrize("recursive", [True, False])
def test_cancelled_waiter_gives_its_cpu_back_for_good(recursive: bool, session: None) -> None:
    endless = sleeper.remote(60)
    for _ in range(5):
        waiter = get_first.remote([endless])
        time.sleep(0.1)
        skate.cancel(waiter, recursive=recursive)
        with pytest.raises(exceptions.TaskCancelledError):
            skate.get(waiter, timeout=60)
        assert skate.get([echo.remote(i) for i in range(8)], timeout=60) == list(range(8))
    assert eventually(lambda: free_cpus() == 1)
    skate.cancel(endless)
    assert eventually(lambda: free_cpus() == 2)


def test_cancel_of_a_deep_nest_ends_all_of_it(one_cpu: None) -> None:
    @skate.remote
    def down(depth: int) -> object:
        return skate.get(down.remote(depth - 1) if depth else sleeper.remote(60))

    top = down.remote(10)
    time.sleep(1.0)
    skate.cancel(top)
    with pytest.raises(exceptions.TaskCancelledError):
        skate.get(top, timeout=60)
    del top
    assert eventually(lambda: free_cpus() == 1 and rows() == 0), (free_cpus(), rows())


def test_chain_of_five_thousand_dependencies_runs(session: None) -> None:
    ref = echo.remote(7)
    for _ in range(5000):
        ref = echo.remote(ref)
    assert skate.get(ref, timeout=150) == 7
    del ref
    assert eventually(lambda: rows() == 0)


@pytest.mark.parametrize("through", ["tasks", "an actor"])
def test_failure_passes_down_a_chain_of_five_thousand(through: str, session: None) -> None:
    cell = Cell.remote()
    step = echo if through == "tasks" else cell.echo
    ref = fail_late.remote(0.5)
    for _ in range(5000):
        ref = step.remote(ref)
    with pytest.raises(ValueError, match="the first of the chain"):
        skate.get(ref, timeout=60)
    assert skate.get(step.remote(1), timeout=60) == 1


def test_cancel_passes_down_a_long_chain(session: None) -> None:
    first = ref = sleeper.remote(60)
    for _ in range(3000):
        ref = echo.remote(ref)
    skate.cancel(first)
    with pytest.raises(exceptions.TaskCancelledError):
        skate.get(ref, timeout=60)


def test_dead_actor_fails_a_long_chain_behind_it(session: None) -> None:
    cell = Cell.remote()
    first = ref = cell.echo.remote(sleeper.remote(60))
    for _ in range(3000):
        ref = echo.remote(ref)
    skate.kill(cell)
    with pytest.raises(exceptions.ActorDiedError):
        skate.get(ref, timeout=60)
    assert first is not None


def test_references_within_references_five_thousand_deep_are_freed(session: None) -> None:
    ref = skate.put(0)
    for _ in range(5000):
        ref = skate.put([ref])
    assert skate.get(echo.remote(1), timeout=60) == 1
    del ref
    assert eventually(lambda: rows() == 0)
    assert skate.get(echo.remote(1), timeout=60) == 1


def test_many_failing_inputs_are_one_failure(session: None) -> None:
    refs = [fail_late.remote(0.01) for _ in range(20)]
    for _ in range(5):
        with pytest.raises(ValueError, match="first of the chain"):
            skate.get(echo.remote(0, *refs), timeout=60)


def test_polls_of_a_task_leave_nothing_in_the_engine(session: None) -> None:
    @skate.remote
    def poll(box: list[skate.ObjectRef]) -> None:
        for _ in range(300):
            skate.wait(box, timeout=0.0005)
            skate.get(skate.put(1), timeout=3600)
            skate.get(echo.options(num_cpus=0).remote(1), timeout=3600)

    engine = engines.current()
    endless = sleeper.options(num_cpus=0).remote(60)
    timers = len(engine.hub.timers)
    skate.get(poll.remote([endless]), timeout=60)
    assert len(engine.rows[endless._key].waiters or ()) < 10
    assert len(engine.hub.timers) < timers + 70


def test_polls_of_the_driver_leave_nothing_in_the_engine(session: None) -> None:
    engine = engines.current()
    endless = sleeper.remote(60)
    for _ in range(300):
        assert skate.wait([endless], timeout=0.0005) == ([], [endless])
        with pytest.raises(exceptions.GetTimeoutError):
            skate.get(endless, timeout=0)
    assert len(engine.rows[endless._key].waiters or ()) == 0
    assert len(engine.hub.timers) < 70


@pytest.mark.parametrize("actors", [0, 1, 2])
def test_short_call_never_waits_behind_a_long_one_while_a_cpu_is_free(actors: int, session: None) -> None:
    assert skate.get(echo.remote(0), timeout=60) == 0  # known to be short by now, and one worker is up
    endless = sleeper.remote(60)
    time.sleep(0.3)
    cells = [Cell.remote() for _ in range(actors)]  # these take the idle workers
    assert skate.get([cell.echo.remote(1) for cell in cells], timeout=60) == [1] * actors
    begun = time.monotonic()
    for i in range(3):
        assert skate.get(echo.remote(i), timeout=60) == i
    assert time.monotonic() - begun < 30
    assert skate.wait([endless], timeout=0)[0] == []


def test_function_that_turns_long_does_not_hold_up_its_own_short_calls(session: None) -> None:
    @skate.remote
    def step(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    skate.get([step.remote(0) for _ in range(100)], timeout=60)
    endless = step.remote(60)
    begun = time.monotonic()
    assert skate.get([step.remote(0) for _ in range(50)], timeout=60) == [0] * 50
    assert time.monotonic() - begun < 30
    assert skate.wait([endless], timeout=0)[0] == []
