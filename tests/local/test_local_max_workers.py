"""`init(max_workers=...)`: never more worker processes than that, and no wait without end for want of them."""

from __future__ import annotations

import os
import threading
import time

import psutil
import pytest

import skate
from skate.engines.local import limit
from skate.exceptions import ActorUnschedulableError, DeadlockError, TaskUnschedulableError


@pytest.fixture
def start(monkeypatch):
    """Start a session with so many workers at most, and watch that there never are more."""
    monkeypatch.setattr(limit, "STILL", 0.3)
    most = 0
    counts: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.002):
            # The zygote has the workers for children.
            children = [child for zygote in psutil.Process().children() for child in _children(zygote)]
            counts.append(len(children))

    watcher = threading.Thread(target=look)

    def started(max_workers: int, **arguments: object) -> None:
        nonlocal most
        most = max_workers
        options = {"num_cpus": 4, "max_workers": max_workers, "log_to_driver": False, **arguments}
        skate.init(engine="local", **options)
        watcher.start()

    yield started
    over.set()
    if watcher.is_alive():
        watcher.join()
    skate.shutdown()
    assert max(counts, default=0) <= most


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.NoSuchProcess:
        return []


@skate.remote
def double(x: int) -> int:
    time.sleep(0.01)
    return 2 * x


@skate.remote
def pid() -> int:
    return os.getpid()


@skate.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


@skate.remote
def outer(x: int) -> int:
    return skate.get(double.remote(x))


def test_many_tasks_share_few_workers(start):
    start(2)
    assert skate.get([double.remote(x) for x in range(60)]) == [2 * x for x in range(60)]


def test_blocked_tasks_count(start):
    start(3, num_cpus=2)
    assert skate.get([outer.remote(x) for x in range(2)], timeout=60) == [0, 2]


def test_calls_made_inside_calls_go_first_so_that_many_parents_need_few_processes(start):
    start(4, num_cpus=2)
    assert skate.get([outer.remote(x) for x in range(60)], timeout=60) == [2 * x for x in range(60)]


def test_idle_workers_of_other_environments_make_room(start):
    start(1)
    environments = [{"env_vars": {"WHICH": str(number)}} for number in range(4)]
    pids = {skate.get(pid.options(runtime_env=environment).remote(), timeout=60) for environment in environments * 2}
    assert len(pids) >= 4
    many = [pid.options(runtime_env=environments[x % 4]).remote() for x in range(40)]
    assert len(skate.get(many, timeout=60)) == 40


def test_idle_workers_of_other_nodes_make_room(start):
    start(1, num_cpus=None, nodes=[{"num_cpus": 1}, {"num_cpus": 1, "resources": {"b": 1}}])
    here, there = pid.remote(), pid.options(resources={"b": 1}).remote()
    assert len(set(skate.get([here, there], timeout=60))) == 2
    spread = [pid.options(scheduling_strategy="SPREAD").remote() for _ in range(10)]
    assert len(skate.get(spread, timeout=60)) == 10


def test_an_actor_that_ends_makes_room(start):
    start(1)
    for _ in range(3):
        counter = Counter.remote()
        assert skate.get(counter.add.remote(), timeout=60) == 1
        waiting = double.remote(3)
        del counter
        assert skate.get(waiting, timeout=60) == 6


def test_a_task_behind_idle_actors_is_told(start):
    start(2)
    counters = [Counter.remote() for _ in range(2)]
    assert skate.get([counter.add.remote() for counter in counters]) == [1, 1]
    with pytest.raises(TaskUnschedulableError, match=r"max_workers=2.*Counter\(.*Counter\("):
        skate.get(double.remote(1))
    assert skate.get(counters[0].add.remote()) == 2
    del counters
    assert skate.get(double.remote(1), timeout=60) == 2


def test_an_actor_too_many_is_told(start):
    start(2)
    counters = [Counter.remote() for _ in range(3)]
    with pytest.raises(ActorUnschedulableError, match="max_workers=2"):
        skate.get([counter.add.remote() for counter in counters])
    assert skate.get([counter.add.remote() for counter in counters[:2]]) == [2, 2]


def test_actors_that_are_busy_are_waited_for(start):
    start(1)

    @skate.remote
    class Brief:
        def end(self) -> None:
            time.sleep(1.5)  # longer than a session must be still to be taken for stuck
            skate.actor.exit_actor()

    brief = Brief.remote()
    ending = brief.end.remote()
    assert skate.get(double.remote(4), timeout=60) == 8
    with pytest.raises(skate.exceptions.RayActorError):
        skate.get(ending)


def test_a_wait_with_a_timeout_is_left_alone(start):
    start(1)
    counter = Counter.remote()
    assert skate.get(counter.add.remote()) == 1
    waiting = double.remote(1)
    with pytest.raises(skate.exceptions.GetTimeoutError):
        skate.get(waiting, timeout=1.2)
    del counter
    assert skate.get(waiting, timeout=60) == 2


def test_a_task_that_holds_the_last_process_its_child_needs_is_told(start):
    start(1)
    with pytest.raises(DeadlockError, match=r"a worker process \(max_workers=1\), which is held by"):
        skate.get(outer.remote(1))
    assert skate.get(double.remote(1), timeout=60) == 2


def test_one_of_several_that_wait_for_children_is_told_and_the_others_go_on(start, tmp_path):
    start(3, num_cpus=3)

    @skate.remote
    def patient(x: int) -> int:
        (tmp_path / str(x)).touch()
        while len(list(tmp_path.iterdir())) < 3:
            time.sleep(0.01)
        return skate.get(double.remote(x))

    refs = [patient.remote(x) for x in range(3)]
    ready, _ = skate.wait(refs, num_returns=3, timeout=60)
    assert len(ready) == 3
    outcomes = [_outcome(ref) for ref in refs]
    assert outcomes.count("told") == 1
    assert [outcome for outcome in outcomes if outcome != "told"] == [
        2 * x for x, outcome in enumerate(outcomes) if outcome != "told"
    ]


def _outcome(ref: skate.ObjectRef[int]) -> object:
    try:
        return skate.get(ref)
    except DeadlockError:
        return "told"


def test_an_actor_that_waits_for_a_task_while_actors_hold_all_is_told(start):
    start(2)

    @skate.remote
    class Boss:
        def ask(self) -> int:
            return skate.get(double.remote(1))

    idle, boss = Counter.remote(), Boss.remote()
    assert skate.get(idle.add.remote()) == 1
    with pytest.raises(DeadlockError, match="max_workers=2"):
        skate.get(boss.ask.remote())


def test_workers_that_die_are_replaced(start):
    start(1)

    @skate.remote(max_retries=3)
    def dies_once(path: str) -> str:
        if not os.path.exists(path):
            open(path, "w").close()
            os._exit(1)
        return "alive"

    path = f"/tmp/skate-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        assert skate.get(dies_once.remote(path), timeout=60) == "alive"
    finally:
        os.unlink(path)


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_wrong_numbers_are_refused(wrong, error):
    with pytest.raises(error, match="max_workers"):
        skate.init(engine="local", max_workers=wrong)
    assert not skate.is_initialized()


def test_the_environment_variable_counts(monkeypatch):
    monkeypatch.setenv("SKATE_MAX_WORKERS", "many")
    with pytest.raises(ValueError, match="SKATE_MAX_WORKERS=many"):
        skate.init(engine="local")
    monkeypatch.setenv("SKATE_MAX_WORKERS", "1")
    skate.init(engine="local", num_cpus=2, log_to_driver=False)
    try:
        with pytest.raises(DeadlockError, match="max_workers=1"):
            skate.get(outer.remote(1))
    finally:
        skate.shutdown()
