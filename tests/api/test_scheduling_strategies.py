"""What strategies refuse, and what they come to."""

from __future__ import annotations

from typing import Any

import pytest

import skate
from skate.core.placement import LabelTest, Where
from skate.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)

NODE = "0b" * 28


@pytest.mark.parametrize("bad", ["", "zz", "ab", "ff" * 28, "zz" * 28, NODE + "00"])
def test_what_is_no_id_of_a_node_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="Invalid node_id"):
        NodeAffinitySchedulingStrategy(bad, soft=False)


def test_an_id_may_be_text_or_an_object() -> None:
    by_object = NodeAffinitySchedulingStrategy(skate.NodeID(bytes.fromhex(NODE)), True)
    assert by_object.node_id == NODE
    assert (
        by_object.where() == NodeAffinitySchedulingStrategy(NODE.upper(), True).where() == Where(node=NODE, soft=True)
    )


@pytest.mark.parametrize(
    ("soft", "options"), [(False, {"_spill_on_unavailable": True}), (True, {"_fail_on_unavailable": True})]
)
def test_options_that_contradict_each_other_are_refused(soft: bool, options: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="needs soft="):
        NodeAffinitySchedulingStrategy(NODE, soft, **options)
    assert NodeAffinitySchedulingStrategy(NODE, not soft, **options).where() != Where(node=NODE, soft=not soft)


def test_labels_become_tests() -> None:
    strategy = NodeLabelSchedulingStrategy(
        {"a": In("1", "2"), "b": NotIn("3"), "c": Exists(), "d": DoesNotExist()}, soft={"e": In("4")}
    )
    (hard,) = strategy.where().selectors
    assert strategy.where().liked == (LabelTest("e", ("4",)),)

    def passes(**labels: str) -> bool:
        return all(test.passes(labels) for test in hard)

    assert passes(a="1", c="") and passes(a="2", b="4", c="x")
    assert not passes(a="3", c="") and not passes(c="")
    assert not passes(a="1", b="3", c="")
    assert not passes(a="1") and not passes(a="1", c="", d="")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: In(), "one value or more"),
        (lambda: NotIn("a", 1), "value 1 is 1"),  # type: ignore[arg-type]
        (lambda: NodeLabelSchedulingStrategy({}), "needs labels"),
        (lambda: NodeLabelSchedulingStrategy(None), "needs labels"),
        (lambda: NodeLabelSchedulingStrategy([("a", Exists())]), "must be a dict"),  # type: ignore[arg-type]
        (lambda: NodeLabelSchedulingStrategy({1: Exists()}), "names of labels"),  # type: ignore[dict-item]
        (lambda: NodeLabelSchedulingStrategy({"a": "b"}), "In()"),  # type: ignore[dict-item]
        (lambda: NodeLabelSchedulingStrategy({}, soft={"a": In}), "In()"),  # type: ignore[dict-item]
    ],
)
def test_labels_of_the_wrong_form_are_refused(make: Any, what: str) -> None:
    with pytest.raises(ValueError, match="^.*" + what.replace("()", r"\(\)")):
        make()


def test_no_placement_group_is_no_wish() -> None:
    assert PlacementGroupSchedulingStrategy(None).where() == Where()
