"""Names that few programs use, and that are there."""

from __future__ import annotations

import pytest

import skate
from skate.runtime_env import RuntimeEnv
from skate.util import accelerators, get_node_instance_id
from skate.util.placement_group import PlacementGroup, check_placement_group_index, validate_placement_group


def test_accelerators_have_the_names_of_their_labels() -> None:
    assert (accelerators.NVIDIA_H100, accelerators.GOOGLE_TPU_V6E) == ("H100", "TPU-V6E")
    assert accelerators.NVIDIA_TESLA_A100 == accelerators.NVIDIA_A100 == "A100"
    assert len(accelerators.__all__) > 50 and "AMD_INSTINCT_MI300x" in accelerators.__all__


def test_a_cloud_s_launcher_names_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_CLOUD_INSTANCE_ID", raising=False)
    assert get_node_instance_id() == ""
    monkeypatch.setenv("RAY_CLOUD_INSTANCE_ID", "i-17")
    assert get_node_instance_id() == "i-17"


def test_arguments_of_a_placement_group_can_be_checked_alone() -> None:
    validate_placement_group([{"CPU": 1}], strategy="SPREAD")
    for wrong in ([], [{"CPU": -1}]):
        with pytest.raises(ValueError):
            validate_placement_group(wrong)
    with pytest.raises(ValueError, match="strategy"):
        validate_placement_group([{"CPU": 1}], strategy="WIDE")
    assert not skate.is_initialized()


def test_the_number_of_a_bundle_can_be_checked() -> None:
    check_placement_group_index(PlacementGroup.empty(), -1)
    with pytest.raises(ValueError, match="must be -1, not 0"):
        check_placement_group_index(PlacementGroup.empty(), 0)
    two = PlacementGroup(skate.PlacementGroupID(bytes(range(18))), [{"CPU": 1.0}] * 2)
    for good in (-1, 0, 1):
        check_placement_group_index(two, good)
    for bad in (-2, 2):
        with pytest.raises(ValueError, match=f"index {bad} is invalid"):
            check_placement_group_index(two, bad)


def test_a_runtime_environment_tells_its_parts() -> None:
    given = RuntimeEnv(working_dir="file:///a.zip", py_modules=["file:///b.zip"])
    assert (given.working_dir_uri(), given.py_modules_uris()) == ("file:///a.zip", ["file:///b.zip"])
    boxed = RuntimeEnv(container={"image": "i", "worker_path": "w"})
    assert boxed.py_container_worker_path() == "w" and RuntimeEnv().py_container_worker_path() is None
    assert given.plugins() == [] and given.plugin_uris() == [] and given.java_jars() == []
    assert given.nsight() is None and given.rocprof_sys() is None and given.virtualenv_name() is None
    assert given.get_extension("_ray_commit") is None
    with pytest.raises(ValueError, match="is no extension"):
        given.get_extension("colour")
