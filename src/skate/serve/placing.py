"""Placement groups of replicas: one for each that asks for bundles, one for all of a gang. Names find them again."""

from __future__ import annotations

from typing import Any

import skate
from skate.serve.config import DeploymentConfig
from skate.serve.gang import GangContext
from skate.serve.state import GROUP


def placed(config: DeploymentConfig, options: dict[str, Any], name: str, gang: GangContext | None) -> Any:
    """The placement group for a replica, whose actor's options are made to name it; None: it needs none."""
    bundles = [dict(bundle) for bundle in config.placement_group_bundles or ()]
    if gang is None and not bundles:
        return None
    if gang is None:
        group = _made(bundles, config.placement_group_strategy or "PACK", group_name(name, None), config)
        return _named(options, group, 0)
    assert config.gang_scheduling_config is not None
    own = bundles or [_needs(options)]
    if not own[0]:
        return None  # it needs nothing, so there is room
    group = found(config, name, gang)
    if group is None:
        strategy = str(config.gang_scheduling_config.gang_placement_strategy)
        group = _made(own * gang.world_size, strategy, group_name(name, gang), config)
    return _named(options, group, gang.rank * len(own))


def found(config: DeploymentConfig, name: str, gang: GangContext | None) -> Any:
    """The placement group that a replica is in; None: in none."""
    if gang is None and config.placement_group_bundles is None:
        return None
    try:
        return skate.util.get_placement_group(group_name(name, gang))
    except ValueError:
        return None


def group_name(replica: str, gang: GangContext | None) -> str:
    """What the group of a replica's actor, or of its gang, is called."""
    return gang.pg_name if gang is not None else GROUP + replica


def remove_others(wanted: set[str]) -> None:
    """Remove the groups of replicas that are gone, which a controller before this one did not come to."""
    for row in skate.util.placement_group_table().values():
        name = row["name"]
        if name.startswith(GROUP) and name not in wanted and row["state"] != "REMOVED":
            try:
                skate.util.remove_placement_group(skate.util.get_placement_group(name))
            except ValueError:
                continue  # it went in this moment


def _made(bundles: list[dict[str, float]], strategy: str, name: str, config: DeploymentConfig) -> Any:
    selectors = config.placement_group_bundle_label_selector
    more: dict[str, Any] = {}
    if selectors is not None:
        more["bundle_label_selector"] = selectors * (len(bundles) // len(selectors))
    return skate.util.placement_group(bundles, strategy=strategy, name=name, lifetime="detached", **more)


def _named(options: dict[str, Any], group: Any, bundle: int) -> Any:
    options["scheduling_strategy"] = skate.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=bundle, placement_group_capture_child_tasks=True
    )
    return group


def _needs(options: dict[str, Any]) -> dict[str, float]:
    """The resources that a replica asks for, as a bundle."""
    named = {"CPU": options.get("num_cpus"), "GPU": options.get("num_gpus"), "memory": options.get("memory")}
    return {name: amount for name, amount in {**named, **(options.get("resources") or {})}.items() if amount}
