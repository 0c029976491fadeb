"""init and shutdown within one process."""

import os

import numpy as np
import pytest

from skate.testing.contract import differs_on_ray, needs_background
from skate.testing.contract.target import SESSION
from skate.testing.contract.tools import eventually, raised

INIT = None


def test_second_init_raises_runtime_error(ray):
    ray.init(**SESSION)
    with pytest.raises(RuntimeError, match="ignore_reinit_error"):
        ray.init(**SESSION)
    assert ray.is_initialized()


def test_second_init_may_be_ignored(ray):
    ray.init(namespace="first", **SESSION)
    ref = ray.put("kept")
    ray.init(namespace="second", ignore_reinit_error=True)
    assert ray.get_runtime_context().namespace == "first"
    assert ray.get(ref) == "kept"


def test_init_after_shutdown_starts_afresh(ray):
    for cpus in (1, 3):
        ray.init(**{**SESSION, "num_cpus": cpus})
        assert ray.cluster_resources()["CPU"] == cpus
        ray.shutdown()
        assert not ray.is_initialized()


def test_context_tells_the_address(ray):
    assert ray.init(**SESSION).address_info["node_ip_address"]


def test_context_tells_the_folder_of_the_session(ray):
    assert os.path.isdir(ray.init(**SESSION).address_info["session_dir"])


def test_context_closes_the_session_as_a_context_manager(ray):
    with ray.init(**SESSION):
        assert ray.is_initialized()
        assert ray.get(ray.put(1)) == 1
    assert not ray.is_initialized()


def test_error_in_the_with_block_closes_the_session_and_passes(ray):
    with pytest.raises(KeyError), ray.init(**SESSION):
        raise KeyError("in the block")
    assert not ray.is_initialized()


def test_unknown_argument_is_named(ray):
    with pytest.raises((RuntimeError, TypeError, ValueError), match="colour"):
        ray.init(colour=1)
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    "arguments",
    [
        {"namespace": 5},
        {"namespace": ""},
        {"num_cpus": -1},
        {"num_cpus": "two"},
        {"num_cpus": 1.5},
        {"num_gpus": -1},
        {"resources": {"a": -1}},
        {"resources": {"CPU": 1}},
        {"object_store_memory": 5},
        {"runtime_env": {"env_vars": {"a": 1}}},
        {"local_mode": True},
    ],
    ids=str,
)
def test_wrong_argument_is_refused_and_leaves_no_session(ray, arguments):
    kinds = (ValueError, TypeError, AssertionError, RuntimeError)
    with pytest.raises(kinds):
        ray.init(**{**SESSION, **arguments})
    assert not ray.is_initialized()


def test_resources_of_the_users_own(ray):
    ray.init(resources={"tool": 2}, num_gpus=1, **SESSION)
    assert eventually(lambda: ray.cluster_resources().get("tool") == 2)
    assert (ray.cluster_resources()["GPU"], ray.cluster_resources()["CPU"]) == (1, 2)


def test_whole_numbers_given_as_floats(ray):
    ray.init(**{**SESSION, "num_cpus": 2.0})
    assert ray.cluster_resources()["CPU"] == 2


def test_anonymous_sessions_have_different_namespaces(ray):
    names = []
    for _ in range(2):
        ray.init(**SESSION)
        names.append(ray.get_runtime_context().namespace)
        ray.shutdown()
    assert names[0] != names[1]


def test_environment_of_the_session_reaches_tasks_and_actors(ray):
    ray.init(runtime_env={"env_vars": {"CONTRACT_JOB": "here"}}, **SESSION)

    @ray.remote
    def look():
        return os.environ.get("CONTRACT_JOB")

    @ray.remote
    class A:
        def look(self):
            return os.environ.get("CONTRACT_JOB")

    assert ray.get([look.remote(), A.remote().look.remote()], timeout=50) == ["here", "here"]
    assert "CONTRACT_JOB" not in os.environ


def test_function_defined_in_one_session_runs_in_the_next(ray):
    @ray.remote
    def f(x):
        return x + 1

    @ray.remote
    class A:
        def f(self):
            return "actor"

    for _ in range(2):
        ray.init(**SESSION)
        assert ray.get(f.remote(1)) == 2
        assert ray.get(A.remote().f.remote()) == "actor"
        ray.shutdown()


def test_array_got_before_shutdown_stays_readable(ray):
    ray.init(**SESSION)
    array = ray.get(ray.put(np.arange(1 << 17))).copy()
    ray.shutdown()
    assert array[-1] == (1 << 17) - 1


@differs_on_ray("reading the view of a closed store is undefined")
def test_view_got_before_shutdown_stays_readable(ray):
    ray.init(**SESSION)
    view = ray.get(ray.put(np.arange(1 << 17)))
    ray.shutdown()
    assert view[-1] == (1 << 17) - 1


def test_handle_of_a_closed_session_is_dead(ray):
    @ray.remote
    class A:
        def f(self):
            return 1

    ray.init(**SESSION)
    a = A.remote()
    ray.get(a.f.remote())
    ray.shutdown()
    ray.init(**SESSION)
    assert isinstance(raised(lambda: ray.get(a.f.remote(), timeout=5)), Exception)


@needs_background
def test_shutdown_with_running_work_is_quick(ray):
    import time

    @ray.remote
    def slow():
        time.sleep(60)

    ray.init(**SESSION)
    refs = [slow.remote() for _ in range(3)]
    time.sleep(0.5)
    begin = time.monotonic()
    ray.shutdown()
    assert time.monotonic() - begin < 20
    del refs


@pytest.mark.parametrize("call", ["cluster_resources", "available_resources", "nodes"])
def test_state_is_not_available_without_a_session(ray, call):
    with pytest.raises(Exception, match="init"):
        getattr(ray, call)()
    assert not ray.is_initialized()


def test_version_is_text(ray):
    assert isinstance(ray.__version__, str) and ray.__version__[0].isdigit()
