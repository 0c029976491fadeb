"""Resources: exact integers, Ray's rules for what a task and an actor take."""

from __future__ import annotations

import math

import pytest

from skate.core.resources import (
    actor_resources,
    as_floats,
    check_custom,
    fits,
    from_amounts,
    give,
    take,
    task_resources,
    to_units,
)


@pytest.mark.parametrize(
    ("amount", "units"),
    [(1, 10_000), (0, 0), (0.5, 5_000), (True, 10_000), (0.12349, 1_234), (1.00005, 10_000),
     (0.0001, 1), (0.00015, 1), (0.57, 5_700), (0.29, 2_900), (1.1, 11_000), (64.3, 643_000)],
)  # fmt: skip
def test_an_amount_becomes_units_and_digits_after_the_fourth_are_cut_off(amount, units):
    assert to_units(amount) == units


def test_every_amount_of_four_digits_is_exact():
    assert all(to_units(n / 10_000) == n for n in range(30_000))


def test_memory_counts_whole_bytes():
    assert to_units(1 << 50, "memory") == 1 << 50
    assert to_units(100.7, "memory") == 100


@pytest.mark.parametrize("amount", [-1, -0.1, math.nan, math.inf, 0.00001])
def test_amounts_that_mean_nothing_are_refused_by_name(amount):
    with pytest.raises(ValueError, match="num_cpus"):
        to_units(amount, "num_cpus")


@pytest.mark.parametrize("amount", ["1", None, [1]])
def test_what_is_no_number_is_a_type_error(amount):
    with pytest.raises(TypeError, match="num_cpus must be a number"):
        to_units(amount, "num_cpus")


@pytest.mark.parametrize("name", ["GPU", "num_gpus"])
def test_more_than_one_gpu_is_a_whole_number(name):
    assert to_units(0.5, name) == 5_000 and to_units(2.0, name) == 20_000
    with pytest.raises(ValueError, match="whole number"):
        to_units(1.5, name)


@pytest.mark.parametrize(("name", "instead"), [("CPU", "num_cpus"), ("GPU", "num_gpus"), ("memory", "memory=")])
def test_resources_with_an_option_of_their_own_are_refused_among_the_custom_ones(name, instead):
    with pytest.raises(ValueError, match=instead):
        check_custom({name: 1})


def test_custom_resources_are_checked_by_name():
    check_custom({"disk": 1, "node:x": 0.01, "none": 0})
    with pytest.raises(ValueError, match="'disk'"):
        check_custom({"disk": -1})
    with pytest.raises(TypeError, match="'disk'"):
        check_custom({"disk": "1"})
    with pytest.raises(TypeError, match="strings"):
        check_custom({1: 1})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"CPU": 1}),
        ({"num_cpus": 0}, {}),
        ({"num_cpus": None}, {}),
        ({"num_cpus": 1.5, "num_gpus": 0.5}, {"CPU": 1.5, "GPU": 0.5}),
        ({"resources": {"a": 2.5, "b": 0}}, {"CPU": 1, "a": 2.5}),
        ({"resources": None, "memory": 1000}, {"CPU": 1, "memory": 1000}),
        ({"accelerator_type": "V100"}, {"CPU": 1, "accelerator_type:V100": 0.001}),
    ],
)
def test_a_task_takes_one_cpu_unless_it_says_otherwise(options, expected):
    assert as_floats(task_resources(options)) == expected


@pytest.mark.parametrize(
    ("options", "placement", "held"),
    [
        ({}, {"CPU": 1}, {}),
        ({"num_cpus": None}, {"CPU": 1}, {}),
        ({"memory": 1000}, {"CPU": 1, "memory": 1000}, {"memory": 1000}),
        ({"resources": {}}, {"CPU": 1}, {}),
        ({"num_cpus": 0}, {}, {}),
        ({"num_cpus": 2}, {"CPU": 2}, {"CPU": 2}),
        ({"num_gpus": 1}, {"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}),
        ({"num_gpus": 0}, {"CPU": 1}, {"CPU": 1}),
        ({"resources": {"a": 1}}, {"CPU": 1, "a": 1}, {"CPU": 1, "a": 1}),
        ({"num_cpus": 0.5, "num_gpus": 0.5}, {"CPU": 0.5, "GPU": 0.5}, {"CPU": 0.5, "GPU": 0.5}),
    ],
)
def test_an_actor_holds_only_what_it_names(options, placement, held):
    assert tuple(map(as_floats, actor_resources(options))) == (placement, held)


def test_equal_needs_are_equal_values():
    one = task_resources({"num_gpus": 1, "resources": {"b": 1, "a": 2, "none": 0}})
    two = task_resources({"resources": {"a": 2.0, "b": 1}, "num_gpus": 1.0, "num_cpus": 1})
    assert one == two == (("CPU", 10_000), ("GPU", 10_000), ("a", 20_000), ("b", 10_000))
    assert from_amounts({"CPU": 0.1, "memory": 7, "x": 0}) == (("CPU", 1_000), ("memory", 7))


def test_what_is_taken_and_given_back_leaves_exactly_what_there_was():
    need = from_amounts({"CPU": 0.1})
    free = {"CPU": 10_000}
    for _ in range(10):
        assert fits(need, free)
        take(need, free)
    assert free == {"CPU": 0} and not fits(need, free)
    for _ in range(10):
        give(need, free)
    assert free == {"CPU": 10_000}


def test_a_resource_that_is_not_there_does_not_fit():
    assert not fits((("GPU", 1),), {"CPU": 10_000})
    assert fits((), {})


def test_taking_may_go_below_zero():
    free: dict[str, int] = {}
    take((("CPU", 5),), free)
    assert free == {"CPU": -5}
