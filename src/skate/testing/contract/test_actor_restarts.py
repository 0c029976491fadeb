"""Actors that come back, and calls that are tried again."""

import os

import pytest

from skate.testing.contract import ends_a_process
from skate.testing.contract.tools import eventually, raised, until_no_error


@pytest.fixture
def mortal(ray):
    @ray.remote
    class Mortal:
        def __init__(self):
            self.n = 0

        def inc(self):
            self.n += 1
            return self.n

        def pid(self):
            return os.getpid()

        def die(self):
            os._exit(1)

    return Mortal


@ends_a_process
def test_restart_runs_the_constructor_again_with_its_arguments(ray, tally):
    @ray.remote(max_restarts=1)
    class A:
        def __init__(self, start, *, step):
            tally.add()
            self.n = start
            self.step = step

        def inc(self):
            self.n += self.step
            return self.n

        def die(self):
            os._exit(1)

    a = A.remote(ray.put(10), step=2)
    assert ray.get([a.inc.remote(), a.inc.remote()]) == [12, 14]
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(a.die.remote())
    assert until_no_error(lambda: ray.get(a.inc.remote()), ray.exceptions.RayActorError) == 12
    assert tally.count() == 2


@ends_a_process
def test_restarts_are_counted(ray, mortal):
    a = mortal.options(max_restarts=1).remote()
    ray.get(a.inc.remote())
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(a.die.remote())
    until_no_error(lambda: ray.get(a.inc.remote()), ray.exceptions.RayActorError)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(a.die.remote())
    assert eventually(lambda: isinstance(raised(lambda: ray.get(a.inc.remote())), ray.exceptions.ActorDiedError))


@ends_a_process
def test_call_is_tried_again_after_a_restart_with_max_task_retries(ray, tally):
    @ray.remote(max_restarts=2, max_task_retries=2)
    class A:
        def f(self):
            tally.add()
            if tally.count() < 3:
                os._exit(1)
            return "third time"

    assert ray.get(A.remote().f.remote(), timeout=150) == "third time"
    assert tally.count() == 3


@ends_a_process
def test_task_retries_are_counted(ray, tally):
    @ray.remote(max_restarts=-1, max_task_retries=1)
    class A:
        def f(self):
            tally.add()
            os._exit(1)

    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(A.remote().f.remote(), timeout=150)
    assert tally.count() == 2


def test_exceptions_of_methods_are_retried_when_asked_for(ray, tally):
    @ray.remote(max_task_retries=3)
    class A:
        @ray.method(retry_exceptions=[ValueError])
        def f(self):
            tally.add()
            if tally.count() < 3:
                raise ValueError("not yet")
            return "third time"

    assert ray.get(A.remote().f.remote()) == "third time"
    assert tally.count() == 3


def test_exceptions_of_methods_are_not_retried_by_default(ray, tally):
    @ray.remote(max_task_retries=3)
    class A:
        def f(self):
            tally.add()
            raise ValueError("once")

    with pytest.raises(ValueError):
        ray.get(A.remote().f.remote())
    assert tally.count() == 1


@ends_a_process
def test_method_can_set_its_own_retries(ray, tally):
    @ray.remote(max_restarts=-1)
    class A:
        @ray.method(max_task_retries=5)
        def f(self):
            tally.add()
            if tally.count() < 2:
                os._exit(1)
            return "second time"

    assert ray.get(A.remote().f.remote(), timeout=150) == "second time"
