"""What a session shows of itself, in rows as those of the other engines."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from skate.core import ids
from skate.core.environment import unpack_environment
from skate.core.resources import as_floats
from skate.core.spec import ActorOptions, CallOptions, TaskOptions
from skate.engines.inline.actors import Actor
from skate.engines.inline.history import Ended, past
from skate.engines.inline.records import FAILED, PENDING, Call, Row
from skate.engines.inline.session import Session

_TYPES: dict[type, str] = {TaskOptions: "NORMAL_TASK", CallOptions: "ACTOR_TASK", ActorOptions: "ACTOR_CREATION_TASK"}


def rows_of(session: Session, kind: str) -> list[dict[str, Any]]:
    """Rows of one kind, as `Engine.state` describes. With the lock held."""
    table = _TABLES.get(kind)
    if table is None:
        raise ValueError(f"There is no table {kind!r}. Tables: {', '.join(_TABLES)}.")
    return table(session)


def _nodes(session: Session) -> list[dict[str, Any]]:
    return [session.machine.row()]


def _names(session: Session) -> list[dict[str, Any]]:
    return [{"name": name, "namespace": namespace} for namespace, name in session.names]


def _workers(session: Session) -> list[dict[str, Any]]:
    began = session.history.began * 1e3
    return [
        {
            "worker_id": ids.worker_hex(session.client),
            "is_alive": True,
            "worker_type": "DRIVER",
            "exit_type": None,
            "node_id": session.machine.node,
            "pid": os.getpid(),
            "start_time_ms": began,
            "worker_launched_time_ms": began,
        }
    ]


def _jobs(session: Session) -> list[dict[str, Any]]:
    return [
        {
            "entrypoint": " ".join((sys.executable, *sys.argv)),
            "driver_info": {"id": ids.JOB_ID.hex(), "node_ip_address": "127.0.0.1", "pid": os.getpid()},
            "driver_node_id": session.machine.node,
            "start_time": int(session.history.began * 1e3),
            "end_time": 0,
            "metadata": {},
            "runtime_env": unpack_environment(session.settings.environment),
        }
    ]


def _placement_groups(session: Session) -> list[dict[str, Any]]:
    groups = session.groups
    return [groups.row(group) for group in (*groups.gone.values(), *groups.live.values())]


def _events(session: Session) -> list[dict[str, Any]]:
    return list(reversed(session.history.events))


def _session(session: Session) -> list[dict[str, Any]]:
    history = session.history
    return [
        {
            "folder": session.settings.folder,
            "began_ms": history.began * 1e3,
            "now_ms": time.time() * 1e3,
            "tasks_kept": history.keeping.tasks,
            "calls_recorded": len(history.calls),
            "sites": False,
        }
    ]


# ----------------------------------------------------------------------------- actors


def actor_row(session: Session, actor: Actor) -> dict[str, Any]:
    """An actor, living or dead."""
    options = actor.info.options
    return {
        "actor_id": ids.actor_binary(actor.key).hex(),
        "class_name": options.class_name,
        "name": options.name,
        "ray_namespace": options.namespace,
        "state": actor.state,
        "job_id": ids.JOB_ID.hex(),
        "serialized_runtime_env": options.environment or "{}",
        "required_resources": as_floats(options.resources),
        "is_detached": options.detached,
        "num_restarts": actor.restarts,
        "pending_calls": actor.pending,
        "pid": os.getpid(),
        "node_id": session.machine.node,
        "error": bytes(actor.death.data) if actor.death is not None else None,
    }


def _actors(session: Session) -> list[dict[str, Any]]:
    return [actor_row(session, actor) for actor in session.actors.values()] + list(session.history.actors)


# ------------------------------------------------------------------------------ calls


def _tasks(session: Session) -> list[dict[str, Any]]:
    rows = []
    for call in session.live.values():
        row = _call(session, Ended(past(call), call.attempt, call.made, call.began, 0.0, None))
        row["state"] = _state(call)
        rows.append((row, call.options))
    for ended in session.history.calls:
        row = _call(session, ended)
        row["state"] = "FINISHED" if ended.error is None else "FAILED"
        rows.append((row, ended.call.options))
    shown = [row for row, options in rows if _listed(session, row, options)]
    return sorted(shown, key=lambda row: (row["creation_time_ms"], row["attempt_number"]), reverse=True)


def _state(call: Call) -> str:
    if call.thread:
        return "RUNNING"
    return "PENDING_ARGS_AVAIL" if call.missing else "PENDING_NODE_ASSIGNMENT"


def _listed(session: Session, row: dict[str, Any], options: Any) -> bool:
    """Whether the call's ``enable_task_events`` allows it; a method's may leave that to its actor."""
    if options.events is not None:
        return bool(options.events)
    actor = session.actors.get(ids.parse_actor(bytes.fromhex(row["actor_id"]))) if row["actor_id"] else None
    return actor is None or actor.info.options.events


def _call(session: Session, ended: Ended) -> dict[str, Any]:
    call, options = ended.call, ended.call.options
    creates = isinstance(options, ActorOptions)
    function = f"{call.class_name}.{call.function}" if call.actor else call.function
    ran = bool(ended.began)
    return {
        "task_id": ids.task_binary(call.key).hex(),
        "attempt_number": ended.attempt,
        "name": (f"{call.name}:{function}" if call.name else "") if creates else call.name,
        "state": "",
        "job_id": ids.JOB_ID.hex(),
        "actor_id": ids.actor_binary(call.actor).hex() if call.actor else None,
        "type": _TYPES[type(options)],
        "func_or_class_name": function,
        "parent_task_id": ids.task_binary(call.parent).hex() if call.parent else None,
        "node_id": session.machine.node if ran else None,
        "worker_id": ids.worker_hex(session.client) if ran else None,
        "worker_pid": os.getpid() if ran else None,
        "required_resources": as_floats(getattr(options, "resources", ())),
        "runtime_env": getattr(options, "environment", ""),
        "creation_time_ms": ended.made * 1e3,
        "start_time_ms": ended.began * 1e3 if ran else None,
        "end_time_ms": ended.ended * 1e3 if ended.ended else None,
        "error": ended.error,
        "call_site": None,
    }


# ---------------------------------------------------------------------------- objects


def _objects(session: Session) -> list[dict[str, Any]]:
    taken = {key for call in session.live.values() for key in call.held}
    contained = {key for row in session.rows.values() for key in row.refs}
    rows = [_object(key, row, taken, contained) for key, row in session.rows.items()]
    rows += [_handle(actor) for actor in session.actors.values()]
    return rows[::-1]


def _object(key: int, row: Row, taken: set[int], contained: set[int]) -> dict[str, Any]:
    kind = "USED_BY_PENDING_TASK" if key in taken else "LOCAL_REFERENCE"
    if kind == "LOCAL_REFERENCE" and key in contained and row.count == 1:
        kind = "CAPTURED_IN_OBJECT"
    status = {PENDING: "PENDING_ARGS_AVAIL", FAILED: "FAILED"}.get(row.state, "FINISHED")
    return {
        "object_id": ids.object_binary(key, 0).hex(),
        "object_size": len(row.data) if row.state != PENDING else -1,
        "task_status": status,
        "attempt_number": 1,
        "reference_type": kind,
        "call_site": "disabled",
        "type": "DRIVER",
        "pid": os.getpid(),
        "state": {PENDING: "PENDING", FAILED: "FAILED"}.get(row.state, "READY"),
        "references": row.count,
        "shared": False,
        "spilled": False,
        "nodes": [],
    }


def _handle(actor: Actor) -> dict[str, Any]:
    row = _object(actor.key, Row(None), set(), set())
    return {**row, "task_status": "NIL", "reference_type": "ACTOR_HANDLE", "references": actor.count}


_TABLES: dict[str, Callable[[Session], list[dict[str, Any]]]] = {
    "nodes": _nodes,
    "actors": _actors,
    "names": _names,
    "tasks": _tasks,
    "workers": _workers,
    "objects": _objects,
    "events": _events,
    "jobs": _jobs,
    "placement_groups": _placement_groups,
    "session": _session,
}
