"""Placement groups of a Ray cluster."""

from __future__ import annotations

from typing import Any

import ray
from ray.util import placement_group as make
from ray.util.placement_group import PlacementGroup

from skate.core import groups as asked
from skate.core import ids
from skate.core.resources import as_floats
from skate.core.spec import GroupSpec
from skate.engines.ray.options import as_text


class _Carrier(PlacementGroup):  # type: ignore[misc]
    """Ray's group, which travels as another value: the one that ``ready()`` is to give."""

    def __init__(self, group: int, value: Any) -> None:
        super().__init__(ray.PlacementGroupID(ids.group_binary(group)))
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _same, (self.value,)


def _same(value: Any) -> Any:
    return value


def native(group: int) -> Any:
    """Ray's own group of that key."""
    return PlacementGroup(ray.PlacementGroupID(ids.group_binary(group)))


def reserve(spec: GroupSpec) -> int:
    """Make a group in the namespace of this process; its key."""
    selectors = [{test.name: as_text(test) for test in selector} for selector in spec.selectors]
    given: dict[str, Any] = {"strategy": spec.strategy}
    if spec.domain:
        given = {"topology_strategy": {asked.NODE_LABEL: spec.strategy, spec.domain: "STRICT_PACK"}}
    made = make(
        [as_floats(bundle) for bundle in spec.bundles],
        name=spec.name,
        lifetime="detached" if spec.detached else None,
        _soft_target_node_id=spec.target or None,
        bundle_label_selector=selectors or None,
        **given,
    )
    return ids.foreign(made.id.binary())


def unreserve(group: int) -> None:
    """Remove a group."""
    ray.util.remove_placement_group(native(group))


def ready(group: int, value: Any) -> Any:
    """Ray's reference to `value` once the group is ready."""
    if ray.util.client.ray.is_connected():  # Ray's own way takes a group as it is, which a carrier is not when sent
        return ray.remote(num_cpus=0)(_wait_there).remote(group, value)
    return _Carrier(group, value).ready()


def _wait_there(group: int, value: Any) -> Any:
    return ray.get(_Carrier(group, value).ready())


def find(name: str) -> int:
    """The key of a named group of this process's namespace; ValueError when there is none."""
    return ids.foreign(ray.util.get_placement_group(name).id.binary())


def row(group: int) -> dict[str, Any] | None:
    """What is known of a group."""
    found = ray.util.placement_group_table(native(group))
    return _row(found) if found else None


def rows() -> list[dict[str, Any]]:
    """What is known of all groups."""
    return [_row(found) for found in ray.util.placement_group_table().values()]


def _row(found: dict[str, Any]) -> dict[str, Any]:
    bundles, nodes = found["bundles"], found["bundles_to_node_id"]
    return {**found, "bundles": list(bundles.values()), "nodes": [nodes.get(number, "") for number in bundles]}
