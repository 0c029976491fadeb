"""Nodes as they are asked for, and as `nodes` shows them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

_OWN_ARGUMENT = {
    "CPU": "num_cpus",
    "GPU": "num_gpus",
    "memory": "memory",
    "object_store_memory": "object_store_memory",
}
FIELDS = ("num_cpus", "num_gpus", "resources", "labels", "memory", "object_store_memory", "name")


class NodeSpec(msgspec.Struct, frozen=True, gc=False):
    """What a virtual node has: a part of this machine that stands for a machine of its own."""

    num_cpus: float = 1
    num_gpus: float = 0
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    memory: int | None = None
    """Bytes; None: as the driver's node has. Counted, not enforced."""
    object_store_memory: int | None = None
    """Bytes; None: as the driver's node has. Counted, not enforced: all nodes share one store."""
    name: str = ""
    number: int = 0
    """Its place among the nodes, of which its id is made; 0: the next."""


def node_spec(given: Any, of: str = "add_node") -> NodeSpec:
    """A node from the dict that a user wrote.

    Raises TypeError for what is no dict or has a value of the wrong type, ValueError for an unknown key or wrong value.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"{of}: a node is a dict such as {{'num_cpus': 2}}, not {given!r} ({type(given).__name__})")
    unknown = sorted(str(name) for name in given if name not in FIELDS)
    if unknown:
        raise ValueError(f"{of}: a node has no {', '.join(unknown)}. It has {', '.join(FIELDS)}.")
    found: dict[str, Any] = {}
    for name in ("num_cpus", "num_gpus"):
        found[name] = whole_number(f"{of}({name}=...)", given.get(name))
    found["resources"] = custom_resources(of, given.get("resources"))
    found["labels"] = node_labels(of, given.get("labels"))
    for name in ("memory", "object_store_memory"):
        found[name] = whole_number(f"{of}({name}=...)", given.get(name))
    if not isinstance(given.get("name"), str | None):
        raise TypeError(f"{of}(name=...) must be a string, not {given['name']!r}")
    found["name"] = given.get("name")
    return NodeSpec(**{name: value for name, value in found.items() if value is not None})


def numbered(spec: NodeSpec, number: int) -> NodeSpec:
    """The same with a number."""
    return msgspec.structs.replace(spec, number=number)


def whole_number(what: str, value: Any) -> Any:
    """`value`, if it is None or a whole number that is not negative; TypeError or ValueError otherwise."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be a number, not {type(value).__name__}: {value!r}")
    if value < 0 or value != int(value):
        raise ValueError(f"{what}: {value!r} must be a whole number, zero or more")
    return value


def custom_resources(of: str, given: Any) -> dict[str, float]:
    """Amounts by name; TypeError or ValueError for what they cannot be."""
    if given is None:
        return {}
    _is_mapping(of, "resources", given)
    for name, amount in given.items():
        if not isinstance(name, str):
            raise TypeError(f"{of}(resources=...): {name!r} is not a name")
        if name in _OWN_ARGUMENT:
            raise ValueError(f"{of}(resources=...): {name!r} has an argument of its own, {_OWN_ARGUMENT[name]}")
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise TypeError(f"{of}(resources=...): {name!r} must be a number, not {amount!r}")
        if amount < 0:
            raise ValueError(f"{of}(resources=...): {name!r} is negative: {amount!r}")
    return dict(given)


def node_labels(of: str, given: Any) -> dict[str, str]:
    """Values by name; TypeError for what is not a string."""
    if given is None:
        return {}
    _is_mapping(of, "labels", given)
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"{of}(labels=...) must map strings to strings; {name!r}: {value!r}")
    return dict(given)


def _is_mapping(of: str, name: str, given: Any) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{of}({name}=...) must be a dict, not {type(given).__name__}")


def address(number: int) -> str:
    """A loopback address of a node's own: 127.0.0.1 is the driver's, 127.0.0.2 that of the next."""
    return f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def row(
    node: str, where: str, name: str, resources: dict[str, float], labels: Mapping[str, str], death: str | None = None
) -> dict[str, Any]:
    """A node with the keys that Ray's `nodes` has; `death` says in words why one is dead. Ports that are not: 0."""
    alive = death is None
    return {
        "NodeID": node,
        "Alive": alive,
        "alive": alive,
        "NodeManagerAddress": where,
        "NodeManagerHostname": os.uname().nodename,
        "NodeManagerPort": 0,
        "ObjectManagerPort": 0,
        "ObjectStoreSocketName": "",
        "RayletSocketName": "",
        "MetricsExportPort": -1,
        "MetricsAgentPort": -1,
        "DashboardAgentListenPort": -1,
        "RuntimeEnvAgentPort": 0,
        "NodeName": name or where,
        "DeathReason": 0 if alive else 1,
        "DeathReasonMessage": death or "",
        "Resources": resources if alive else {},
        "Labels": dict(labels),
    }
