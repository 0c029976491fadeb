"""Mistakes are met at the line that makes them, with an error that says what to do."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

import skate
from skate import exceptions


@skate.remote
def echo(value: object = None) -> object:
    return value


@skate.remote
def until(path: Path) -> str:
    while not path.exists():
        time.sleep(0.01)
    return "gone"


@skate.remote
class Cell:
    def get(self) -> int:
        return 1


class Holder:
    """Something whose innards cannot be pickled."""

    def __init__(self) -> None:
        self.config = {"guard": threading.Lock()}


@skate.remote
def make_holder() -> Holder:
    return Holder()


@pytest.mark.parametrize("call", [lambda: echo.options(num_cpu=1), lambda: skate.remote(num_cpu=1)(lambda: 1)])
def test_unknown_option_is_named_beside_the_valid_ones(call, session: None) -> None:
    with pytest.raises(ValueError, match=r"num_cpu\b.*num_cpus"):
        call()


@pytest.mark.parametrize(
    "options", [{"num_cpus": "two"}, {"max_retries": 1.5}, {"resources": [1]}, {"num_returns": -3}]
)
def test_option_of_the_wrong_type_is_refused_at_once(options: dict[str, object], session: None) -> None:
    (name,) = options
    with pytest.raises((TypeError, ValueError), match=name):
        echo.options(**options)


def test_remote_function_called_directly_says_how_to_call_it(session: None) -> None:
    with pytest.raises(TypeError, match=r"\.remote\("):
        echo(1)


@pytest.mark.parametrize(
    "send",
    [lambda value: echo.remote(value), lambda value: echo.remote([{"a": value}]), lambda value: skate.put(value)],
)
def test_unpicklable_argument_names_the_path_to_the_culprit(send, session: None) -> None:
    with pytest.raises(TypeError, match=r"\.config -> \['guard'\]"):
        send(Holder())


def test_unpicklable_result_names_the_path_to_the_culprit(session: None) -> None:
    with pytest.raises(TypeError, match=r"\.config -> \['guard'\]"):
        skate.get(make_holder.remote(), timeout=60)
    assert skate.get(echo.remote(1), timeout=60) == 1


@pytest.mark.parametrize(
    ("wrong", "kind"), [(17, ValueError), ([17], TypeError), ("abc", ValueError), (None, ValueError)]
)
def test_get_of_what_is_no_reference_is_refused(wrong: object, kind: type[Exception], session: None) -> None:
    with pytest.raises(kind, match="ObjectRef|references"):
        skate.get(wrong)


def test_get_timeout_is_kept_and_the_object_still_arrives(session: None, tmp_path: Path) -> None:
    ref = until.remote(tmp_path / "go")
    begun = time.monotonic()
    with pytest.raises(exceptions.GetTimeoutError):
        skate.get(ref, timeout=0.1)
    assert 0.1 <= time.monotonic() - begun < 30
    (tmp_path / "go").touch()
    assert skate.get(ref, timeout=60) == "gone"


def test_infeasible_task_is_reported_at_once_with_what_is_asked_and_what_exists(
    session: None, capfd: pytest.CaptureFixture[str]
) -> None:
    ref = echo.options(num_cpus=64, resources={"telescope": 2}).remote(1)
    said = capfd.readouterr().err
    assert re.search(r"echo.*CPU: 64.*telescope: 2.*there is.*CPU: 2\b", said, re.DOTALL), said
    with pytest.raises(exceptions.TaskUnschedulableError, match="telescope"):
        skate.get(ref)


def test_infeasible_task_is_pending_for_those_who_give_a_time(session: None) -> None:
    ref = echo.options(num_cpus=64).remote(1)
    with pytest.raises(exceptions.GetTimeoutError):
        skate.get(ref, timeout=0.2)
    assert skate.wait([ref], timeout=0.2) == ([], [ref])
    skate.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        skate.get(ref, timeout=60)


def test_infeasible_actor_is_reported_to_whoever_waits_for_its_call(
    session: None, capfd: pytest.CaptureFixture[str]
) -> None:
    actor = Cell.options(num_cpus=64).remote()
    assert "CPU: 64" in capfd.readouterr().err
    ref = actor.get.remote()
    assert skate.wait([ref], timeout=0.2) == ([], [ref])
    with pytest.raises(exceptions.GetTimeoutError):
        skate.get(ref, timeout=0.2)
    with pytest.raises(exceptions.ActorUnschedulableError, match="CPU: 64"):
        skate.get(ref)


def test_infeasible_call_inside_a_task_is_an_error_there_and_its_cpu_stays_usable(one_cpu: None) -> None:
    @skate.remote
    def outer() -> str:
        try:
            skate.get(echo.options(num_cpus=64).remote())
        except exceptions.TaskUnschedulableError as error:
            return str(error)
        return "nothing"

    assert "CPU: 64" in skate.get(outer.remote(), timeout=60)
    assert skate.get([echo.remote(i) for i in range(4)], timeout=60) == [0, 1, 2, 3]


def test_feasible_work_goes_on_beside_infeasible_work(session: None) -> None:
    stuck = [echo.options(num_cpus=64).remote(i) for i in range(10)]
    assert skate.get([echo.remote(i) for i in range(100)], timeout=60) == list(range(100))
    assert skate.wait(stuck, num_returns=10, timeout=0) == ([], stuck)


def test_every_use_after_shutdown_is_a_clear_error_or_a_new_session() -> None:
    skate.init(engine="local", num_cpus=1)
    actor, ref = Cell.remote(), echo.remote(1)
    assert skate.get(ref) == 1
    skate.shutdown()
    skate.shutdown()
    skate.init(engine="local", num_cpus=1)
    with pytest.raises(exceptions.RayActorError):
        skate.get(actor.get.remote(), timeout=60)
    with pytest.raises(exceptions.ObjectLostError):
        skate.get(ref, timeout=60)
    with pytest.raises(exceptions.ObjectLostError):
        skate.get(echo.remote(ref), timeout=60)
    assert skate.get(echo.remote(2), timeout=60) == 2


def test_second_init_is_refused_and_the_first_session_goes_on(session: None) -> None:
    ref = echo.remote(1)
    with pytest.raises(RuntimeError, match="ignore_reinit_error"):
        skate.init(num_cpus=1)
    assert skate.get(ref, timeout=60) == 1


def test_handle_of_a_dead_actor_fails_each_call_and_does_not_hang(session: None) -> None:
    actor = Cell.remote()
    skate.get(actor.get.remote(), timeout=60)
    skate.kill(actor)
    for _ in range(3):
        with pytest.raises(exceptions.ActorDiedError, match=r"kill"):
            skate.get(actor.get.remote(), timeout=60)
    with pytest.raises(exceptions.ActorDiedError):
        skate.get(skate.remote(lambda handle: skate.get(handle.get.remote())).remote(actor), timeout=60)
