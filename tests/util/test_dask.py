"""Dask's graphs as tasks."""

from __future__ import annotations

import operator
import os
from typing import Any

import dask
import pytest

import skate
from skate.util.dask import disable_dask_on_ray, enable_dask_on_ray, ray_dask_get, ray_dask_get_sync

pytestmark = pytest.mark.usefixtures("session")


@dask.delayed
def inc(x: int) -> int:
    return x + 1


@dask.delayed
def add(a: int, b: int) -> int:
    return a + b


@dask.delayed
def where() -> int:
    return os.getpid()


def test_delayed_calls() -> None:
    total = add(inc(1), inc(2))
    assert total.compute(scheduler=ray_dask_get) == 5
    assert dask.compute(inc(1), [inc(2), inc(3)], scheduler=ray_dask_get) == (2, [3, 4])


def test_tasks_run_in_workers() -> None:
    assert where().compute(scheduler=ray_dask_get) != os.getpid()
    assert where().compute(scheduler=ray_dask_get_sync) == os.getpid()


def test_a_graph_by_hand() -> None:
    graph: dict[str, Any] = {"x": 1, "y": (operator.add, "x", 2), "z": (sum, ["x", "y"]), "alias": "z"}
    assert ray_dask_get(graph, "z") == 4
    assert ray_dask_get(graph, ["y", ["z", "alias"]]) == [3, [4, 4]]


def test_an_error_is_raised() -> None:
    @dask.delayed
    def bad() -> None:
        raise KeyError("bad")

    with pytest.raises(KeyError):
        inc(bad()).compute(scheduler=ray_dask_get)


def test_as_the_usual_scheduler() -> None:
    with enable_dask_on_ray():
        assert where().compute() != os.getpid()
    enable_dask_on_ray()
    try:
        assert where().compute() != os.getpid()
    finally:
        disable_dask_on_ray()


def test_references_in_place_of_results() -> None:
    graph: dict[str, Any] = {"x": (operator.add, 1, 2)}
    (ref,) = ray_dask_get(graph, ["x"], ray_persist=True)
    assert skate.get(ref) == 3


def test_options_of_tasks() -> None:
    @skate.remote
    def never() -> None: ...

    with pytest.raises(ValueError, match="num_cpu"):
        inc(1).compute(scheduler=ray_dask_get, ray_remote_args={"num_cpu": 1})
    assert inc(1).compute(scheduler=ray_dask_get, ray_remote_args={"num_cpus": 2}) == 2
