"""Counts of rows, in the form that Ray gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skate.util.state.common import SummaryResource

Row = dict[str, Any]
_MB = 1024**2


def _count(counts: dict[str, int], what: Any) -> None:
    counts[str(what)] = counts.get(str(what), 0) + 1


def tasks(rows: list[Row]) -> Row:
    """Counts of calls; a row stands for as many as its ``count`` says."""
    summary: dict[str, Row] = {}
    totals = {"NORMAL_TASK": 0, "ACTOR_TASK": 0, "ACTOR_CREATION_TASK": 0}
    for row in rows:
        name, kind = row["name"], row["type"]
        entry = summary.setdefault(name, {"func_or_class_name": name, "type": kind, "state_counts": {}})
        number = row.get("count", 1)
        entry["state_counts"][row["state"]] = entry["state_counts"].get(row["state"], 0) + number
        totals[kind] += number
    return {
        "summary": summary,
        "total_tasks": totals["NORMAL_TASK"],
        "total_actor_tasks": totals["ACTOR_TASK"],
        "total_actor_scheduled": totals["ACTOR_CREATION_TASK"],
        "summary_by": "func_name",
    }


def _actors(rows: list[Row]) -> Row:
    summary: dict[str, Row] = {}
    for row in rows:
        name = row["class_name"]
        entry = summary.setdefault(name, {"class_name": name, "state_counts": {}})
        _count(entry["state_counts"], row["state"])
    return {"summary": summary, "total_actors": len(rows), "summary_by": "class"}


def _objects(rows: list[Row]) -> Row:
    summary: dict[str, Row] = {}
    processes: dict[str, set[int]] = {}
    nodes: dict[str, set[str]] = {}
    for row in rows:
        line = row["call_site"]
        entry = summary.setdefault(line, _nothing())
        size = max(0, row["object_size"]) / _MB
        entry["total_objects"] += 1
        entry["total_size_mb"] += size
        _count(entry["task_state_counts"], row["task_status"])
        _count(entry["task_attempt_number_counts"], row["attempt_number"])
        _count(entry["ref_type_counts"], row["reference_type"])
        processes.setdefault(line, set()).add(row["pid"])
        nodes.setdefault(line, set()).add(row["ip"])
    for line, entry in summary.items():
        entry["total_num_workers"] = len(processes[line])
        entry["total_num_nodes"] = len(nodes[line])
    return {
        "summary": summary,
        "total_objects": len(rows),
        "total_size_mb": sum(entry["total_size_mb"] for entry in summary.values()),
        "callsite_enabled": "disabled" not in summary,
        "summary_by": "callsite",
    }


def _nothing() -> Row:
    return {
        "total_objects": 0,
        "total_size_mb": 0.0,
        "total_num_workers": 0,
        "total_num_nodes": 0,
        "task_state_counts": {},
        "task_attempt_number_counts": {},
        "ref_type_counts": {},
    }


SUMMARIES: dict[SummaryResource, Callable[[list[Row]], Row]] = {
    SummaryResource.TASKS: tasks,
    SummaryResource.ACTORS: _actors,
    SummaryResource.OBJECTS: _objects,
}
