"""Workers that die, and what is tried again."""

import ctypes
import os
import signal
import sys

import pytest

from skate.testing.contract import ends_a_process
from skate.testing.contract.tools import raised

WAYS_TO_DIE = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "segfault": lambda: ctypes.string_at(0),
    "exit code 0": lambda: os._exit(0),
    "sys.exit()": lambda: sys.exit(),
    "abort": lambda: os.abort(),
}


@pytest.mark.parametrize(
    "way", [w if w == "sys.exit()" else pytest.param(w, marks=ends_a_process) for w in WAYS_TO_DIE]
)
def test_death_of_the_worker_is_one_clear_error(ray, way):
    die = WAYS_TO_DIE[way]

    @ray.remote(max_retries=0)
    def f():
        die()

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(f.remote(), timeout=150)


@ends_a_process
def test_other_tasks_go_on_after_a_death(ray):
    @ray.remote(max_retries=0)
    def die():
        os._exit(1)

    @ray.remote
    def ok(i):
        return i

    refs = [ok.remote(1), die.remote(), ok.remote(2)]
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(refs[1])
    assert ray.get([refs[0], refs[2], ok.remote(3)]) == [1, 2, 3]


@ends_a_process
def test_task_that_dies_once_is_tried_again_by_default(ray, tally):
    @ray.remote
    def f():
        tally.add()
        if tally.count() < 2:
            os._exit(1)
        return "second time"

    assert ray.get(f.remote()) == "second time"
    assert tally.count() == 2


@ends_a_process
def test_three_retries_by_default(ray, tally):
    @ray.remote
    def f():
        tally.add()
        os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(f.remote())
    assert tally.count() == 4


@ends_a_process
def test_retries_without_limit(ray, tally):
    @ray.remote(max_retries=-1)
    def f():
        tally.add()
        if tally.count() < 6:
            os._exit(1)
        return "sixth time"

    assert ray.get(f.remote()) == "sixth time"


@ends_a_process
def test_number_of_retries_can_be_set_per_call(ray, tally):
    @ray.remote
    def f():
        tally.add()
        os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(f.options(max_retries=1).remote())
    assert tally.count() == 2


def test_exceptions_are_not_retried_by_default(ray, tally):
    @ray.remote
    def f():
        tally.add()
        raise ValueError

    with pytest.raises(ValueError):
        ray.get(f.remote())
    assert tally.count() == 1


def test_listed_exception_is_retried(ray, tally):
    @ray.remote(max_retries=3, retry_exceptions=[ValueError])
    def f():
        tally.add()
        if tally.count() < 3:
            raise ValueError("not yet")
        return "third time"

    assert ray.get(f.remote()) == "third time"
    assert tally.count() == 3


def test_exception_that_is_not_listed_is_not_retried(ray, tally):
    @ray.remote(max_retries=3, retry_exceptions=[KeyError])
    def f():
        tally.add()
        raise ValueError("at once")

    with pytest.raises(ValueError):
        ray.get(f.remote())
    assert tally.count() == 1


def test_listed_parent_class_covers_its_children(ray, tally):
    @ray.remote(max_retries=1, retry_exceptions=[LookupError])
    def f():
        tally.add()
        raise KeyError("child")

    with pytest.raises(KeyError):
        ray.get(f.remote())
    assert tally.count() == 2


def test_retried_exception_that_stops_gives_the_value(ray, tally):
    @ray.remote(retry_exceptions=True)
    def f():
        tally.add()
        if tally.count() < 4:
            raise RuntimeError("not yet")
        return "fourth time"

    assert ray.get(f.remote()) == "fourth time"


def test_default_limit_holds_for_exceptions_too(ray, tally):
    @ray.remote(retry_exceptions=True)
    def f():
        tally.add()
        raise RuntimeError("never")

    with pytest.raises(RuntimeError):
        ray.get(f.remote())
    assert tally.count() == 4


@ends_a_process
def test_dependant_task_runs_after_a_retried_one(ray, tally):
    @ray.remote
    def once_dying():
        tally.add()
        if tally.count() < 2:
            os._exit(1)
        return 20

    @ray.remote
    def plus_one(x):
        return x + 1

    assert ray.get(plus_one.remote(once_dying.remote())) == 21


@ends_a_process
def test_crash_of_a_dependency_is_the_error_of_the_dependant(ray):
    @ray.remote(max_retries=0)
    def die():
        os._exit(1)

    @ray.remote
    def use(x):
        return x

    with pytest.raises(ray.exceptions.RayError):
        ray.get(use.remote(die.remote()))


@ends_a_process
def test_crash_of_a_child_can_be_handled_by_its_parent(ray):
    @ray.remote(max_retries=0)
    def die():
        os._exit(1)

    @ray.remote
    def parent():
        try:
            ray.get(die.remote())
        except ray.exceptions.WorkerCrashedError:
            return "handled"

    assert ray.get(parent.remote()) == "handled"


@ends_a_process
def test_error_of_a_crash_is_no_task_error(ray):
    @ray.remote(max_retries=0)
    def die():
        os._exit(1)

    error = raised(lambda: ray.get(die.remote()))
    assert not isinstance(error, ray.exceptions.RayTaskError)


@ends_a_process
def test_object_put_by_a_worker_that_died_later_is_lost_or_there_but_never_hangs(ray):
    @ray.remote(max_retries=0)
    def make():
        return [ray.put("kept?")], os.getpid()

    (ref,), pid = ray.get(make.remote())
    os.kill(pid, signal.SIGKILL)
    error = raised(lambda: ray.get(ref, timeout=60))
    assert error is None or isinstance(error, ray.exceptions.ObjectLostError)
