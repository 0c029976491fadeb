"""Runtime environments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from skate.core.environment import merge_environments, pack_environment, unpack_environment
from skate.runtime_env import RuntimeEnv


def test_nothing_is_empty() -> None:
    assert pack_environment(None, job=True) == "" == pack_environment({}, job=False)
    assert unpack_environment("") == {}


def test_paths_become_absolute_for_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    packed = pack_environment({"working_dir": ".", "py_modules": [json]}, job=True)
    assert unpack_environment(packed) == {
        "working_dir": str(tmp_path),
        "py_modules": [str(Path(json.__file__).parent)],
    }


def test_tasks_take_no_local_paths(tmp_path: Path) -> None:
    for value in ({"working_dir": str(tmp_path)}, {"py_modules": [str(tmp_path)]}):
        with pytest.raises(ValueError, match="whole job"):
            pack_environment(value, job=False)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (5, TypeError),
        ({"env_vars": {"A": 1}}, TypeError),
        ({"env_vars": ["A"]}, TypeError),
        ({"working_dir": "/no/such/place"}, ValueError),
        ({"working_dir": 5}, TypeError),
        ({"working_dir": "s3://bucket/x.zip"}, NotImplementedError),
        ({"py_modules": "/tmp"}, TypeError),
        ({"py_modules": [5]}, TypeError),
        ({"excludes": "*.log"}, TypeError),
        ({"pip": ["x"]}, NotImplementedError),
        ({"colour": 1}, ValueError),
    ],
    ids=str,
)
def test_refusals(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        pack_environment(value, job=True)


def test_refusal_names_what_works() -> None:
    with pytest.raises(NotImplementedError, match="env_vars, working_dir, py_modules"):
        pack_environment({"conda": "x"}, job=True)


def test_child_goes_over_parent() -> None:
    parent = pack_environment({"env_vars": {"A": "p", "B": "p"}, "working_dir": "/tmp"}, job=True)
    child = pack_environment({"env_vars": {"B": "c"}}, job=False)
    merged = unpack_environment(merge_environments(parent, child))
    assert merged == {"env_vars": {"A": "p", "B": "c"}, "working_dir": "/tmp"}
    assert merge_environments(parent, "") == parent and merge_environments("", child) == child


def test_runtime_env_is_a_dict_of_its_fields() -> None:
    env = RuntimeEnv(env_vars={"A": "1"}, working_dir=None)
    assert env == {"env_vars": {"A": "1"}} == env.to_dict() and env.env_vars() == {"A": "1"}
    assert pack_environment(env, job=False) == '{"env_vars":{"A":"1"}}'
