"""Calls as rows: those under way, and those that history remembers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from skate.core import ids
from skate.core.environment import shown_environment
from skate.core.resources import as_floats
from skate.core.spec import ActorOptions, CallOptions, TaskOptions
from skate.engines.local.history import Card, Record
from skate.engines.local.rows import Row, Worker

if TYPE_CHECKING:
    from skate.engines.local.hub import Hub

_TYPES: dict[type, str] = {TaskOptions: "NORMAL_TASK", CallOptions: "ACTOR_TASK", ActorOptions: "ACTOR_CREATION_TASK"}


def calls(hub: Hub) -> list[dict[str, Any]]:
    """The newest first; of those with several attempts a row for each."""
    table = _Calls(hub)
    rows = [row for span in hub.history.spans() if (row := table.ended(*span)) is not None]
    rows += [row for row in table.living() if row is not None]
    rows.sort(key=lambda row: (row["creation_time_ms"], row["attempt_number"]), reverse=True)
    return rows


def under_way(hub: Hub) -> list[dict[str, Any]]:
    """Those that have not ended."""
    table = _Calls(hub)
    for record, _, ended in hub.history.spans():
        table.saw(record, ended)
    return [row for row in table.living() if row is not None]


def counts(hub: Hub) -> list[dict[str, Any]]:
    """How many there are of each name, type and state. Costs a small part of what the rows themselves do."""
    table = _Calls(hub)
    groups: dict[tuple[Any, ...], tuple[Record, int]] = {}
    for record in hub.history.kept():
        where = 0 if type(record.options) is TaskOptions else record.where
        actor = where.actor if isinstance(where, Card) else where
        key = (record.name, id(record.options), actor, record.failed)
        known = groups.get(key)
        groups[key] = (record, 1 if known is None else known[1] + 1)
    found: Counter[tuple[str, str, str]] = Counter()
    for record, number in groups.values():
        row = table.ended(record, 0.0, 0.0)
        if row is not None:
            found[row["name"] or row["func_or_class_name"], row["type"], row["state"]] += number
    for row in table.living():
        if row is not None:
            found[row["name"] or row["func_or_class_name"], row["type"], row["state"]] += 1
    return [
        {"name": name, "type": kind, "state": state, "count": count} for (name, kind, state), count in found.items()
    ]


class _Calls:
    """What turning records into rows needs to look up, once for all of them."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.offset = hub.history.offset
        self.graves = {grave.key: grave.options for grave in hub.history.actors}
        self.resources: dict[int, dict[str, float]] = {}
        self.last: dict[int, float] = {}
        """When each worker ended the call that it ended last."""

    # ------------------------------------------------------------------- under way

    def living(self) -> Iterator[dict[str, Any] | None]:
        places = {
            id(row): (place, worker)
            for worker in self.hub.workers.values()
            for place, row in enumerate(worker.running.values())
        }
        for row in list(self.hub.rows.values()):
            spec = row.spec
            if spec is None:
                continue
            actor = row.actor
            if actor is not None and (actor.constructed or actor.dead):
                continue
            place, worker = places.get(id(row), (0, None))
            state = self._state(row, place, worker)
            where = worker.card if worker is not None else spec.actor
            name = spec.function or spec.method
            attempt = row.attempt if actor is None else actor.restarts
            record = Record(spec.task, name, row.options, where, row.parent, attempt, row.made, 0.0, -1)
            found = self._row(record)
            if found is None:
                continue
            found["state"] = state
            if worker is not None and state.startswith("RUNNING"):
                began = worker.card.since
                if worker.card.at_once == 1:
                    began = max(began, self.last.get(worker.client, 0.0))
                found["start_time_ms"] = (began + self.offset) * 1e3
            yield found

    def _state(self, row: Row, place: int, worker: Worker | None) -> str:
        """Where a call is on its way, in Ray's words."""
        if worker is None:
            return "PENDING_ARGS_AVAIL" if row.missing else "PENDING_NODE_ASSIGNMENT"
        if place >= worker.card.at_once:
            return "SUBMITTED_TO_WORKER"
        if place or not worker.blocked:
            return "RUNNING"
        reading = any(question.message.values for question in worker.questions)
        return "RUNNING_IN_RAY_GET" if reading or not worker.questions else "RUNNING_IN_RAY_WAIT"

    # ----------------------------------------------------------------------- ended

    def saw(self, record: Record, ended: float) -> None:
        """Remember when its worker ended a call last."""
        if type(record.where) is Card:
            self.last[record.where.client] = ended

    def ended(self, record: Record, began: float, ended: float) -> dict[str, Any] | None:
        """The row of a call that has ended; None when its options ask for none."""
        self.saw(record, ended)
        row = self._row(record)
        if row is None:
            return None
        row["state"] = "FAILED" if record.failed else "FINISHED"
        if began:
            row["start_time_ms"] = (max(began, record.made) + self.offset) * 1e3
        row["end_time_ms"] = (max(ended, record.made) + self.offset) * 1e3
        if record.failed:
            row["error"] = self.hub.history.errors.get((record.task, record.attempt), b"")
        return row

    # ------------------------------------------------------------------------ both

    def _row(self, record: Record) -> dict[str, Any] | None:
        options, where = record.options, record.where
        card = where if isinstance(where, Card) else None
        actor = 0 if isinstance(options, TaskOptions) else where.actor if isinstance(where, Card) else where
        if not self._listed(options, actor):
            return None
        function = self._function(record.name, options, actor, card)
        return {
            "task_id": ids.task_binary(record.task).hex(),
            "attempt_number": record.attempt,
            "name": _name(options, function),
            "state": "",
            "job_id": job_hex(card.job if card is not None else 1),
            "actor_id": ids.actor_binary(actor).hex() if actor else None,
            "type": _TYPES[type(options)],
            "func_or_class_name": function,
            "parent_task_id": ids.task_binary(record.parent).hex() if record.parent else None,
            "node_id": card.node if card is not None else None,
            "worker_id": ids.worker_hex(card.client) if card is not None else None,
            "worker_pid": card.pid if card is not None else None,
            "required_resources": self._needs(options),
            "runtime_env": shown_environment(getattr(options, "environment", "")),
            "creation_time_ms": (record.made + self.offset) * 1e3,
            "start_time_ms": None,
            "end_time_ms": None,
            "error": None,
            "call_site": self.hub.history.sites.get(record.task),
        }

    def _listed(self, options: Any, actor: int) -> bool:
        """Whether the call's ``enable_task_events`` allows it; a method's may leave that to its actor."""
        if options.events is not None:
            return bool(options.events)
        found = self._actor_options(actor)
        return found is None or found.events

    def _actor_options(self, key: int) -> ActorOptions | None:
        actor = self.hub.actors.get(key)
        return actor.info.options if actor is not None else self.graves.get(key)

    def _function(self, name: bytes | str, options: Any, actor: int, card: Card | None) -> str:
        if isinstance(options, TaskOptions):
            export = self.hub.definitions.get(name) if isinstance(name, bytes) else None
            return export.name if export is not None else "task"
        class_name = card.class_name if card is not None else ""
        if not class_name:
            found = self._actor_options(actor)
            class_name = found.class_name if found is not None else "actor"
        return f"{class_name}.{name if isinstance(name, str) else '__init__'}"

    def _needs(self, options: Any) -> dict[str, float]:
        """The resources of a call; options are shared by many, so each is looked at once."""
        found = self.resources.get(id(options))
        if found is None:
            found = self.resources[id(options)] = as_floats(getattr(options, "resources", ()))
        return found


def job_hex(number: int) -> str:
    """The id of a job."""
    return number.to_bytes(4, "little").hex()


def _name(options: Any, function: str) -> str:
    """What the program calls a call; the constructor of a named actor has both names, as in Ray."""
    given: str = options.name
    return f"{given}:{function}" if given and isinstance(options, ActorOptions) else given
