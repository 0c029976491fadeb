"""Helpers around the core: names, serializers, pools, queues."""

from __future__ import annotations

import copyreg
import os
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from skate.core import engine as engines
from skate.core.preloads import preload

# At once, for there is a module of this name too: importing that later would put it in the function's place.
from skate.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

if TYPE_CHECKING:
    from skate.util.actor_pool import ActorPool
    from skate.util.check_serialize import inspect_serializability
    from skate.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
    from skate.util.helpers import as_completed, map_unordered

__all__ = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_instance_id",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "preload",
    "register_serializer",
    "remove_placement_group",
]

# What is loaded when it is first asked for. `pdb` is Ray's name of `rpdb`.
_HOMES = {
    "ActorPool": "skate.util.actor_pool",
    "as_completed": "skate.util.helpers",
    "disable_log_once_globally": "skate.util.debug",
    "enable_periodic_logging": "skate.util.debug",
    "inspect_serializability": "skate.util.check_serialize",
    "log_once": "skate.util.debug",
    "map_unordered": "skate.util.helpers",
}
_MODULES = {
    "pdb": "skate.util.rpdb",
    **{
        name: f"skate.util.{name}"
        for name in (
            "accelerators",
            "actor_group",
            "actor_pool",
            "collective",
            "debug",
            "iter",
            "joblib",
            "metrics",
            "multiprocessing",
            "queue",
            "rpdb",
            "scheduling_strategies",
        )
    },
}


def list_named_actors(all_namespaces: bool = False) -> list[str] | list[dict[str, str]]:
    """Names of the living actors of this namespace; starts a session when none runs.

    With `all_namespaces`: of all, as dicts with ``name`` and ``namespace``.
    """
    engine = engines.current()
    rows = engine.state("names")
    if all_namespaces:
        return [{"name": row["name"], "namespace": row["namespace"]} for row in rows]
    here = engine.context().namespace
    return [row["name"] for row in rows if row["namespace"] == here]


def get_node_ip_address() -> str:
    """The address of the calling code's node: 127.0.0.1 is the driver's, each virtual node has another of the loopback.

    Starts a session when none runs.
    """
    engine = engines.current()
    context = engine.context()
    rows = {} if context.driver else {row["NodeID"]: row["NodeManagerAddress"] for row in engine.state("nodes")}
    address: str = rows.get(context.node, "127.0.0.1")
    return address


def get_node_instance_id() -> str:
    """The id that a cloud's launcher has given this machine (RAY_CLOUD_INSTANCE_ID); empty: none."""
    return os.environ.get("RAY_CLOUD_INSTANCE_ID", "")


class _Rebuilt:
    """Pickles an object as what a registered serializer made of it."""

    def __init__(self, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
        self._serializer = serializer
        self._deserializer = deserializer

    def __call__(self, value: Any) -> tuple[Any, ...]:
        return _rebuild, (self._deserializer, self._serializer(value))


def _rebuild(deserializer: Callable[[Any], Any], made: Any) -> Any:
    return deserializer(made)


def register_serializer(
    cls: type[Any], *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]
) -> None:
    """Send instances of `cls` (of it alone, not of its subclasses) as ``serializer(instance)``.

    They are rebuilt with `deserializer`, which travels with them. This holds in the calling process
    until `deregister_serializer`.
    """
    copyreg.pickle(cls, _Rebuilt(serializer, deserializer))


def deregister_serializer(cls: type[Any]) -> None:
    """Undo `register_serializer`; harmless when there was none."""
    if isinstance(copyreg.dispatch_table.get(cls), _Rebuilt):
        del copyreg.dispatch_table[cls]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'skate.util' has no attribute {name!r}")
