"""Objects as rows: one for each process that refers to one, with the kind of its reference."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from skate.core import ids
from skate.engines.local.messages import Stored
from skate.engines.local.rows import FAILED, PENDING, PUT, Row, Worker

if TYPE_CHECKING:
    from skate.engines.local.hub import Hub

_STATES = ("PENDING", "READY", "FAILED", "END")


def objects(hub: Hub) -> list[dict[str, Any]]:
    """Newest first."""
    table = _Objects(hub)
    return [row for key in reversed(list(hub.rows)) for row in table.rows_of(key, hub.rows[key])]


class _Objects:
    """Who counts what, found out once for all objects."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.holders: dict[int, list[Worker]] = {}
        for worker in hub.workers.values():
            for key in worker.held:
                self.holders.setdefault(key, []).append(worker)
        self.taken: Counter[int] = Counter()
        """By how many calls under way."""
        self.contained: Counter[int] = Counter()
        """In how many values."""
        for row in hub.rows.values():
            self.contained.update(row.refs)
            spec = row.spec
            if spec is not None and not (row.actor is not None and row.actor.dead):
                self.taken.update(spec.deps)
                self.taken.update(spec.refs)
                if type(spec.args) is Stored:
                    self.taken[spec.args.key] += 1

    def rows_of(self, key: int, row: Row) -> list[dict[str, Any]]:
        found = []
        shown = set()
        for worker in self.holders.get(key, []):
            kind = "PINNED_IN_MEMORY" if ~key in worker.held else "LOCAL_REFERENCE"
            found.append(self._row(key, row, kind, worker))
            shown.add(worker)
        viewers = [worker for worker in self.holders.get(~key, []) if worker not in shown]
        found += [self._row(key, row, "PINNED_IN_MEMORY", worker) for worker in viewers]
        held = len(self.holders.get(key, []))
        elsewhere = held + self.taken[key] + self.contained[key] + self._workers_views(key)
        kind = self._drivers(key, row, row.count - elsewhere)
        if kind:
            found.append(self._row(key, row, kind, None))
        return found

    def _workers_views(self, key: int) -> int:
        shown = sum(worker.shown.get(key, 0) for worker in self.hub.workers.values() if worker.shown)
        return len(self.holders.get(~key, [])) + shown

    def _drivers(self, key: int, row: Row, left: int) -> str:
        """The kind of the driver's own reference, or of what only the session counts; empty: none."""
        if row.actor is not None:
            return "ACTOR_HANDLE"
        if left > 0 and self.hub.views.get(key, 0) > self._workers_views(key):
            return "PINNED_IN_MEMORY"
        if self.taken[key]:
            return "USED_BY_PENDING_TASK"
        if left > 0:
            return "LOCAL_REFERENCE"
        if self.contained[key]:
            return "CAPTURED_IN_OBJECT"
        return ""

    def _row(self, key: int, row: Row, kind: str, worker: Worker | None) -> dict[str, Any]:
        value = row.value
        return {
            "object_id": ids.object_binary(key, 0).hex(),
            "object_size": _size(value),
            "task_status": _status(row),
            "attempt_number": row.attempt + 1,
            "reference_type": "ACTOR_HANDLE" if row.actor is not None else kind,
            "call_site": self.hub.history.sites.get(key, "disabled" if not self.hub.history.keeping.sites else ""),
            "type": "DRIVER" if worker is None or worker.card.driver else "WORKER",
            "pid": self.hub.history.pid if worker is None else worker.pid,
            "state": _STATES[row.state],
            "references": row.count,
            "shared": type(value) is Stored,
            "spilled": type(value) is Stored and value.offset < 0,
            "nodes": self._nodes(value) if type(value) is Stored else [],
        }

    def _nodes(self, value: Stored) -> list[str]:
        """Nodes with a copy of a stored value; where nobody keeps count, it is the driver's."""
        scheduler = self.hub.scheduler
        places = scheduler.copies.get(value.key)
        if places is None:
            return [scheduler.head.hex]
        return [node.hex for key in sorted(places) if (node := scheduler.nodes.get(key)) is not None]


def _size(value: Any) -> int:
    """Bytes; -1: there is no value yet."""
    if value is None:
        return -1
    return value.size if type(value) is Stored else len(value)


def _status(row: Row) -> str:
    """The state of the call that makes it, in Ray's words."""
    if row.maker == PUT or row.actor is not None:
        return "NIL"
    if row.state == FAILED:
        return "FAILED"
    if row.state != PENDING:
        return "FINISHED"
    if row.worker is not None:
        return "SUBMITTED_TO_WORKER"
    return "PENDING_ARGS_AVAIL" if row.missing else "PENDING_NODE_ASSIGNMENT"
