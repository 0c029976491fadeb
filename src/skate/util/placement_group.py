"""Placement groups: resources set aside together, as bundles, for calls that name the group.

::

    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    get(group.ready())
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    task.options(scheduling_strategy=strategy).remote()
    remove_placement_group(group)
"""

from __future__ import annotations

from typing import Any

from skate.core import engine as engines
from skate.core import groups, ids
from skate.core.placement import Where
from skate.core.refs import ObjectRef, PlacementGroupID
from skate.core.spec import Resources

__all__ = [
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]


class PlacementGroup:
    """A name for a placement group. It may travel; the group lives until it is removed, or its job ends.

    Args:
        id: the group's id.
        bundle_cache: what its bundles have, where that is known.
    """

    def __init__(self, id: PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None) -> None:
        self.id = id
        self.bundle_cache = bundle_cache

    @staticmethod
    def empty() -> PlacementGroup:
        """The group that is none."""
        return PlacementGroup(PlacementGroupID.nil())

    @property
    def is_empty(self) -> bool:
        """Whether this is no group."""
        return self.id.is_nil()

    def ready(self) -> ObjectRef[PlacementGroup]:
        """An object that is ready once the group has all its resources; its value is this group.

        It fails with TaskPlacementGroupRemoved when the group is removed before that. To wait for it without a timeout
        raises TaskUnschedulableError when the group can never be placed here.
        """
        engine = engines.current()
        return engine.put(self) if self.is_empty else engine.await_group(self._key(), self)

    def wait(self, timeout_seconds: float | None = 30) -> bool:
        """Whether the group has all its resources within so many seconds; None: as long as it takes.

        Raises TaskPlacementGroupRemoved when it was removed.
        """
        engine = engines.current()
        ref = self.ready()
        ready, _ = engine.wait([ref], 1, timeout_seconds if timeout_seconds is None else max(0.0, timeout_seconds))
        return bool(ready and engine.get([ref], None))

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle has, by the resources' names. KeyError for a group that is not known."""
        found = self._bundles()
        if found is None:
            raise KeyError(f"The placement group {self.id.hex()} is not known here.")
        return found

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return len(self.bundle_specs)

    def where(self, bundle: int, capture: bool | None) -> Where:
        """A wish to run in this group, as engines know it; ValueError for a bundle that it does not have.

        `capture`: whether what the call starts goes into the group too; None: as with what the caller itself starts.
        """
        if self.is_empty:
            groups.check_bundle(bundle, 0)
            return Where()
        known = self._bundles()
        if known is not None:
            groups.check_bundle(bundle, len(known))
        if capture is None:
            engine = engines.running()
            capture = engine is not None and engine.context().capture
        return Where(group=self._key(), bundle=bundle, capture=capture)

    def check_fit(self, needs: tuple[Resources, ...], bundle: int) -> None:
        """ValueError when one of `needs` is more than there is in a bundle; -1: in every one."""
        known = self._bundles()
        if known is not None:
            groups.check_fit(needs, known, bundle)

    def _bundles(self) -> list[dict[str, float]] | None:
        if not self.bundle_cache and not self.is_empty:
            row = engines.current().group(self._key())
            self.bundle_cache = row["bundles"] if row is not None else None
        return self.bundle_cache

    def _key(self) -> int:
        return ids.parse_group(self.id.binary())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: dict[str, str] | None = None,
) -> PlacementGroup:
    """Set resources aside together, as soon as they are free. Returns at once; see `PlacementGroup.ready`.

    Args:
        bundles: what each bundle has: ``[{"CPU": 2}, {"CPU": 1, "GPU": 0.5}]``; ``"memory"`` in bytes. A bundle lies on
            one node.
        strategy: ``"PACK"`` (the default): on as few nodes as possible; ``"SPREAD"``: on as many as possible;
            ``"STRICT_PACK"``: on one; ``"STRICT_SPREAD"``: each on another.
        name: by which `get_placement_group` finds it, in the caller's namespace.
        lifetime: None: until it is removed, or the driver's job ends; ``"detached"``: until it is removed.
        _soft_target_node_id: with STRICT_PACK: the id, in hexadecimal, of a node that is to be preferred.
        bundle_label_selector: for each bundle, labels that its node must have: ``[{"zone": "in(a, b)"}, {}]``.
        topology_strategy: instead of `strategy`: that under ``"ray.io/node-id"``, and ``"STRICT_PACK"`` under a label
            of which all nodes of the group must have the same value.

    Raises:
        ValueError: anything of this is wrong; the name is taken (as a RaySystemError too).
        TypeError: the name is no string.
    """
    engine = engines.current()
    namespace = engine.context().namespace
    spec = groups.group_spec(
        bundles, strategy, name, namespace, lifetime, _soft_target_node_id, bundle_label_selector, topology_strategy
    )
    known = [{resource: float(amount) for resource, amount in bundle.items()} for bundle in bundles]
    return _named(engine.reserve(spec), known)


def validate_placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: dict[str, str] | None = None,
) -> None:
    """ValueError for arguments that `placement_group` would refuse; makes nothing."""
    groups.group_spec(
        bundles, strategy, "", "", lifetime, _soft_target_node_id, bundle_label_selector, topology_strategy
    )


def check_placement_group_index(placement_group: PlacementGroup, bundle_index: int) -> None:
    """ValueError unless a group has a bundle of this number; -1 is any, and all that the empty group has."""
    if placement_group.is_empty and bundle_index != -1:
        raise ValueError(f"No placement group is given, so the index of a bundle must be -1, not {bundle_index}.")
    if not placement_group.is_empty:
        groups.check_bundle(bundle_index, placement_group.bundle_count)


def _named(key: int, bundles: list[dict[str, float]] | None = None) -> PlacementGroup:
    return PlacementGroup(PlacementGroupID(ids.group_binary(key)), bundles)


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Remove a group, and give its resources back. Harmless when that was done before.

    Tasks and actors that run in it are ended, and do not run again; those that wait to run in it fail.
    """
    assert placement_group is not None, "remove_placement_group needs a placement group, not None"
    engines.current().unreserve(placement_group._key())


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group of that name in the caller's namespace; ValueError when there is none."""
    if not placement_group_name:
        raise ValueError("get_placement_group needs the name of a placement group.")
    engine = engines.current()
    return _named(engine.find_group(placement_group_name, engine.context().namespace))


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What is known of a group ({}: nothing), or of all, by their ids in hexadecimal.

    The state is PENDING, CREATED, REMOVED, or RESCHEDULING when a node with some of the bundles has died.
    """
    engine = engines.current()
    if placement_group is None:
        return {row["placement_group_id"]: _shown(row) for row in engine.state("placement_groups")}
    row = engine.group(placement_group._key())
    return _shown(row) if row is not None else {}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "placement_group_id": row["placement_group_id"],
        "name": row["name"],
        "bundles": dict(enumerate(row["bundles"])),
        "bundles_to_node_id": dict(enumerate(row["nodes"])),
        "strategy": row["strategy"],
        "state": row["state"],
        "stats": row["stats"],
    }


def get_current_placement_group() -> PlacementGroup | None:
    """The group that the calling task or actor runs in; None outside of one, and in the driver."""
    key = engines.current().context().group
    return _named(key) if key else None
