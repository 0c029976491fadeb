"""GPUs as a program with CUDA_VISIBLE_DEVICES, or without, sees them. They are counted: no case needs one."""

from __future__ import annotations

import os

import pytest

from skate.testing.contract import differs_on_ray
from skate.testing.contract.target import SESSION

INIT = None


def look(ray):
    """What a call sees of its GPUs. Ray gives names in any order."""
    ids = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible and ",".join(sorted(visible.split(","))), sorted(ray.get_gpu_ids()), sorted(ids)


@pytest.fixture
def start(ray, monkeypatch):
    """Start a session with two GPUs, in a program that was started with these variables."""

    def start_with(visible=None, **variables):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        ray.init(**{**SESSION, "num_gpus": 2})
        return ray.remote(lambda: look(ray))

    return start_with


@pytest.mark.parametrize(("visible", "names"), [("3,5", ["3", "5"]), ("GPU-aa,GPU-bb,GPU-cc", ["GPU-aa", "GPU-bb"])])
def test_gpus_have_the_names_that_the_program_sees(ray, start, visible, names):
    task = start(visible)
    assert ray.get(task.remote()) == (visible, [], [])
    assert ray.get(task.options(num_gpus=1).remote()) == (names[0], names[:1], names[:1])
    assert ray.get(task.options(num_gpus=2).remote()) == (",".join(names), names, names)
    assert ray.get(task.options(num_gpus=0.25).remote()) == (names[0], names[:1], names[:1])
    assert ray.get(task.remote()) == (visible, [], [])


def test_actors_keep_their_gpu_by_name(ray, start):
    start("3,5")

    @ray.remote(num_gpus=1)
    class Holder:
        def look(self):
            return look(ray)

    holders = [Holder.remote(), Holder.remote()]
    found = ray.get([holder.look.remote() for holder in holders])
    assert sorted(found) == [("3", ["3"], ["3"]), ("5", ["5"], ["5"])]


def test_without_the_variable_gpus_are_numbers(ray, start):
    task = start()
    assert ray.get(task.remote()) == (None, [], [])
    assert ray.get(task.options(num_gpus=2).remote()) == ("0,1", [0, 1], ["0", "1"])


@differs_on_ray("it refuses as well, but leaves its daemons behind")
@pytest.mark.parametrize("visible", ["4", "", "NoDevFiles"])
def test_more_gpus_than_the_program_sees_are_refused(ray, start, visible):
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"):
        start(visible)


def test_who_holds_no_gpu_sees_none_where_that_is_asked_for(ray, start):
    task = start("3,5", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="1")
    assert ray.get(task.remote()) == ("", [], [])
    assert ray.get(task.options(num_gpus=1).remote()) == ("3", ["3"], ["3"])
    assert ray.get(task.remote()) == ("", [], [])


def test_the_variable_is_left_alone_where_that_is_asked_for(ray, start):
    task = start("3,5", RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES="1")
    assert ray.get(task.options(num_gpus=1).remote()) == ("3,5", ["3"], ["3"])


def test_a_model_of_gpu_is_asked_for_by_its_name(ray, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ray.init(**{**SESSION, "num_gpus": 1, "resources": {"accelerator_type:A100": 1}})
    task = ray.remote(num_gpus=1, accelerator_type="A100")(lambda: ray.get_runtime_context().get_assigned_resources())
    assert ray.get(task.remote())["accelerator_type:A100"] == 0.001
