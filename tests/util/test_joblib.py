"""joblib's backend."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import joblib
import pytest

import skate
from skate.util.joblib import register_ray


@pytest.fixture(autouse=True)
def registered(session: None) -> Iterator[None]:
    register_ray()
    yield


def square(x: int) -> int:
    return x * x


def where(folder: Path) -> int:
    """Returns when a second process has come."""
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return os.getpid()


def test_calls_run_in_order() -> None:
    with joblib.parallel_backend("ray", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(square)(i) for i in range(50)) == [i * i for i in range(50)]


def test_calls_run_in_other_processes(tmp_path: Path) -> None:
    with joblib.parallel_config(backend="ray", n_jobs=2):
        pids = set(joblib.Parallel(batch_size=1)(joblib.delayed(where)(tmp_path) for _ in range(4)))
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_all_cpus() -> None:
    with joblib.parallel_backend("ray", n_jobs=-1):
        assert joblib.effective_n_jobs() == 4


def test_an_error_is_raised() -> None:
    def bad(x: int) -> None:
        raise KeyError(x)

    with joblib.parallel_backend("ray", n_jobs=2), pytest.raises(KeyError):
        joblib.Parallel()(joblib.delayed(bad)(i) for i in range(3))


def test_options_of_the_actors() -> None:
    with joblib.parallel_backend("ray", n_jobs=4, ray_remote_args={"num_cpus": 0.5}):
        assert joblib.Parallel()(joblib.delayed(square)(i) for i in range(3)) == [0, 1, 4]


def test_a_generator_of_results() -> None:
    with joblib.parallel_backend("ray", n_jobs=2):
        results = joblib.Parallel(return_as="generator")(joblib.delayed(square)(i) for i in range(5))
        assert list(results) == [0, 1, 4, 9, 16]


def test_the_pool_s_actors_are_gone_afterwards() -> None:
    with joblib.parallel_backend("ray", n_jobs=2):
        joblib.Parallel()(joblib.delayed(square)(i) for i in range(3))
    deadline = time.monotonic() + 60
    while skate.available_resources().get("CPU") != 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert skate.available_resources().get("CPU") == 4
