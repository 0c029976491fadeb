"""From an engine's rows to those of the state API."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Any

from skate import exceptions
from skate.core import engine as engines
from skate.core import ids
from skate.core.serialization import unpack
from skate.util.state.common import DriverInfo, StateResource

IP = "127.0.0.1"
JOB = ids.JOB_ID.hex()
DRIVER_TASK = "f" * 40 + JOB
"""The task that calls of the driver itself are said to be made in."""
Row = dict[str, Any]

_KINDS: list[tuple[type[BaseException], str]] = [
    (exceptions.OutOfMemoryError, "OUT_OF_MEMORY"),
    (exceptions.TaskCancelledError, "TASK_CANCELLED"),
    (exceptions.ActorUnschedulableError, "ACTOR_UNSCHEDULABLE_ERROR"),
    (exceptions.TaskUnschedulableError, "TASK_UNSCHEDULABLE_ERROR"),
    (exceptions.RuntimeEnvSetupError, "RUNTIME_ENV_SETUP_FAILED"),
    (exceptions.ActorUnavailableError, "ACTOR_UNAVAILABLE"),
    (exceptions.ActorDiedError, "ACTOR_DIED"),
    (exceptions.WorkerCrashedError, "WORKER_DIED"),
    (exceptions.TaskPlacementGroupRemoved, "TASK_PLACEMENT_GROUP_REMOVED"),
    (exceptions.ActorPlacementGroupRemoved, "ACTOR_PLACEMENT_GROUP_REMOVED"),
    (exceptions.NodeDiedError, "NODE_DIED"),
    (exceptions.OutOfDiskError, "OUT_OF_DISK_ERROR"),
    (exceptions.ObjectLostError, "OBJECT_LOST"),
    (exceptions.RayTaskError, "TASK_EXECUTION_EXCEPTION"),
]


def told(error: bytes | None) -> tuple[str | None, str | None]:
    """Ray's word for the kind of a packed error, and its text. It may be of a class that only workers can import."""
    if error is None:
        return None, None
    if not error:
        return "TASK_EXECUTION_EXCEPTION", "The error was too large, or is too long ago, to be kept."
    try:
        found = unpack(error)
        text = str(found)
    except Exception as problem:  # noqa: BLE001  unpacking runs code of the error's class
        return "TASK_EXECUTION_EXCEPTION", f"The error cannot be shown in this process: {problem!r}"
    kind = next((word for cls, word in _KINDS if isinstance(found, cls)), "TASK_EXECUTION_EXCEPTION")
    return kind, text


def whole(value: Any) -> int | None:
    """Milliseconds as a whole number; None for what is none."""
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else None


def time_text(milliseconds: float) -> str:
    """A time since the epoch for people, in the local time zone."""
    return datetime.datetime.fromtimestamp(milliseconds / 1e3).strftime("%Y-%m-%d %H:%M:%S")


# ----------------------------------------------------------------------------- tables


def _task(row: Row) -> Row:
    found = dict(row)
    if "error" not in row:
        return found  # it has this form already
    found["name"] = row.get("name") or row["func_or_class_name"]
    found["parent_task_id"] = row.get("parent_task_id") or DRIVER_TASK
    found["error_type"], found["error_message"] = told(row.get("error"))
    made, began, ended = (whole(row.get(f"{name}_time_ms")) for name in ("creation", "start", "end"))
    found |= {"creation_time_ms": made, "start_time_ms": began, "end_time_ms": ended}
    events = [("PENDING_ARGS_AVAIL", made), ("RUNNING", began)]
    if row["state"] in ("FINISHED", "FAILED"):
        events.append((row["state"], ended))
    elif row["state"] not in dict(events):
        events.append((row["state"], began or made))
    found["events"] = [{"state": state, "created_ms": float(at)} for state, at in events if at is not None]
    found["language"] = "PYTHON"
    found["runtime_env_info"] = {"serialized_runtime_env": row.get("runtime_env") or "{}"}
    found["profiling_data"] = _profile(row)
    return found


def _profile(row: Row) -> Row:
    if row.get("start_time_ms") is None or row.get("end_time_ms") is None or not row.get("worker_id"):
        return {}
    span = {"start_time": row["start_time_ms"], "end_time": row["end_time_ms"]}
    return {
        "component_type": "worker",
        "component_id": row["worker_id"],
        "node_ip_address": IP,
        "events": [{"event_name": "task:execute", "extra_data": {}, **span}],
    }


def _actor(row: Row) -> Row:
    found = dict(row)
    found["repr_name"] = row.get("repr_name") or ""
    found["num_restarts_due_to_lineage_reconstruction"] = 0
    found["num_restarts_due_to_node_preemption"] = 0
    if row["state"] == "DEAD" and "error" in row:
        _, text = told(row.get("error"))
        names = ("actor_id", "class_name", "name", "ray_namespace", "pid")
        context = {"error_message": text, **{name: row.get(name) for name in names}}
        found["death_cause"] = {"actor_died_error_context": context}
    return found


def _object(row: Row) -> Row:
    return {"ip": IP, **row}


def _worker(row: Row) -> Row:
    found = {"ip": IP, **row}
    for name in ("worker_launch_time_ms", "worker_launched_time_ms", "start_time_ms", "end_time_ms"):
        found[name] = whole(row.get(name)) or 0
    return found


def _node(row: Row) -> Row:
    address = row.get("NodeManagerAddress", IP)
    return {
        "node_id": row["NodeID"],
        "node_ip": address,
        "is_head_node": row.get("is_head_node", True),
        "state": "ALIVE" if row["Alive"] else "DEAD",
        "state_message": row.get("DeathReasonMessage") or None,
        "node_name": row.get("NodeName") or address,
        "resources_total": row["Resources"],
        "labels": row["Labels"],
        "start_time_ms": whole(row.get("start_time_ms")),
        "end_time_ms": whole(row.get("end_time_ms")) or 0,
    }


def _event(row: Row) -> Row:
    return {**row, "time": time_text(row["time_ms"])}


def _job(row: Row) -> Row:
    found = {"job_id": JOB, "type": "DRIVER", "status": "RUNNING", **row}
    info = row.get("driver_info")
    if isinstance(info, dict):
        names = ("id", "node_ip_address", "pid")
        found["driver_info"] = DriverInfo(*(str(info.get(name, "")) for name in names))
    return found


def _group(row: Row) -> Row:
    ident = row["placement_group_id"]
    nodes = row.get("nodes") or [""] * len(row["bundles"] or ())
    bundles = [
        bundle
        if "unit_resources" in bundle
        else {
            "bundle_id": {"placement_group_id": ident, "bundle_index": index},
            "unit_resources": bundle,
            "node_id": node or None,
        }
        for index, (bundle, node) in enumerate(zip(row["bundles"] or (), nodes, strict=True))
    ]
    return {"creator_job_id": JOB, **row, "bundles": bundles}


MAKERS: dict[StateResource, tuple[str, Callable[[Row], Row]]] = {
    StateResource.TASKS: ("tasks", _task),
    StateResource.ACTORS: ("actors", _actor),
    StateResource.OBJECTS: ("objects", _object),
    StateResource.WORKERS: ("workers", _worker),
    StateResource.NODES: ("nodes", _node),
    StateResource.CLUSTER_EVENTS: ("events", _event),
    StateResource.JOBS: ("jobs", _job),
    StateResource.PLACEMENT_GROUPS: ("placement_groups", _group),
    StateResource.RUNTIME_ENVS: ("runtime_envs", dict),
}


def table(engine: engines.Engine, kind: str) -> list[Row]:
    """An engine's rows of one kind; none when it has no such table."""
    return table_if_any(engine, kind) or []


def table_if_any(engine: engines.Engine, kind: str) -> list[Row] | None:
    """An engine's rows of one kind; None when it has no such table."""
    try:
        return engine.state(kind)
    except ValueError:
        return None


def rows_of(engine: engines.Engine, resource: StateResource) -> tuple[list[Row], Callable[[Row], Row]]:
    """What there is of a resource, and how to make a row of the state API of each."""
    kind, make = MAKERS[resource]
    return table(engine, kind), make
