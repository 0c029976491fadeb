"""`init`, `shutdown`, the automatic start, and forks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import skate


@skate.remote
def one() -> int:
    return 1


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKATE_ENGINE", "inline")


def test_first_call_starts_a_session() -> None:
    assert not skate.is_initialized()
    assert skate.get(one.remote()) == 1
    assert skate.is_initialized()
    skate.shutdown()
    assert not skate.is_initialized()
    assert skate.get(one.remote()) == 1


def test_shutdown_without_a_session_is_harmless() -> None:
    skate.shutdown()
    skate.shutdown()


def test_second_init_is_refused_unless_told() -> None:
    skate.init()
    with pytest.raises(RuntimeError, match="ignore_reinit_error"):
        skate.init()
    assert skate.init(ignore_reinit_error=True)["node_ip_address"]


def test_context_manager_ends_the_session() -> None:
    with skate.init(namespace="mine") as context:
        assert context.address_info["namespace"] == "mine" == skate.get_runtime_context().namespace
        assert context.python_version.count(".") == 2
    assert not skate.is_initialized()


def test_namespace_is_fresh_when_none_was_given() -> None:
    with skate.init():
        first = skate.get_runtime_context().namespace
    with skate.init():
        assert first and skate.get_runtime_context().namespace != first


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"num_cpu": 1}, RuntimeError),
        ({"_no_such": 1}, RuntimeError),
        ({"local_mode": True}, RuntimeError),
        ({"num_cpus": -1}, ValueError),
        ({"num_cpus": 1.5}, ValueError),
        ({"num_cpus": "2"}, TypeError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"resources": {"a": -1}}, ValueError),
        ({"resources": [1]}, TypeError),
        ({"labels": {"a": 5}}, TypeError),
        ({"namespace": ""}, ValueError),
        ({"namespace": 5}, TypeError),
        ({"runtime_env": 5}, TypeError),
        ({"object_store_memory": 5}, ValueError),
        ({"object_store_memory": "1 GB"}, TypeError),
        ({"address": "auto"}, ConnectionError),
        ({"address": "ray://head:10001"}, ConnectionError),
        ({"address": 5}, TypeError),
        ({"engine": "steam"}, ValueError),
    ],
    ids=str,
)
def test_init_refuses(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        skate.init(**arguments)
    assert not skate.is_initialized()


def test_rays_other_arguments_are_taken() -> None:
    skate.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        dashboard_port=8265,
        configure_logging=False,
        logging_level="error",
        log_to_driver=False,
        _temp_dir="/tmp/x",
        _system_config={},
    )
    assert skate.cluster_resources()["CPU"] == 2


def test_environment_of_the_job_is_seen_by_tasks() -> None:
    skate.init(runtime_env={"env_vars": {"A": "job", "B": "job"}})

    @skate.remote(runtime_env={"env_vars": {"B": "task"}})
    def variables() -> Any:
        return skate.get_runtime_context().runtime_env["env_vars"]

    assert skate.get(variables.remote()) == {"A": "job", "B": "task"}


FORK = """
import os, sys
import skate

@skate.remote
class Actor:
    def f(self):
        return 1

def refused(call):
    try:
        call()
    except RuntimeError as error:
        return "skate.init() here" in str(error)

skate.init(num_cpus=2)
ref, actor = skate.put(3), Actor.remote()
child = os.fork()
if child == 0:
    assert not skate.is_initialized()
    assert refused(lambda: skate.get(ref)) and refused(lambda: actor.f.remote())
    skate.init(num_cpus=1)
    own = Actor.remote()
    assert skate.get(own.f.remote()) == 1
    del ref, actor
    assert skate.get(own.f.remote()) == 1
    skate.shutdown()
    print("child is fine", flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert skate.get(ref) == 3 and skate.get(actor.f.remote()) == 1
print("parent is fine")
"""


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_forked_child_forgets_the_session(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKATE_ENGINE", engine)
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=150)
    assert done.stdout.splitlines() == ["child is fine", "parent is fine"], done.stderr


def test_the_ray_engine_without_ray_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"skate-ray\[ray\]"):
        skate.init(engine="ray")
    assert not skate.is_initialized()
