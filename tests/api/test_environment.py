"""Runtime environments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from skate.core.environment import given_environment, merge_environments, pack_environment, unpack_environment
from skate.runtime_env import RuntimeEnv, RuntimeEnvConfig


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
        ({"mpi": {}}, NotImplementedError),
        ({"colour": 1}, ValueError),
        ({"working_dir": "s3://bucket/x"}, ValueError),
        ({"working_dir": "foo://x.zip"}, ValueError),
        ({"working_dir": "file:///x.whl"}, ValueError),
        ({"working_dir": "local://there"}, ValueError),
        ({"working_dir": __file__}, ValueError),
        ({"pip": 5}, TypeError),
        ({"pip": [1]}, TypeError),
        ({"pip": ("a",)}, TypeError),
        ({"pip": "/no/such/file.txt"}, ValueError),
        ({"pip": {"packages": 5}}, ValueError),
        ({"pip": {"pip_check": True}}, ValueError),
        ({"pip": {"packages": ["x"], "pip_check": 1}}, TypeError),
        ({"pip": {"packages": ["x"], "pip_version": 1}}, TypeError),
        ({"pip": {"packages": ["x"], "pip_install_options": "-v"}}, TypeError),
        ({"pip": {"packages": ["x"], "uv_check": True}}, ValueError),
        ({"uv": 5}, TypeError),
        ({"uv": {"packages": [5]}}, TypeError),
        ({"uv": {"packages": ["x"], "uv_check": 1}}, TypeError),
        ({"uv": {"packages": ["x"], "uv_version": 2}}, TypeError),
        ({"uv": {}}, ValueError),
        ({"conda": 5}, TypeError),
        ({"conda": "/no/such/environment"}, ValueError),
        ({"conda": "/no/such.yml"}, ValueError),
        ({"pip": ["a"], "uv": ["b"]}, ValueError),
        ({"pip": [], "uv": ["b"]}, ValueError),
        ({"pip": ["a"], "conda": "b"}, ValueError),
        ({"container": {"image": "x"}, "pip": ["a"]}, ValueError),
        ({"container": {"colour": "x"}}, ValueError),
        ({"container": "x"}, TypeError),
        ({"container": {"image": "x", "run_options": "-v"}}, TypeError),
        ({"image_uri": "x", "working_dir": "/tmp"}, ValueError),
        ({"image_uri": 5}, TypeError),
        ({"py_executable": 5}, TypeError),
        ({"worker_process_setup_hook": 5}, TypeError),
        ({"config": 5}, TypeError),
        ({"config": {"setup_timeout_seconds": 0}}, ValueError),
        ({"config": {"setup_timeout_seconds": "5"}}, TypeError),
        ({"config": {"eager_install": 1}}, TypeError),
        ({"config": {"log_files": "x"}}, TypeError),
        ({"conda": {"dependencies": [print]}}, TypeError),
    ],
    ids=str,
)
def test_refusals(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        pack_environment(value, job=True)


def test_refusal_names_what_works() -> None:
    with pytest.raises(NotImplementedError, match="env_vars, working_dir, py_modules"):
        pack_environment({"java_jars": ["x"]}, job=True)


def test_packages_are_carried_in_one_form(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("a\nb==1\na\n")
    from_file = pack_environment({"pip": str(tmp_path / "requirements.txt")}, job=False)
    assert from_file == pack_environment({"pip": ["a", "b==1"]}, job=False)
    assert unpack_environment(from_file) == {"pip": {"packages": ["a", "b==1"], "pip_check": False}}
    assert unpack_environment(pack_environment({"uv": {"packages": ["a"]}}, job=False)) == {
        "uv": {"packages": ["a"], "uv_check": False, "uv_pip_install_options": ["--no-cache"]}
    }


@pytest.mark.parametrize("empty", [{"pip": []}, {"uv": []}, {"env_vars": {}}, {"excludes": []}, {"container": {}}])
def test_fields_that_say_nothing_are_left_out(empty: dict[str, Any]) -> None:
    assert pack_environment(empty, job=True) == "" and RuntimeEnv(**empty) == {}


def test_tasks_take_archives_by_uri() -> None:
    given = {"working_dir": "file:///a/b.zip", "py_modules": ["local:///code", "https://host/x.whl"]}
    assert unpack_environment(pack_environment(given, job=False)) == given


def test_config_has_its_defaults() -> None:
    packed = pack_environment({"config": {"setup_timeout_seconds": -1, "colour": 1}}, job=True)
    assert unpack_environment(packed)["config"] == RuntimeEnvConfig(-1) == RuntimeEnvConfig(-1, True, []).to_dict()


def test_packages_of_a_child_stand_for_those_of_its_parent() -> None:
    parent = pack_environment({"pip": ["a"], "env_vars": {"A": "1"}}, job=True)
    child = pack_environment({"uv": ["b"]}, job=False)
    assert set(unpack_environment(merge_environments(parent, child))) == {"uv", "env_vars"}


def test_a_hook_that_is_a_function_survives_the_way_and_can_be_handed_on() -> None:
    def hook() -> None:
        return None

    packed = pack_environment({"worker_process_setup_hook": hook}, job=True)
    fields = unpack_environment(packed)
    assert fields["worker_process_setup_hook"] == "hook"
    assert pack_environment(fields, job=False) == packed
    assert given_environment(packed)["worker_process_setup_hook"]() is None
    merged = merge_environments(packed, pack_environment({"worker_process_setup_hook": "a.b"}, job=False))
    assert unpack_environment(merged) == {"worker_process_setup_hook": "a.b"}


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


def test_runtime_env_tells_what_it_holds() -> None:
    env = RuntimeEnv(pip=["a"], config={"setup_timeout_seconds": 5})
    assert env.has_pip() and not env.has_uv() and env.pip_config()["packages"] == ["a"]
    assert env.to_dict()["config"] == {"setup_timeout_seconds": 5, "eager_install": True, "log_files": []}
    assert RuntimeEnv.deserialize(env.serialize()) == env
    env.set("uv", [])
    assert "uv" not in env
    with pytest.raises(TypeError):
        env["pip"] = 5
    with pytest.raises(ValueError, match="exclude each other"):
        RuntimeEnv(pip=["a"], conda="b")
    assert RuntimeEnv(conda="b").conda_env_name() == "b" and RuntimeEnv(conda={"a": 1}).conda_config() == '{"a": 1}'
    image = RuntimeEnv(container={"image": "x", "run_options": ["-q"]})
    assert image.py_container_image() == "x" and image.py_container_run_options() == ["-q"]
