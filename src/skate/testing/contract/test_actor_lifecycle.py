"""How actors begin, restart and end."""

import abc
import asyncio
import gc
import os
import signal
import sys
import time

import pytest

from skate.testing.contract import ends_a_process, needs_background
from skate.testing.contract.tools import eventually, raised, until_no_error


@pytest.fixture
def mortal(ray):
    """An actor class that can be asked to end in several ways."""

    @ray.remote
    class Mortal:
        def __init__(self):
            self.n = 0

        def pid(self):
            return os.getpid()

        def inc(self):
            self.n += 1
            return self.n

        def nap(self, seconds):
            time.sleep(seconds)
            return seconds

        def end(self, how):
            if how == "exit_actor":
                ray.actor.exit_actor()
            elif how == "os._exit":
                os._exit(1)
            elif how == "sys.exit":
                sys.exit(0)
            elif how == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)

    return Mortal


def _is_dead(ray, actor):
    return isinstance(raised(lambda: ray.get(actor.inc.remote(), timeout=60)), ray.exceptions.RayActorError)


def _process_is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    "how",
    [
        "exit_actor",
        "sys.exit",
        pytest.param("os._exit", marks=ends_a_process),
        pytest.param("SIGKILL", marks=ends_a_process),
    ],
)
def test_every_end_is_an_actor_died_error_for_the_call_and_later_ones(ray, mortal, how):
    a = mortal.remote()
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(a.end.remote(how))
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(a.inc.remote())


@needs_background
def test_kill_fails_running_and_queued_calls(ray, mortal):
    a = mortal.remote()
    ray.get(a.inc.remote())
    running, queued = a.nap.remote(20), a.inc.remote()
    time.sleep(0.3)
    ray.kill(a)
    for ref in (running, queued):
        with pytest.raises(ray.exceptions.ActorDiedError):
            ray.get(ref, timeout=60)


@ends_a_process
def test_kill_ends_the_process(ray, mortal):
    a = mortal.remote()
    pid = ray.get(a.pid.remote())
    ray.kill(a)
    assert eventually(lambda: _process_is_gone(pid))


def test_kill_twice_is_harmless(ray, mortal):
    a = mortal.remote()
    ray.get(a.inc.remote())
    ray.kill(a)
    ray.kill(a)
    assert eventually(lambda: _is_dead(ray, a))


@needs_background
def test_kill_of_an_actor_that_has_not_started_yet(ray):
    @ray.remote
    class Slow:
        def __init__(self):
            time.sleep(30)

        def f(self):
            return 1

    a = Slow.remote()
    ref = a.f.remote()
    ray.kill(a)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(ref, timeout=60)


@pytest.mark.parametrize("thing", [5, None, "name"])
def test_kill_of_something_else_raises_value_error(ray, thing):
    with pytest.raises(ValueError):
        ray.kill(thing)


def test_kill_of_a_ref_says_to_cancel(ray):
    with pytest.raises(ValueError, match="cancel"):
        ray.kill(ray.put(1))


def test_kill_overrides_restarts_by_default(ray, mortal):
    a = mortal.options(max_restarts=3).remote()
    ray.get(a.inc.remote())
    ray.kill(a)
    assert eventually(lambda: _is_dead(ray, a))
    time.sleep(0.3)
    assert _is_dead(ray, a)


def test_kill_that_allows_a_restart(ray, mortal):
    a = mortal.options(max_restarts=1).remote()
    assert ray.get([a.inc.remote() for _ in range(3)]) == [1, 2, 3]
    ray.kill(a, no_restart=False)

    def restarted():
        unavailable = ray.exceptions.RayActorError
        return until_no_error(lambda: ray.get(a.inc.remote()), unavailable) < 3

    assert eventually(restarted)


def test_failing_constructor_fails_every_call_with_its_text(ray):
    @ray.remote
    class A:
        def __init__(self):
            raise KeyError("no luck")

        def f(self):
            return 1

    a = A.remote()
    for call in (a.f, a.f, a.__ray_ready__):
        with pytest.raises(ray.exceptions.ActorDiedError) as info:
            ray.get(call.remote())
        assert "no luck" in str(info.value)


def test_failed_constructor_argument_fails_the_actor(ray):
    @ray.remote
    def bad():
        raise KeyError("bad argument")

    @ray.remote
    class A:
        def __init__(self, x):
            pass

        def f(self):
            return 1

    with pytest.raises(ray.exceptions.RayActorError) as info:
        ray.get(A.remote(bad.remote()).f.remote(), timeout=60)
    assert "bad argument" in str(info.value)


def test_constructor_failure_is_not_restarted(ray, tally):
    @ray.remote(max_restarts=3)
    class A:
        def __init__(self):
            tally.add()
            raise ValueError("always")

        def f(self):
            return 1

    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(A.remote().f.remote(), timeout=60)
    assert tally.count() == 1


@ends_a_process
def test_constructor_that_crashes_the_process(ray):
    @ray.remote
    class A:
        def __init__(self):
            os._exit(1)

        def f(self):
            return 1

    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(A.remote().f.remote(), timeout=60)


def test_constructor_waits_for_its_arguments(ray):
    @ray.remote
    def late():
        time.sleep(0.5)
        return "late"

    @ray.remote
    class A:
        def __init__(self, x):
            self.x = x

        def get(self):
            return self.x

    assert ray.get(A.remote(late.remote()).get.remote()) == "late"


@ends_a_process
def test_dropped_handle_ends_the_process(ray, mortal):
    a = mortal.remote()
    pid = ray.get(a.pid.remote())
    del a
    gc.collect()
    assert eventually(lambda: _process_is_gone(pid))


def test_calls_made_before_the_handle_is_dropped_still_run(ray, mortal):
    a = mortal.remote()
    refs = [a.inc.remote() for _ in range(5)]
    del a
    gc.collect()
    assert ray.get(refs) == [1, 2, 3, 4, 5]


def test_call_on_a_temporary_handle(ray, mortal):
    assert ray.get(mortal.remote().inc.remote()) == 1


def test_handle_inside_an_object_keeps_the_actor_alive(ray, mortal):
    a = mortal.remote()
    ray.get(a.inc.remote())
    box = ray.put([a])
    del a
    gc.collect()
    time.sleep(0.5)
    assert ray.get(ray.get(box)[0].inc.remote()) == 2


def test_method_reference_keeps_the_actor_alive(ray, mortal):
    inc = mortal.remote().inc
    gc.collect()
    time.sleep(0.3)
    assert ray.get(inc.remote()) == 1


def test_terminate_call_runs_after_the_queued_ones(ray, mortal):
    a = mortal.remote()
    refs = [a.inc.remote() for _ in range(3)]
    a.__ray_terminate__.remote()
    assert ray.get(refs) == [1, 2, 3]
    assert eventually(lambda: _is_dead(ray, a))


def test_results_outlive_the_actor(ray, mortal):
    a = mortal.remote()
    ref = a.inc.remote()
    ray.get(ref)
    ray.kill(a)
    assert eventually(lambda: _is_dead(ray, a))
    assert ray.get(ref) == 1


def test_exit_actor_outside_an_actor_raises_type_error(ray):
    with pytest.raises(TypeError):
        ray.actor.exit_actor()


@ends_a_process
def test_exit_handler_runs_when_the_actor_exits(ray, tally):
    @ray.remote
    class A:
        def __init__(self):
            import atexit

            atexit.register(lambda: tally.add())

        def leave(self):
            ray.actor.exit_actor()

    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(A.remote().leave.remote())
    assert eventually(lambda: tally.count() == 1)


@ends_a_process
def test_error_of_a_dead_actor_tells_class_and_id(ray, mortal):
    a = mortal.remote()
    actor_id = a._actor_id.hex()
    error = raised(lambda: ray.get(a.end.remote("os._exit")))
    assert "Mortal" in str(error) and actor_id in str(error)
    assert error.actor_id == actor_id


@ends_a_process
def test_exit_actor_holds_though_the_call_catches_what_it_raises(ray):
    @ray.remote
    class A:
        def leave(self):
            try:
                ray.actor.exit_actor()
            except BaseException:  # noqa: BLE001 what it raises is the engine's affair
                return "stayed"

        def f(self):
            return 1

    a = A.remote()
    for call in (a.leave, a.f):
        with pytest.raises(ray.exceptions.ActorDiedError):
            ray.get(call.remote(), timeout=60)


def test_constructor_may_be_a_coroutine(ray):
    @ray.remote
    class A:
        async def __init__(self, x):
            await asyncio.sleep(0.01)
            self.x = x

        async def get(self):
            return self.x

    assert ray.get(A.remote("awaited").get.remote()) == "awaited"


def test_abstract_class_cannot_be_an_actor(ray):
    class Abstract(abc.ABC):
        @abc.abstractmethod
        def f(self):
            """Not here."""

    with pytest.raises(TypeError):
        ray.remote(Abstract)


def test_no_limit_of_pending_calls_is_zero(ray):
    @ray.remote(max_pending_calls=0)
    class A:
        def f(self):
            return 1

    assert ray.get(A.remote().f.remote()) == 1
