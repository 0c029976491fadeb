"""What a session shows of itself."""

from __future__ import annotations

import os
from typing import Any

from skate.core import ids
from skate.engines.inline.actors import Actor
from skate.engines.inline.records import FAILED, PENDING, Call
from skate.engines.inline.session import Session


def rows_of(session: Session, kind: str) -> list[dict[str, Any]]:
    """Rows of one kind, as `Engine.state` describes. With the lock held."""
    if kind == "nodes":
        return [session.machine.row()]
    if kind == "names":
        return [{"name": name, "namespace": namespace} for namespace, name in session.names]
    if kind == "actors":
        return [_actor(session, actor) for actor in session.actors.values()]
    if kind == "tasks":
        return [_task(call) for call in session.live.values()]
    if kind == "workers":
        return [{"worker_id": ids.worker_hex(session.client), "pid": os.getpid(), "is_alive": True}]
    if kind == "objects":
        return [
            {
                "object_id": ids.object_binary(key, 0).hex(),
                "state": {PENDING: "PENDING", FAILED: "FAILED"}.get(row.state, "READY"),
                "size": len(row.data),
                "references": row.count,
            }
            for key, row in session.rows.items()
        ]
    if kind == "jobs":
        return [
            {"job_id": ids.JOB_ID.hex(), "type": "DRIVER", "status": "RUNNING", "driver_info": {"pid": os.getpid()}}
        ]
    if kind == "placement_groups":
        groups = session.groups
        return [groups.row(group) for group in (*groups.gone.values(), *groups.live.values())]
    kinds = "nodes, actors, names, tasks, workers, objects, jobs, placement_groups"
    raise ValueError(f"There is no state of the kind {kind!r}: {kinds}.")


def _actor(session: Session, actor: Actor) -> dict[str, Any]:
    options = actor.info.options
    return {
        "actor_id": ids.actor_binary(actor.key).hex(),
        "class_name": options.class_name,
        "name": options.name,
        "namespace": options.namespace,
        "state": actor.state,
        "is_detached": options.detached,
        "restarts": actor.restarts,
        "pending_calls": actor.pending,
        "pid": os.getpid(),
        "node_id": session.machine.node,
    }


def _task(call: Call) -> dict[str, Any]:
    actor = call.actor
    return {
        "task_id": ids.task_binary(call.key).hex(),
        "name": call.name or call.label,
        "function_name": call.function_name,
        "state": "RUNNING" if call.thread else "PENDING",
        "attempt": call.attempt,
        "actor_id": ids.actor_binary(actor.key).hex() if actor is not None else None,
        "resources": call.assigned(),
    }
