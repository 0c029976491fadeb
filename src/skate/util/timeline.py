"""What ran when and where: for chrome://tracing, for Perfetto, or as one HTML page that needs no network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from skate.core import engine as engines
from skate.util.state.rows import table, told

_COLOURS = {"FINISHED": "good", "FAILED": "terrible", "RUNNING": "generic_work"}
_PAGE = Path(__file__).with_name("timeline.html")
_PLACE = "/*DATA*/null"


def timeline(filename: str | os.PathLike[str] | None = None) -> list[dict[str, Any]] | None:
    """What the session ran, as events of the Trace Event Format, which chrome://tracing and Perfetto open.

    Lanes are workers, grouped by node; calls that still run end now. The format is described at
    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.

    Args:
        filename: where to write; one that ends with ``.html`` becomes a page that opens in any browser without a
            network. None: nowhere.

    Returns the events, times in microseconds; None when they were written to a file.

    Raises:
        RuntimeError: no session runs in this process.
        OSError: the file cannot be written.
    """
    engine = engines.running()
    if engine is None:
        raise RuntimeError("No session runs in this process: call skate.init() before timeline().")
    found = events(engine)
    if filename is None:
        return found
    save(found, filename, os.fspath(filename).endswith(".html"))
    return None


def save(found: list[dict[str, Any]], filename: str | os.PathLike[str], html: bool) -> None:
    """Write events to a file, as JSON or as a page."""
    Path(filename).write_text(page(found) if html else json.dumps(found), encoding="utf-8")


def events(engine: engines.Engine) -> list[dict[str, Any]]:
    """The events of a session, the earliest first, after those that name the lanes."""
    lanes = _Lanes(engine)
    session = table(engine, "session")
    now = session[0]["now_ms"] if session else 0.0
    found = []
    for row in table(engine, "tasks"):
        began, ended = row.get("start_time_ms"), row.get("end_time_ms") or now
        if began is None or not row.get("worker_id"):
            continue
        node, lane = lanes.of(row)
        found.append(
            {
                "cat": f"task::{row['func_or_class_name']}",
                "name": row.get("name") or row["func_or_class_name"],
                "ph": "X",
                "pid": node,
                "tid": lane,
                "ts": began * 1e3,
                "dur": max(0.0, ended - began) * 1e3,
                "cname": _COLOURS.get(row["state"], "generic_work"),
                "args": _facts(row, began),
            }
        )
    found += [
        {
            "cat": event["source_type"],
            "name": event["message"],
            "ph": "i",
            "s": "g",
            "pid": 0,
            "tid": 0,
            "ts": event["time_ms"] * 1e3,
            "args": {"severity": event["severity"]},
        }
        for event in table(engine, "events")
    ]
    found.sort(key=lambda event: event["ts"])
    return lanes.names + found


def _facts(row: dict[str, Any], began: float) -> dict[str, Any]:
    names = ("task_id", "job_id", "attempt_number", "func_or_class_name", "actor_id", "state", "worker_pid")
    facts = {name: row.get(name) for name in names}
    made = row.get("creation_time_ms")
    facts["waited_ms"] = round(began - made, 3) if made is not None else None
    if row["state"] == "FAILED":
        facts["error_type"], facts["error_message"] = told(row.get("error"))
    return facts


class _Lanes:
    """Numbers for nodes and workers: Perfetto takes no names for them, but events that name the numbers."""

    def __init__(self, engine: engines.Engine) -> None:
        self.nodes: dict[str, int] = {}
        self.workers: dict[str, int] = {}
        self.names: list[dict[str, Any]] = []
        self.kinds = {row["worker_id"]: row.get("class_name") or "" for row in table(engine, "workers")}

    def of(self, row: dict[str, Any]) -> tuple[int, int]:
        node, worker = str(row.get("node_id")), row["worker_id"]
        if node not in self.nodes:
            self.nodes[node] = len(self.nodes)
            self._name("process_name", self.nodes[node], 0, f"Node {node[:8]}...{node[-4:]}")
        number = self.nodes[node]
        if worker not in self.workers:
            self.workers[worker] = len(self.workers) + 1
            host = self.kinds.get(worker)
            label = f"{host} (pid {row['worker_pid']})" if host else f"worker (pid {row['worker_pid']})"
            self._name("thread_name", number, self.workers[worker], label)
        return number, self.workers[worker]

    def _name(self, what: str, node: int, lane: int, label: str) -> None:
        self.names.append({"name": what, "ph": "M", "pid": node, "tid": lane, "args": {"name": label}})


def page(found: list[dict[str, Any]]) -> str:
    """The events as an HTML page. What they say is data there, whatever characters it holds."""
    data = json.dumps(found)
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    template = _PAGE.read_text(encoding="utf-8")
    before, after = template.split(_PLACE)
    return before + data + after
