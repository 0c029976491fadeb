"""Placement groups as they are asked for: the checks, the errors, and the rows that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skate.core import ids
from skate.core.options import check_labels
from skate.core.placement import Selector, parse_selector
from skate.core.refs import NodeID
from skate.core.resources import as_floats, fits, from_amounts
from skate.core.spec import GroupSpec, Resources
from skate.exceptions import (
    ActorPlacementGroupRemoved,
    ActorUnschedulableError,
    RaySystemError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
)

NODE_LABEL = "ray.io/node-id"
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
PENDING, CREATED, RESCHEDULING, REMOVED = "PENDING", "CREATED", "RESCHEDULING", "REMOVED"
"""States of a group, by Ray's names. One that is rescheduled has lost some of its bundles with their node."""


class GroupNameTaken(RaySystemError, ValueError):
    """The name belongs to another placement group. Ray raises RaySystemError; it is a wrong value as well."""


class GroupUnschedulable(TaskUnschedulableError):
    """What a placement group asks for is more than there is."""

    def __str__(self) -> str:
        return self.error_message


class Misfit(TaskUnschedulableError, ValueError):
    """A call asks for more than a bundle of its placement group has. Where that is seen at once it is a ValueError."""


class ActorGroupRemoved(ActorUnschedulableError, ActorPlacementGroupRemoved):
    """The placement group of an actor that had not started was removed. Ray raises ActorUnschedulableError."""


def group_spec(
    bundles: Any,
    strategy: Any,
    name: Any,
    namespace: str,
    lifetime: Any,
    target: Any,
    selectors: Any,
    topology: Any,
) -> GroupSpec:
    """A group from what a user wrote.

    Raises ValueError for what cannot be, TypeError for a name that is no string.
    """
    strategy, domain = _topology(strategy, topology)
    if strategy not in STRATEGIES:
        raise ValueError(f"A placement group's strategy is one of {', '.join(STRATEGIES)}, not {strategy!r}.")
    if not isinstance(name, str):
        raise TypeError(f"A placement group's name must be a string, not {name!r}.")
    if lifetime not in (None, "detached"):
        raise ValueError(f"A placement group's lifetime is None or 'detached', not {lifetime!r}.")
    if target and strategy != "STRICT_PACK":
        raise ValueError(f"_soft_target_node_id works with STRICT_PACK, not with {strategy}.")
    needs = _bundles(bundles)
    return GroupSpec(
        needs,
        strategy,
        name,
        namespace,
        lifetime == "detached",
        _selectors(selectors, len(needs)),
        _node(target),
        domain,
    )


def _topology(strategy: Any, given: Any) -> tuple[Any, str]:
    """The strategy over nodes, and the label whose value all nodes of the group must share."""
    if given is None:
        return "PACK" if strategy is None else strategy, ""
    if strategy is not None:
        raise ValueError(f"Give strategy= or topology_strategy=, which may have {NODE_LABEL!r} in it, not both.")
    if not isinstance(given, dict) or not given or not all(isinstance(name, str) for name in given):
        raise ValueError(f"topology_strategy is a dict from labels to strategies, not {given!r}.")
    others = {name: value for name, value in given.items() if name != NODE_LABEL}
    if len(others) > 1 or any(value != "STRICT_PACK" for value in others.values()):
        raise ValueError(
            f"topology_strategy takes {NODE_LABEL!r} with any strategy, and one more label with 'STRICT_PACK', not "
            f"{given!r}."
        )
    return given.get(NODE_LABEL, "PACK"), next(iter(others), "")


def _bundles(given: Any) -> tuple[Resources, ...]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"bundles must be a list of dicts such as [{{'CPU': 1}}], and not be empty; got {given!r}.")
    return tuple(_bundle(bundle) for bundle in given)


def _bundle(given: Any) -> Resources:
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"A bundle is a dict such as {{'CPU': 1, 'GPU': 0.5}}, not {given!r}.")
    try:
        need = from_amounts(given)
    except TypeError as error:
        raise ValueError(f"A bundle has amounts of resources: {error}") from error
    if not need:
        raise ValueError(f"A bundle must have something in it: {given!r} has nothing above zero.")
    return need


def _selectors(given: Any, count: int) -> tuple[Selector, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise ValueError(f"bundle_label_selector must be a list of dicts, one for each bundle, not {given!r}.")
    if len(given) != count:
        raise ValueError(f"bundle_label_selector has {len(given)} selectors for {count} bundles: one for each.")
    for entry in given:
        if not all(isinstance(name, str) and isinstance(test, str) for name, test in entry.items()):
            raise ValueError(f"bundle_label_selector maps strings to strings, which {entry!r} does not.")
        check_labels("bundle_label_selector", entry)
    return tuple(map(parse_selector, given)) if any(given) else ()


def _node(given: Any) -> str:
    if not given:
        return ""
    try:
        found = NodeID.from_hex(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"_soft_target_node_id is a node's id in 56 hexadecimal digits, not {given!r}.") from error
    if found.is_nil():
        raise ValueError("_soft_target_node_id names no node.")
    return found.hex()


def check_bundle(number: int, count: int) -> None:
    """ValueError unless a group of `count` bundles has one of that number; -1 stands for any."""
    if not -1 <= number < count:
        if not count:
            raise ValueError(f"placement group bundle index {number} is given, but no placement group.")
        raise ValueError(
            f"placement group bundle index {number} is invalid: this group has the bundles 0 to {count - 1}, and -1 "
            "stands for any of them."
        )


def check_fit(needs: Sequence[Resources], bundles: Sequence[Mapping[str, float]], number: int) -> None:
    """ValueError when one of `needs` is more than there is in bundle `number`; -1: in every one."""
    chosen = [dict(from_amounts(bundle)) for bundle in (bundles if number < 0 else bundles[number : number + 1])]
    for need in needs:
        if not any(fits(need, total) for total in chosen):
            raise ValueError(misfit(need, bundles, number))


def misfit(need: Resources, bundles: Sequence[Mapping[str, float]], number: int) -> str:
    """Why a call cannot run in a group, in words."""
    where = "any bundle" if number < 0 else f"bundle {number}"
    text = f"The resource request {_amounts(need)} cannot fit into {where} of the placement group, {list(bundles)}."
    if need == (("CPU", 10_000),):
        text += " (Tasks take 1 CPU, and actors need 1 CPU to start, unless num_cpus= says otherwise.)"
    return text


def _amounts(need: Resources) -> str:
    return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in as_floats(need).items()) + "}"


def why_never(spec: GroupSpec, nodes: Sequence[Mapping[str, int]]) -> str:
    """Why a group can never be placed, in words; `nodes` are the totals of those there are."""
    name = f" {spec.name!r}" if spec.name else ""
    asked = ", ".join(map(_amounts, spec.bundles[:8])) + (", ..." if len(spec.bundles) > 8 else "")
    labels = ", with labels," if spec.selectors else ""
    there = ", and ".join(_amounts(tuple(sorted(total.items()))) for total in nodes)
    return (
        f"The placement group{name} can never be placed here: it asks for [{asked}]{labels} with {spec.strategy}, and "
        f"there is {there}."
    )


def group_removed(group: int) -> TaskPlacementGroupRemoved:
    """What waits for a group that was removed, or never was, gets."""
    text = f"The placement group {ids.group_binary(group).hex()} was removed, or is not of this session."
    return TaskPlacementGroupRemoved(text)


def actor_group_removed(label: str, group: int) -> ActorGroupRemoved:
    """What calls of an actor get that was to start in a group that was removed."""
    return ActorGroupRemoved(
        f"{label} could not start because its placement group {ids.group_binary(group).hex()} was removed."
    )


def name_taken(spec: GroupSpec) -> GroupNameTaken:
    """For a name that another group of the namespace has."""
    return GroupNameTaken(
        f"The placement group name {spec.name!r} is taken in namespace {spec.namespace!r}: choose another, remove that "
        "group, or get it by get_placement_group."
    )


def no_such_name(name: str, namespace: str) -> ValueError:
    """For a name that no group has."""
    return ValueError(
        f"Failed to look up placement group with name {name!r}: there is none in namespace {namespace!r}."
    )


def row(key: int, spec: GroupSpec, state: str, nodes: Sequence[str], stats: dict[str, Any]) -> dict[str, Any]:
    """A group's row of the table; `nodes` has the id of each bundle's node, empty where there is none."""
    return {
        "placement_group_id": ids.group_binary(key).hex(),
        "name": spec.name,
        "namespace": spec.namespace,
        "strategy": spec.strategy,
        "state": state,
        "is_detached": spec.detached,
        "bundles": [as_floats(bundle) for bundle in spec.bundles],
        "nodes": list(nodes),
        "stats": stats,
    }
