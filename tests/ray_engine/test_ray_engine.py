"""What the engine `ray` promises beyond the contract: Ray's own underneath, its errors as ours, addresses."""

from __future__ import annotations

import gc
import os
import pickle
import time

import pytest

import skate
from skate import exceptions

ray = pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")


@skate.remote
def double(n):
    return 2 * n


@pytest.fixture
def keeper(session):
    @skate.remote  # in here, so that it travels by value: Ray's workers cannot import this module
    class Keeper:
        def __init__(self):
            self.kept = []

        def keep(self, value):
            self.kept.append(value)
            return len(self.kept)

        def give(self):
            return self.kept

    return Keeper.remote


def test_a_reference_is_ray_s_own_and_has_its_id(session):
    ref = double.remote(4)
    assert isinstance(ref._native, ray.ObjectRef)
    assert ref.hex() == ref._native.hex() and ref.task_id().hex() == ref._native.task_id().hex()
    assert ref == skate.ObjectRef.from_hex(ref.hex()) and len({ref, skate.ObjectRef(ref.binary())}) == 1
    assert skate.get(skate.ObjectRef.from_binary(ref.binary())) == 8


def test_references_inside_values_arrive_as_references(session):
    @skate.remote
    def inside(value):
        assert isinstance(value["ref"], skate.ObjectRef)
        return skate.get(value["ref"]), value["ref"]

    number, ref = skate.get(inside.remote({"ref": double.remote(3)}))
    assert number == 6 and skate.get(ref) == 6


def test_ray_frees_what_nobody_names(keeper):
    actor = keeper()
    assert skate.get(actor.keep.remote(1)) == 1
    identity = actor._actor_id.hex()
    del actor
    gc.collect()

    def gone():
        from ray._private.state import actors

        return actors(identity)["State"] == "DEAD"

    end = time.monotonic() + 20
    while not gone() and time.monotonic() < end:
        time.sleep(0.1)
    assert gone()


def test_a_handle_travels_and_is_the_same_actor(keeper):
    actor = keeper()

    @skate.remote
    def use(handle):
        return skate.get(handle.keep.remote("from a task")), handle

    count, back = skate.get(use.remote(actor))
    assert count == 1 and back == actor
    assert skate.get(back.give.remote()) == ["from a task"]


def test_code_in_a_worker_has_this_engine_whatever_its_environment_says(session):
    @skate.remote(runtime_env={"env_vars": {"SKATE_ENGINE": "local"}})
    def where():
        assert skate.is_initialized()
        return type(skate.put(1)).__module__, skate.get_runtime_context().get_job_id(), os.getpid()

    module, job, pid = skate.get(where.remote())
    assert module == "skate.engines.ray.refs" and pid != os.getpid()
    assert job == skate.get_runtime_context().get_job_id() == ray.get_runtime_context().get_job_id()


@pytest.mark.parametrize("cause", [ValueError("five"), KeyError("k"), exceptions.WorkerCrashedError("inner")])
def test_errors_are_skate_s_and_of_their_cause(session, cause):
    @skate.remote(max_retries=0)
    def fail():
        raise cause

    with pytest.raises(type(cause)) as caught:
        skate.get(fail.remote())
    assert isinstance(caught.value, exceptions.RayError) and not isinstance(caught.value, ray.exceptions.RayError)
    assert "fail" in str(caught.value)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), type(cause))


def test_every_error_of_ray_has_a_class_here():
    from skate.engines.ray.errors import translated

    for name in dir(ray.exceptions):
        kind = getattr(ray.exceptions, name)
        if isinstance(kind, type) and issubclass(kind, ray.exceptions.RayError):
            error = kind.__new__(kind)
            error.args = ("what happened",)
            if kind.__str__ is Exception.__str__:
                made = translated(error)
                assert isinstance(made, getattr(exceptions, name, exceptions.RaySystemError))
                assert "what happened" in str(made)


def test_skate_is_sent_along_to_a_cluster(monkeypatch):
    from skate.engines.ray.shipping import with_skate

    sent = with_skate({"py_modules": ["mine"], "env_vars": {"A": "1"}})
    assert sent["env_vars"] == {"A": "1"} and sent["py_modules"][0] == "mine"
    assert [os.path.basename(path) for path in sent["py_modules"][1:]] == ["skate", "msgspec", "cloudpickle"]
    assert all(os.path.isfile(os.path.join(path, "__init__.py")) for path in sent["py_modules"][1:])
    monkeypatch.setenv("SKATE_SHIP", "0")
    told = {"A": "1", "SKATE_DRIVER_VERSION": skate.__version__}
    assert with_skate({"env_vars": {"A": "1"}}) == {"env_vars": told}


def test_nodes_are_ray_s_to_start(session):
    from skate.core.nodes import NodeSpec

    with pytest.raises(NotImplementedError, match="ray start"):
        skate.core.engine.current().add_node(NodeSpec())
    with pytest.raises(NotImplementedError, match="ray stop"):
        skate.core.engine.current().remove_node("ab")
