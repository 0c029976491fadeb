"""Options: a mistake is an error at once, of Ray's class, and names what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from skate.core import options as table
from skate.core.options import (
    ACTOR_DEFAULTS,
    METHOD_DEFAULTS,
    TASK_DEFAULTS,
    UnknownOption,
    check_actor_options,
    check_method_options,
    check_task_options,
    merge,
)

CHECKS = {"task": check_task_options, "actor": check_actor_options, "method": check_method_options}

# What Ray 2.60.0 takes. `priority` is Skate's own.
COMMON = {
    "label_selector", "fallback_strategy", "accelerator_type", "memory", "name", "num_cpus",
    "num_gpus", "object_store_memory", "placement_group", "placement_group_bundle_index",
    "placement_group_capture_child_tasks", "resources", "runtime_env", "scheduling_strategy",
    "enable_task_events", "_labels",
}  # fmt: skip
TASK = COMMON | {
    "max_calls", "max_retries", "num_returns", "retry_exceptions",
    "_generator_backpressure_num_objects", "_num_objects_per_yield",
}  # fmt: skip
ACTOR = COMMON | {
    "concurrency_groups", "enable_tensor_transport", "lifetime", "max_concurrency", "max_restarts",
    "max_task_retries", "max_pending_calls", "namespace", "get_if_exists",
    "allow_out_of_order_execution", "_actor_generator_backpressure_num_objects",
}  # fmt: skip
METHOD = {
    "num_returns", "concurrency_group", "max_task_retries", "retry_exceptions",
    "_generator_backpressure_num_objects", "_num_objects_per_yield", "enable_task_events",
    "tensor_transport", "name", "_labels",
}  # fmt: skip


class PlacementGroupSchedulingStrategy:
    """Stands for the real one: the table knows it by name."""


# Where, option, good values, values of a wrong type, wrong values: tried one by one on Ray 2.60.0.
BOTH = "task actor"
ROWS: list[tuple[str, str, list[Any], list[Any], list[Any]]] = [
    (BOTH, "num_cpus", [0, 1, 0.5, None, True], ["1", []], [-1, float("nan"), 0.00001]),
    (BOTH, "num_gpus", [0, 1, 0.5, 2.0, None], ["1"], [-1, 1.5, 2.5, 0.00001]),
    (BOTH, "memory", [0, 1, 0.5, 1e9, None], ["1GB"], [-1]),
    ("actor", "object_store_memory", [0, 1, None], [0.5], [-1]),
    ("task", "object_store_memory", [None], [0.5], [0, 1]),
    (BOTH, "resources", [{}, None, {"a": 1}, {"a": 0.5}, {"a": True}],
     [[], {"a": "1"}, {"a": None}, {1: 1}], [{"CPU": 1}, {"GPU": 1}, {"memory": 1}, {"a": -1}]),
    (BOTH, "accelerator_type", ["V100", None], [1], []),
    (BOTH, "runtime_env", [{}, None, {"env_vars": {"a": "b"}}], ["x"], []),
    (BOTH, "scheduling_strategy",
     ["DEFAULT", "SPREAD", None, PlacementGroupSchedulingStrategy()], [5], ["default", "other"]),
    (BOTH, "placement_group", ["default", None], [5], ["other"]),
    (BOTH, "placement_group_bundle_index", [-1, 0], [None, "a"], []),
    (BOTH, "placement_group_capture_child_tasks", [True, None], [1], []),
    (BOTH, "enable_task_events", [True, False], [None, 1], []),
    (BOTH, "_labels", [{}, None, {"a": "b"}], ["x"], []),
    (BOTH, "label_selector",
     [{}, None, {"a": "b"}, {"a": "!b"}, {"a": "in(b,c)"}, {"a": "!in(b, c)"}, {"a": ""},
      {"a": None}, {"x.io/a": "c"}],
     ["x", {"a": 1}, {1: "a"}, {"a": ["b"]}],
     [{"a b": "c"}, {"a": "in("}, {"-a": "c"}, {"a": "-c"}, {"a": "in()"}, {"a" * 64: "c"}]),
    (BOTH, "fallback_strategy",
     [[], None, [{"label_selector": {"a": "b"}}], [{"label_selector": {}}]],
     ["x", {}, [{"label_selector": {"a": 1}}]], [[{"x": 1}], [1], [{}]]),
    ("task", "name", ["a", "", None], [1], []),
    ("actor", "name", ["a", None], [1], [""]),
    ("method", "name", ["a", "", None], [1], []),
    ("task method", "num_returns", [0, 1, 3, None, "dynamic", "streaming", True],
     ["other", 1.5, [1]], [-1]),
    ("task", "retry_exceptions", [True, False, [ValueError], (ValueError,), []],
     [ValueError, None, 1], [[1], ["ValueError"], [BaseException], [KeyboardInterrupt]]),
    ("method", "retry_exceptions", [True, None, [ValueError]], [ValueError, 1], [[1]]),
    ("task", "max_retries", [0, -1, 5, None], [1.5, "1"], [-2]),
    ("task", "max_calls", [0, 1, None], [1.5, "1"], [-1]),
    ("task method", "_generator_backpressure_num_objects", [1, -1, None], ["1", 1.5], [0]),
    ("task method", "_num_objects_per_yield", [1, None], ["1"], [0, -1]),
    ("task", "priority", [0, 5, -5], ["high", None, 0.5], []),
    ("actor", "max_restarts", [0, -1, 3, None], [1.5, "1"], [-2]),
    ("actor method", "max_task_retries", [0, -1, 3, None], [1.5, "1"], [-2]),
    ("actor", "max_concurrency", [0, 1, None], [1.5, "2"], [-1]),
    ("actor", "max_pending_calls", [-1, 0, 1, None], [1.5], [-2]),
    ("actor", "concurrency_groups", [{}, None, [], {"io": 2}], ["x", {"io": "2"}, {1: 2}],
     [{"io": 0}, {"io": -1}, [("io", 2)]]),
    ("actor", "namespace", ["a", None], [1], [""]),
    ("actor", "lifetime", ["detached", "non_detached", None], [1], ["x"]),
    ("actor", "get_if_exists", [False], [None, 1], [True]),
    ("actor", "allow_out_of_order_execution", [True, None], [1], []),
    ("actor", "enable_tensor_transport", [True, None], [1], []),
    ("actor", "_actor_generator_backpressure_num_objects", [1, -1, None], [0.5], [0, -2]),
    ("method", "concurrency_group", ["io", None], [1], []),
    ("method", "tensor_transport", ["nccl", "object_store", None], [1], ["x"]),
    ("method", "enable_task_events", [True, None], [1], []),
]  # fmt: skip
CASES = [
    pytest.param(kind, name, *values, id=f"{kind}-{name}") for kinds, name, *values in ROWS for kind in kinds.split()
]


@pytest.mark.parametrize(("kind", "name", "good", "wrong_types", "wrong_values"), CASES)
def test_a_bad_value_is_refused_with_rays_class_of_error(kind, name, good, wrong_types, wrong_values):
    for value in good:
        CHECKS[kind]({name: value})
    for value in wrong_types:
        with pytest.raises(TypeError, match=name):
            CHECKS[kind]({name: value})
    for value in wrong_values:
        with pytest.raises(ValueError, match=name):
            CHECKS[kind]({name: value})


def test_the_options_are_those_of_ray():
    assert set(TASK_DEFAULTS) == TASK | {"priority"}
    assert set(ACTOR_DEFAULTS) == ACTOR
    assert set(METHOD_DEFAULTS) == METHOD


def test_every_option_has_a_row_of_examples():
    tried = {(kind, name) for kinds, name, *_ in ROWS for kind in kinds.split()}
    known = {"task": TASK_DEFAULTS, "actor": ACTOR_DEFAULTS, "method": METHOD_DEFAULTS}
    missing = {(kind, name) for kind, names in known.items() for name in names} - tried
    assert missing == {("method", "_labels")}


def test_defaults_pass_their_own_checks():
    check_task_options(TASK_DEFAULTS)
    check_actor_options(ACTOR_DEFAULTS)
    check_method_options(METHOD_DEFAULTS)


@pytest.mark.parametrize("kind", CHECKS)
def test_an_unknown_option_lists_the_valid_ones(kind):
    with pytest.raises(UnknownOption, match=r"'colour' is not an option of .*name") as info:
        CHECKS[kind]({"colour": "red"})
    assert isinstance(info.value, ValueError) and isinstance(info.value, TypeError)
    assert "_labels" not in str(info.value)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean num_cpus\?"):
        check_task_options({"num_cpu": 1})
    with pytest.raises(ValueError, match=r"did you mean max_restarts\?"):
        check_actor_options({"max_restart": 1})


def test_an_option_of_something_else_says_of_what():
    with pytest.raises(ValueError, match="one of actors and methods"):
        check_task_options({"max_task_retries": 1})
    with pytest.raises(TypeError, match="one of tasks and actors"):
        check_method_options({"num_cpus": 1})


def test_some_options_cannot_be_changed_later():
    check_task_options({"max_calls": 1})
    with pytest.raises(ValueError, match="max_calls"):
        check_task_options({"max_calls": 1}, again=True)
    with pytest.raises(ValueError, match="concurrency_groups"):
        check_actor_options({"concurrency_groups": {"io": 2}}, again=True)
    with pytest.raises(ValueError, match="_num_objects_per_yield"):
        check_method_options({"_num_objects_per_yield": 1}, again=True)


@pytest.mark.parametrize("check", [check_task_options, check_method_options])
def test_streaming_needs_a_generator(check):
    for returns in ("streaming", "dynamic"):
        check({"num_returns": returns}, generator=True)
        check({"num_returns": returns})
        with pytest.raises(ValueError, match="yields"):
            check({"num_returns": returns}, generator=False)
    check({"num_returns": 2}, generator=False)


def test_get_if_exists_needs_a_name():
    check_actor_options({"get_if_exists": True, "name": "a"})
    with pytest.raises(ValueError, match="name="):
        check_actor_options({"get_if_exists": True, "name": ""})


def test_a_placement_group_is_given_once():
    class PlacementGroup:
        pass

    check_task_options({"placement_group": PlacementGroup()})
    check_task_options({"placement_group": None, "scheduling_strategy": "SPREAD"})
    with pytest.raises(ValueError, match="scheduling_strategy"):
        check_task_options({"placement_group": PlacementGroup(), "scheduling_strategy": "SPREAD"})


def test_a_later_option_replaces_the_earlier_one_whole():
    old = {"num_cpus": 1, "resources": {"a": 1}, "runtime_env": {"env_vars": {"x": "1", "y": "2"}}}
    new = merge(old, {"resources": {"b": 1}, "runtime_env": {"env_vars": {"y": "3"}}})
    assert new == {
        "num_cpus": 1, "resources": {"b": 1}, "runtime_env": {"env_vars": {"y": "3"}},
    }  # fmt: skip
    assert merge(old, {"resources": None})["resources"] is None
    assert old["resources"] == {"a": 1}


@pytest.mark.parametrize("empty", [None, {}])
def test_an_empty_runtime_env_leaves_the_earlier_one(empty):
    old = {"runtime_env": {"env_vars": {"x": "1"}}}
    assert merge(old, {"runtime_env": empty}) == old
    assert merge({}, {"runtime_env": empty}) == {"runtime_env": empty}


def test_kinds_of_streams_have_numbers_of_their_own():
    assert (table.STREAMING, table.DYNAMIC) == (-1, -2)
