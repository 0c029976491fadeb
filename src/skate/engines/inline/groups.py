"""Placement groups in one process: resources are counted for them, and calls wait until their group has them.

Everything else runs at once, so nothing keeps two calls out of one bundle. Tasks that run when a group is made do not
count against it, for they end before anything else begins; groups and actors do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from skate.core import groups as asked
from skate.core.groups import CREATED, PENDING, REMOVED
from skate.core.placement import Where, matches
from skate.core.resources import UNIT, as_floats, fits, give, take
from skate.core.spec import GroupSpec, Resources
from skate.engines.inline.machine import Amounts, Machine
from skate.engines.inline.records import Call, Outcome, Row, failure

if TYPE_CHECKING:
    from skate.engines.inline.session import Session

REMEMBERED = 10_000
"""Removed groups that the table still shows."""


class Group:
    """A placement group."""

    def __init__(self, key: int, spec: GroupSpec, hopeless: bool) -> None:
        self.key = key
        self.spec = spec
        self.hopeless = hopeless
        self.state = PENDING
        self.bundles: list[tuple[Amounts, tuple[int | str, ...]]] = []
        """What is left of each bundle, and its GPUs."""
        self.promises: dict[int, Outcome] = {}
        """Objects that become ready with it, by key."""
        self.waiting: list[Callable[[], None]] = []
        """How calls that wait for it are told."""


class Groups:
    """All groups of a session. With the session's lock held, but for what `tell` does."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.live: dict[int, Group] = {}
        self.names: dict[tuple[str, str], Group] = {}
        self.gone: dict[int, Group] = {}
        self.awaited: dict[int, Group] = {}
        """The group that an object becomes ready with, by the identity of its row."""

    def add(self, key: int, spec: GroupSpec) -> Group:
        """A new group."""
        if spec.name and (spec.namespace, spec.name) in self.names:
            raise asked.name_taken(spec)
        group = self.live[key] = Group(key, spec, not self._possible(spec))
        if spec.name:
            self.names[spec.namespace, spec.name] = group
        if group.hopeless:
            logging.getLogger("skate").warning(self.why_never(group))
        return group

    def _possible(self, spec: GroupSpec) -> bool:
        """Whether the one node has it all."""
        labels = self.machine.labels
        if spec.strategy == "STRICT_SPREAD" and len(spec.bundles) > 1:
            return False
        if spec.domain and spec.domain not in labels:
            return False
        return all(matches(selector, labels) for selector in spec.selectors) and fits(_sum(spec), self.machine.total)

    def why_never(self, group: Group) -> str:
        """Why a group can never be placed."""
        return asked.why_never(group.spec, [self.machine.total])

    def place(self, held: Iterator[Resources]) -> list[Group]:
        """Count resources for the groups that wait; `held`: what actors outside of groups hold."""
        pending = [group for group in self.live.values() if group.state == PENDING and not group.hopeless]
        if not pending:
            return []
        free = dict(self.machine.total)
        for need in held:
            take(need, free)
        for group in self.live.values():
            if group.state == CREATED:
                take(_sum(group.spec), free)
        made = []
        for group in pending:
            if fits(_sum(group.spec), free):
                take(_sum(group.spec), free)
                for need in group.spec.bundles:
                    gpus = self.machine.take(need)
                    units = dict(need).get("GPU", 0)
                    group.bundles.append((Amounts(dict(need), dict.fromkeys(gpus, min(units, UNIT))), gpus))
                group.state = CREATED
                made.append(group)
        return made

    def remove(self, group: Group) -> None:
        """A group is no more."""
        del self.live[group.key]
        if self.names.get((group.spec.namespace, group.spec.name)) is group:
            del self.names[group.spec.namespace, group.spec.name]
        for need, (_, gpus) in zip(group.spec.bundles, group.bundles, strict=False):
            self.machine.give(need, gpus)
        group.state = REMOVED
        self.gone[group.key] = group
        if len(self.gone) > REMEMBERED:
            del self.gone[next(iter(self.gone))]

    def bundle_for(self, where: Where | None, need: Resources) -> Amounts:
        """What a call takes its resources from: a bundle with room, one that could have it, or the whole machine."""
        group = self.live.get(where.group) if where is not None and where.group else None
        if group is None or where is None or not group.bundles:
            return self.machine
        able = [
            amounts
            for number, (amounts, _) in enumerate(group.bundles)
            if where.bundle in (-1, number) and fits(need, dict(group.spec.bundles[number]))
        ]
        return next((amounts for amounts in able if fits(need, amounts.free)), able[0] if able else self.machine)

    def why_impossible(self, label: str, where: Where, need: Resources) -> Exception | None:
        """Why a call can never run in its group."""
        group = self.live.get(where.group)
        if group is None:
            return asked.group_removed(where.group)
        if group.hopeless:
            return asked.GroupUnschedulable(self.why_never(group))
        chosen = group.spec.bundles if where.bundle < 0 else group.spec.bundles[where.bundle : where.bundle + 1]
        if any(fits(need, dict(bundle)) for bundle in chosen):
            return None
        bundles = [as_floats(bundle) for bundle in group.spec.bundles]
        return asked.Misfit(f"{label}: {asked.misfit(need, bundles, where.bundle)}")

    def row(self, group: Group) -> dict[str, Any]:
        """A group as the table shows it."""
        placed = bool(group.bundles)
        doing = "INFEASIBLE" if group.hopeless else "NO_RESOURCES"
        stats = {
            "end_to_end_creation_latency_ms": 0.0,
            "scheduling_latency_ms": 0.0,
            "scheduling_attempt": 1,
            "highest_retry_delay_ms": 0.0,
            "scheduling_state": {CREATED: "FINISHED", REMOVED: "REMOVED"}.get(group.state, doing),
        }
        nodes = [self.machine.node if placed else ""] * len(group.spec.bundles)
        return asked.row(group.key, group.spec, group.state, nodes, stats)


def _sum(spec: GroupSpec) -> Resources:
    total: dict[str, int] = {}
    for need in spec.bundles:
        give(need, total)
    return tuple(total.items())


# --------------------------------------------------------------------------------- in a session


def reserve(session: Session, spec: GroupSpec) -> int:
    """A new group."""
    key = session.take_ids()
    with session.lock:
        session.groups.add(key, spec)
    settle(session)
    return key


def settle(session: Session) -> None:
    """Place the groups that can be placed now, and let go on what waits for them."""
    if not session.groups.live:
        return
    told: list[Callable[[], None]] = []
    with session.lock:
        for group in session.groups.place(_held_by_actors(session)):
            for key, outcome in group.promises.items():
                _forget(session, key)
                told += session.fill(key, outcome)
            told += group.waiting
            group.promises, group.waiting = {}, []
    for tell in told:
        tell()


def _held_by_actors(session: Session) -> Iterator[Resources]:
    for actor in session.actors.values():
        where = actor.info.options.where
        if actor.place is not None and not (where is not None and where.group):
            yield actor.info.options.resources


def unreserve(session: Session, key: int) -> None:
    """Remove a group: what waits for it or in it fails, actors in it end."""
    groups = session.groups
    error = asked.group_removed(key)
    told: list[Callable[[], None]] = []
    with session.lock:
        group = groups.live.get(key)
        if group is None:
            return
        groups.remove(group)
        for promise in group.promises:
            _forget(session, promise)
            told += session.fill(promise, failure(error))
        calls = [call for call in session.live.values() if call.actor is None and _is_in(where_of(call), key)]
        actors = [actor for actor in session.actors.values() if _is_in(actor.info.options.where, key)]
    for tell in told:
        tell()
    for call in calls:
        session.fail(call, error)
    for actor in actors:
        if actor.place is None:
            actor.die(asked.actor_group_removed(f"The actor {actor.title}", key))
        else:
            actor.die(f"The actor {actor.title} died: its placement group was removed.")
    settle(session)


def where_of(call: Call) -> Where | None:
    """Where a task, or the actor that a call is of, is to run."""
    options = call.options if call.actor is None else call.actor.info.options
    return getattr(options, "where", None)


def _is_in(where: Where | None, key: int) -> bool:
    return where is not None and where.group == key


def _forget(session: Session, promise: int) -> None:
    row = session.rows.get(promise)
    if row is not None:
        session.groups.awaited.pop(id(row), None)


def await_group(session: Session, key: int, outcome: Outcome) -> int:
    """The key of a new object that becomes ready with a group."""
    promise = session.take_ids()
    with session.lock:
        group = session.groups.live.get(key)
        row = session.new_row(promise)
        if group is None:
            outcome = failure(asked.group_removed(key))
        if group is None or group.state == CREATED:
            session.fill(promise, outcome)
        else:
            for old in [old for old in group.promises if old not in session.rows]:
                del group.promises[old]
            group.promises[promise] = outcome
            session.groups.awaited[id(row)] = group
    return promise


def why_never_ready(session: Session, row: Row) -> Exception | None:
    """Why an object that waits for a group can never be ready."""
    group = session.groups.awaited.get(id(row))
    if group is None or not group.hopeless:
        return None
    return asked.GroupUnschedulable(session.groups.why_never(group))
