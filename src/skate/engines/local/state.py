"""The hub's tables as plain rows, for `nodes`, lists of names and whoever looks in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skate.core import ids, nodes
from skate.core.resources import as_floats
from skate.engines.local.rows import PENDING, Actor

if TYPE_CHECKING:
    from skate.engines.local.hub import Hub

_OBJECT_STATES = ("PENDING", "READY", "FAILED", "END")


def rows(hub: Hub, kind: str) -> list[dict[str, Any]]:
    """Rows of a table of the hub, which `_TABLES` lists; ``free`` holds what is free on each node."""
    try:
        return _TABLES[kind](hub)
    except KeyError:
        raise ValueError(f"There is no table {kind!r}. Tables: {', '.join(_TABLES)}.") from None


def _nodes(hub: Hub) -> list[dict[str, Any]]:
    return [
        nodes.row(node.hex, node.address, node.name, as_floats(node.total.items()), node.labels, node.death or None)
        for node in (*hub.scheduler.nodes.values(), *hub.scheduler.dead)
    ]


def _free(hub: Hub) -> list[dict[str, Any]]:
    return [
        {"NodeID": node.hex, "Available": as_floats((name, max(0, units)) for name, units in node.free.items())}
        for node in hub.scheduler.nodes.values()
    ]


def _actor_state(actor: Actor) -> str:
    if actor.dead:
        return "DEAD"
    if actor.worker is None:
        return "RESTARTING" if actor.restarts else "PENDING_CREATION"
    return "ALIVE" if actor.constructed else "PENDING_CREATION"


def _actors(hub: Hub) -> list[dict[str, Any]]:
    return [
        {
            "actor_id": ids.actor_binary(actor.key).hex(),
            "class_name": actor.info.options.class_name,
            "state": _actor_state(actor),
            "name": actor.info.options.name,
            "namespace": actor.namespace,
            "pid": actor.worker.pid if actor.worker is not None else None,
            "restarts": actor.restarts,
            "pending_calls": actor.pending,
        }
        for actor in hub.actors.values()
    ]


def _names(hub: Hub) -> list[dict[str, Any]]:
    return [{"name": name, "namespace": namespace} for namespace, name in hub.names]


def _tasks(hub: Hub) -> list[dict[str, Any]]:
    return [
        {
            "task_id": ids.task_binary(row.spec.task).hex(),
            "name": hub.label(row),
            "state": "RUNNING" if row.worker is not None else "WAITING_FOR_DEPENDENCIES" if row.missing else "QUEUED",
            "attempt": row.attempt,
            "pid": row.worker.pid if row.worker is not None else None,
        }
        for row in list(hub.rows.values())
        if row.spec is not None and row.actor is None
    ]


def _workers(hub: Hub) -> list[dict[str, Any]]:
    return [
        {
            "worker_id": ids.worker_hex(worker.client),
            "pid": worker.pid,
            "running": len(worker.running),
            "blocked": bool(worker.blocked),
            "actor_id": ids.actor_binary(worker.actor.key).hex() if worker.actor is not None else None,
        }
        for worker in hub.workers.values()
    ]


def _objects(hub: Hub) -> list[dict[str, Any]]:
    return [
        {
            "object_id": ids.object_binary(key, 0).hex(),
            "state": _OBJECT_STATES[row.state],
            "references": row.count,
            "size": (row.value.size if hasattr(row.value, "size") else len(row.value)) if row.value is not None else 0,
            "shared": hasattr(row.value, "size"),
        }
        for key, row in list(hub.rows.items())
        if row.actor is None and (row.state != PENDING or row.spec is None)
    ]


def _jobs(hub: Hub) -> list[dict[str, Any]]:
    return hub.ports.jobs.rows()


def _refusals(hub: Hub) -> list[dict[str, Any]]:
    return hub.ports.refusals()


def _placement_groups(hub: Hub) -> list[dict[str, Any]]:
    groups = hub.scheduler.groups
    return [group.row() for group in (*groups.gone.values(), *groups.live.values())]


_TABLES = {
    "nodes": _nodes,
    "free": _free,
    "actors": _actors,
    "names": _names,
    "tasks": _tasks,
    "workers": _workers,
    "objects": _objects,
    "jobs": _jobs,
    "refusals": _refusals,
    "placement_groups": _placement_groups,
}
