"""`import skate as ray`: the names are there, and cost nothing until they are used."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
import types

import pytest

import skate

# fmt: off
RAY_NAMES = [
    "__version__", "ActorID", "DynamicObjectRefGenerator", "JobID", "NodeID", "ObjectID", "ObjectRef",
    "ObjectRefGenerator", "PlacementGroupID", "TaskID", "WorkerID", "available_resources", "cancel",
    "cluster_resources", "get", "get_actor", "get_gpu_ids", "get_runtime_context", "init", "is_initialized",
    "kill", "method", "nodes", "put", "remote", "shutdown", "wait",
]
# fmt: on


@pytest.mark.parametrize("name", RAY_NAMES)
def test_name_of_ray_is_here(name: str) -> None:
    assert name in skate.__all__ and name in dir(skate)
    assert getattr(skate, name) is not None


def test_submodules_need_no_import_of_their_own() -> None:
    code = "import skate; skate.actor.exit_actor; skate.exceptions.RayError; skate.util.ActorPool"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        skate.nope  # noqa: B018


def test_importing_loads_nothing_heavy() -> None:
    code = """if True:
        import sys, skate
        skate.init, skate.remote, skate.get
        heavy = {"asyncio", "numpy", "cloudpickle", "skate.engines"} & set(sys.modules)
        assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_is_a_plain_module() -> None:
    assert type(skate) is types.ModuleType
    assert importlib.util.find_spec("skate") is not None
    assert pickle.loads(pickle.dumps(skate.get)) is skate.get


def test_object_id_is_the_old_name_of_object_ref() -> None:
    assert skate.ObjectID is skate.ObjectRef
    from skate.types import ObjectRef

    assert ObjectRef is skate.ObjectRef
