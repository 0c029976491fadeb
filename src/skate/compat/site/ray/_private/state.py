"""The tables of Ray's control store, as far as libraries read them."""

from __future__ import annotations

import importlib
from typing import Any

import skate
from skate.core import engine as engines

__all__ = [
    "GlobalState",
    "actors",
    "available_resources",
    "available_resources_per_node",
    "cluster_resources",
    "current_node_id",
    "node_ids",
    "nodes",
    "state",
    "total_resources_per_node",
]

nodes = skate.nodes
cluster_resources = skate.cluster_resources
available_resources = skate.available_resources


def actors(actor_id: str | None = None, job_id: Any = None, actor_state_name: str | None = None) -> dict[str, Any]:
    """Facts about all actors by their ids in hexadecimal, or about the one with `actor_id` ({} if there is none).

    `actor_state_name` leaves those in that state; `job_id` has no effect, for a session is one job.
    """
    rows = {row["actor_id"]: _actor(row) for row in engines.current().state("actors")}
    if actor_id is not None:
        return rows.get(actor_id, {})
    return {key: row for key, row in rows.items() if actor_state_name in (None, row["State"])}


def _actor(row: dict[str, Any]) -> dict[str, Any]:
    context = engines.current().context()
    here = {"IPAddress": skate.util.get_node_ip_address(), "Port": 0, "NodeID": row.get("node_id") or context.node}
    return {
        "ActorID": row["actor_id"],
        "ActorClassName": row["class_name"],
        "IsDetached": row["is_detached"],
        "Name": row["name"],
        "JobID": row["job_id"],
        "Address": here,
        "OwnerAddress": here,
        "State": row["state"],
        "NumRestarts": row["num_restarts"],
        "Timestamp": 0.0,
        "StartTime": 0,
        "EndTime": 0,
        "DeathCause": None,
        "Pid": row["pid"] or 0,
    }


def total_resources_per_node() -> dict[str, dict[str, float]]:
    """All resources of each node that lives, by the node's id in hexadecimal."""
    return {row["NodeID"]: dict(row["Resources"]) for row in nodes() if row["Alive"]}


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """The resources of each node that nothing holds at this moment, by the node's id in hexadecimal."""
    rows = [row for row in engines.current().state("nodes") if row["Alive"]]
    if len(rows) == 1:
        return {rows[0]["NodeID"]: available_resources()}
    return {row["NodeID"]: dict(row["Available"]) for row in engines.current().state("free")}


def node_ids() -> list[str]:
    """The resource that stands for each node that lives: ``node:`` and its address."""
    return [name for row in nodes() if row["Alive"] for name in _names(row)]


def current_node_id() -> str:
    """The resource that stands for the calling code's node."""
    return f"node:{skate.util.get_node_ip_address()}"


def _names(row: dict[str, Any]) -> list[str]:
    found = [name for name in row["Resources"] if name.startswith("node:") and not name.startswith("node:__")]
    return found or [f"node:{row['NodeManagerAddress']}"]


class GlobalState:
    """The tables as methods of one object, `state`."""

    def actor_table(
        self, actor_id: str | None, job_id: Any = None, actor_state_name: str | None = None
    ) -> dict[str, Any]:
        """As `actors`."""
        return actors(actor_id, job_id, actor_state_name)

    def node_table(self) -> list[dict[str, Any]]:
        """As `skate.nodes`."""
        return nodes()

    def placement_group_table(self, placement_group_id: Any = None) -> dict[str, Any]:
        """As `skate.util.placement_group_table`; of the group with that id, or of all."""
        groups = importlib.import_module("skate.util.placement_group")
        group = None if placement_group_id is None else groups.PlacementGroup(placement_group_id)
        table: dict[str, Any] = groups.placement_group_table(group)
        return table

    def cluster_resources(self) -> dict[str, float]:
        """As `skate.cluster_resources`."""
        return cluster_resources()

    def available_resources(self) -> dict[str, float]:
        """As `skate.available_resources`."""
        return available_resources()

    def available_resources_per_node(self) -> dict[str, dict[str, float]]:
        """As the function."""
        return available_resources_per_node()

    def total_resources_per_node(self) -> dict[str, dict[str, float]]:
        """As the function."""
        return total_resources_per_node()


state = GlobalState()
