"""Where a task or an actor is to run: what ``scheduling_strategy=`` takes besides ``"DEFAULT"`` and ``"SPREAD"``.

::

    task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skate.core.placement import LabelTest, Selector, Where
from skate.core.refs import NodeID

__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]


class PlacementGroupSchedulingStrategy:
    """Run in what a placement group has reserved.

    Args:
        placement_group: the group; None: in none; "default": in that of the caller, if it captures what it starts.
        placement_group_bundle_index: in that bundle of it; -1: in any that has room.
        placement_group_capture_child_tasks: whether what is started inside goes into the group too; None: as the
            caller's own surroundings have it.
    """

    def __init__(
        self,
        placement_group: Any,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def where(self) -> Where:
        """The wish as engines know it."""
        if self.placement_group in (None, "default"):
            return Where()
        where: Where = self.placement_group.where(
            self.placement_group_bundle_index, self.placement_group_capture_child_tasks
        )
        return where


class NodeAffinitySchedulingStrategy:
    """Run on one node.

    Args:
        node_id: the node's id in hexadecimal, as `nodes` and ``get_runtime_context().get_node_id()`` have it, or a
            `NodeID`.
        soft: go elsewhere when there is no such node (any more), or it can never run the call. Otherwise the call fails
            with TaskUnschedulableError or ActorUnschedulableError.
        _spill_on_unavailable: with `soft`: go elsewhere also while that node has no room.
        _fail_on_unavailable: without `soft`: fail when that node has no room at the moment.

    Raises ValueError for what is no id of a node, and for options that contradict each other.
    """

    def __init__(
        self,
        node_id: Any,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        self.node_id = node_id if isinstance(node_id, str) else node_id.hex()
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable
        _check_node_id(self.node_id)
        if _spill_on_unavailable and not soft:
            raise ValueError("_spill_on_unavailable needs soft=True: a hard wish names the only node there is.")
        if _fail_on_unavailable and soft:
            raise ValueError("_fail_on_unavailable needs soft=False: a soft wish goes elsewhere instead.")

    def where(self) -> Where:
        """The wish as engines know it."""
        return Where(
            node=self.node_id.lower(),
            soft=bool(self.soft),
            spill=bool(self._spill_on_unavailable),
            now=bool(self._fail_on_unavailable),
        )


def _check_node_id(text: str) -> None:
    try:
        found = NodeID.from_hex(text)
    except ValueError as error:
        raise ValueError(_no_id(text)) from error
    if found.is_nil():
        raise ValueError(_no_id(text))


def _no_id(text: str) -> str:
    return f"Invalid node_id {text!r}: it must be the 56 hexadecimal digits of a node's id. nodes() lists them."


class In:
    """The label has one of these values. ValueError for none, or for one that is no string."""

    def __init__(self, *values: str) -> None:
        self.values = _checked("In", values)


class NotIn:
    """The label has none of these values, or the node has no such label. ValueError as `In`."""

    def __init__(self, *values: str) -> None:
        self.values = _checked("NotIn", values)


class Exists:
    """The node has the label."""


class DoesNotExist:
    """The node does not have the label."""


def _checked(operator: str, values: tuple[Any, ...]) -> list[str]:
    if not values:
        raise ValueError(f'{operator}() needs one value or more, as in {operator}("a", "b").')
    for position, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"{operator}() takes strings; value {position} is {value!r} ({type(value).__name__}).")
    return list(values)


Operator = In | NotIn | Exists | DoesNotExist


class NodeLabelSchedulingStrategy:
    """Run on a node with certain labels.

    Args:
        hard: an operator for each label that counts: `In`, `NotIn`, `Exists`, `DoesNotExist`. Nodes that fail one are
            never used.
        soft: the same, for nodes that are to be preferred while they have room.

    Raises ValueError when both are empty, or not of that form.
    """

    def __init__(self, hard: Mapping[str, Operator] | None, *, soft: Mapping[str, Operator] | None = None) -> None:
        self.hard = _tests("hard", hard)
        self.soft = _tests("soft", soft)
        if not (self.hard or self.soft):
            raise ValueError("NodeLabelSchedulingStrategy needs labels in `hard`, in `soft`, or in both.")

    def where(self) -> Where:
        """The wish as engines know it."""
        return Where(selectors=(self.hard,) if self.hard else (), liked=self.soft)


def _tests(parameter: str, given: Any) -> Selector:
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise ValueError(f'{parameter} must be a dict such as {{"zone": In("a")}}, not {given!r}.')
    return tuple(_test(parameter, name, operator) for name, operator in given.items())


def _test(parameter: str, name: Any, operator: Any) -> LabelTest:
    if not isinstance(name, str):
        raise ValueError(f"{parameter} must have the names of labels for keys, not {name!r} ({type(name).__name__}).")
    if not isinstance(operator, Operator):
        raise ValueError(f"{parameter}[{name!r}] must be In(), NotIn(), Exists() or DoesNotExist(), not {operator!r}.")
    values = tuple(operator.values) if isinstance(operator, In | NotIn) else ()
    return LabelTest(name, values, isinstance(operator, NotIn | DoesNotExist))


SchedulingStrategyT = (
    None | str | PlacementGroupSchedulingStrategy | NodeAffinitySchedulingStrategy | NodeLabelSchedulingStrategy
)
"""What ``scheduling_strategy=`` takes."""
