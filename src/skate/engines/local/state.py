"""The hub's tables as plain rows, for `nodes`, lists of names and whoever looks in.

Field names and values are Ray's where Ray has them. Times are milliseconds since the epoch; errors are packed, for
whoever asks to unpack: that may run code of the program's, and here the engine's lock is held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skate.core import ids, nodes
from skate.core.environment import job_of, shown_environment
from skate.core.resources import as_floats
from skate.core.spec import ActorOptions
from skate.engines.local.history import Card, Grave
from skate.engines.local.rows import Actor
from skate.engines.local.state_calls import calls, counts, job_hex, under_way
from skate.engines.local.state_objects import objects

if TYPE_CHECKING:
    from skate.engines.local.hub import Hub


def rows(hub: Hub, kind: str) -> list[dict[str, Any]]:
    """Rows of a table: ``nodes``, ``free`` (what is free on each), ``actors``, ``tasks`` and others: see `_TABLES`."""
    try:
        table = _TABLES[kind]
    except KeyError:
        raise ValueError(f"There is no table {kind!r}. Tables: {', '.join(_TABLES)}.") from None
    return table(hub)


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


def _names(hub: Hub) -> list[dict[str, Any]]:
    return [{"name": name, "namespace": namespace} for namespace, name in hub.names]


# ------------------------------------------------------------------------------ actors


def _actor_state(actor: Actor) -> str:
    if actor.dead:
        return "DEAD"
    if actor.worker is None and actor.restarts:
        return "RESTARTING"
    return "ALIVE" if actor.constructed else "PENDING_CREATION"


def _actor_row(key: int, options: ActorOptions, namespace: str, restarts: int) -> dict[str, Any]:
    return {
        "actor_id": ids.actor_binary(key).hex(),
        "class_name": options.class_name,
        "job_id": job_hex(job_of(options.environment) or 1),
        "name": options.name,
        "ray_namespace": namespace,
        "serialized_runtime_env": shown_environment(options.environment) or "{}",
        "required_resources": as_floats(options.resources),
        "is_detached": options.detached,
        "num_restarts": restarts,
    }


def _living(hub: Hub, actor: Actor) -> dict[str, Any]:
    row = _actor_row(actor.key, actor.info.options, actor.namespace, actor.restarts)
    card = actor.worker.card if actor.worker is not None and not actor.dead else None
    own = hub.rows.get(actor.key)
    if _actor_state(actor) == "PENDING_CREATION" and own is not None and own.missing:
        row["state"] = "DEPENDENCIES_UNREADY"
    else:
        row["state"] = _actor_state(actor)
    row |= {
        "node_id": card.node if card is not None else None,
        "pid": card.pid if card is not None else None,
        "pending_calls": actor.pending,
        "error": actor.cause if actor.dead else None,
        "call_site": hub.history.sites.get(actor.key),
    }
    return row


def _buried(grave: Grave) -> dict[str, Any]:
    row = _actor_row(grave.key, grave.options, grave.namespace, grave.restarts)
    row |= {
        "state": "DEAD",
        "node_id": grave.node or None,
        "pid": grave.pid or None,
        "pending_calls": 0,
        "error": grave.cause,
        "call_site": None,
    }
    return row


def _actors(hub: Hub) -> list[dict[str, Any]]:
    known = hub.actors
    graves = {grave.key: grave for grave in hub.history.actors}
    rows = []
    for actor in known.values():
        grave = graves.pop(actor.key, None)
        rows.append(_living(hub, actor) if grave is None else _buried(grave))
    return rows + [_buried(grave) for grave in graves.values()]


# ----------------------------------------------------------------------------- workers


def _worker_row(hub: Hub, card: Card) -> dict[str, Any]:
    offset = hub.history.offset
    return {
        "worker_id": ids.worker_hex(card.client),
        "is_alive": not card.ended,
        "worker_type": "DRIVER" if card.driver else "WORKER",
        "job_id": job_hex(card.job),
        "exit_type": card.kind or None,
        "exit_detail": card.how or None,
        "node_id": card.node,
        "pid": card.pid,
        "worker_launch_time_ms": (card.launched + offset) * 1e3 if card.launched else None,
        "worker_launched_time_ms": (card.up + offset) * 1e3 if card.up else None,
        "start_time_ms": (card.up + offset) * 1e3 if card.up else None,
        "end_time_ms": (card.ended + offset) * 1e3 if card.ended else None,
        "actor_id": ids.actor_binary(card.actor).hex() if card.actor else None,
        "class_name": card.class_name,
    }


def _workers(hub: Hub) -> list[dict[str, Any]]:
    rows = [_worker_row(hub, card) for card in hub.history.drivers]
    for worker in hub.workers.values():
        if worker.card.driver and worker.job is not None and not worker.job.asked.driver:
            continue  # somebody who only looks in
        row = _worker_row(hub, worker.card)
        row |= {"pid": worker.pid, "running": len(worker.running), "blocked": bool(worker.blocked)}
        rows.append(row)
    return rows + [_worker_row(hub, card) | {"running": 0, "blocked": False} for card in hub.history.workers]


# ------------------------------------------------------------------------------ others


def _events(hub: Hub) -> list[dict[str, Any]]:
    return [
        {
            "severity": event.severity,
            "time_ms": event.time * 1e3,
            "source_type": event.source,
            "message": event.message,
            "event_id": event_id(event.number),
            "custom_fields": event.fields,
        }
        for event in reversed(hub.history.events)
    ]


def event_id(number: int) -> str:
    """The id of an event: 36 hex digits, as Ray's."""
    return f"{number:020x}{ids.salt()[:8].hex()}"


def _runtime_envs(hub: Hub) -> list[dict[str, Any]]:
    return hub.history.environments()


def _session(hub: Hub) -> list[dict[str, Any]]:
    """One row: where the session keeps its files, how it began, what it does not keep."""
    history = hub.history
    return [
        {
            "folder": hub.settings.folder,
            "began_ms": (history.began + history.offset) * 1e3,
            "now_ms": history.now() * 1e3,
            "tasks_kept": history.keeping.tasks,
            "calls_recorded": len(history.calls),
            "sites": history.keeping.sites,
        }
    ]


def _jobs(hub: Hub) -> list[dict[str, Any]]:
    return hub.ports.jobs.rows()


def _refusals(hub: Hub) -> list[dict[str, Any]]:
    return hub.ports.refusals()


def _placement_groups(hub: Hub) -> list[dict[str, Any]]:
    groups = hub.scheduler.groups
    return [*(gone.row() for gone in groups.gone.values()), *(group.row() for group in groups.live.values())]


_TABLES = {
    "nodes": _nodes,
    "free": _free,
    "actors": _actors,
    "names": _names,
    "tasks": calls,
    "tasks_under_way": under_way,
    "task_counts": counts,
    "workers": _workers,
    "objects": objects,
    "jobs": _jobs,
    "refusals": _refusals,
    "placement_groups": _placement_groups,
    "events": _events,
    "runtime_envs": _runtime_envs,
    "session": _session,
}
