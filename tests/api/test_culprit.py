"""The error names the part that cannot be pickled."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

import skate
from skate.core.culprit import find_culprit
from skate.util.check_serialize import inspect_serializability

LOCK = threading.Lock()


class Connection:
    def __init__(self) -> None:
        self.state = {"lock": LOCK}


class Job:
    def __init__(self) -> None:
        self.connection = Connection()


class Slotted:
    __slots__ = ("fine", "lock")

    def __init__(self) -> None:
        self.fine, self.lock = 1, LOCK


def closing_over(conn: Any) -> Callable[[], Any]:
    def f() -> Any:
        return conn

    return f


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Job(), ".connection -> .state -> ['lock'] (a _thread.lock)"),
        ({"x": [1, (LOCK,)]}, "['x'] -> [1] -> [0] (a _thread.lock)"),
        (Slotted(), ".lock (a _thread.lock)"),
        (functools.partial(print, x=LOCK), ".keywords['x'] (a _thread.lock)"),
        (Connection().__init__, "the object it is bound to -> .state -> ['lock'] (a _thread.lock)"),
        (((1, Job()), {}), "argument 1 -> .connection -> .state -> ['lock'] (a _thread.lock)"),
        (((), {"k": LOCK}), "argument 'k' (a _thread.lock)"),
        (LOCK, ""),
        ([1, "fine"], ""),
    ],
)
def test_path(value: Any, path: str) -> None:
    assert find_culprit(value) == path


def test_closure_variable_is_named_with_the_functions_place() -> None:
    path = find_culprit(closing_over(Connection()))
    line = closing_over.__code__.co_firstlineno + 1
    start = f"closure variable 'conn' of closing_over.<locals>.f, defined at {__file__}:{line}"
    assert path == start + " -> .state -> ['lock'] (a _thread.lock)"


def test_circle_ends() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    circle.append(LOCK)
    assert find_culprit(circle) == "[2] (a _thread.lock)"


def test_errors_of_calls_name_the_argument(session: None) -> None:
    @skate.remote
    def f(*args: Any, **kwargs: Any) -> Any:
        return None

    with pytest.raises(TypeError, match=r"argument 1 -> \.connection -> \.state"):
        f.remote(1, Job())
    with pytest.raises(TypeError, match="closure variable 'conn'"):
        skate.remote(closing_over(LOCK)).remote()


def test_inspect_serializability(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_serializability(5) == (True, set())
    fine, failures = inspect_serializability(Job(), name="job")
    (failure,) = failures
    assert not fine and failure.obj is LOCK and failure.name == "['lock']"
    assert "job -> .connection -> .state -> ['lock']" in capsys.readouterr().out
