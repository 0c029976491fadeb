"""Placement groups: made, waited for, removed. The part of the hub that knows them.

A group's resources are taken from the nodes when it is placed, and its bundles are places for calls from then on. Who
waits for a group has an object of his own that becomes ready with it. A group that is removed ends what runs in it: the
workers are killed, but the nodes have its resources at once.
"""

from __future__ import annotations

import signal
from typing import Any

from skate.core import groups as asked
from skate.core.groups import CREATED
from skate.core.resources import as_floats
from skate.core.spec import GroupSpec
from skate.engines.local import errors
from skate.engines.local.groups import Gone, Group
from skate.engines.local.rows import FAILED, GROUP, PENDING, READY, Family, Row, Worker
from skate.engines.local.shortage import Shortages

REMOVED = "its placement group was removed"
"""Why a worker was ended, in words."""


class Reservations(Shortages):
    """The hub's placement groups."""

    def reserve(self, key: int, spec: GroupSpec, owner: Worker | None) -> None:
        """A new group; GroupNameTaken when its name belongs to another one."""
        scheduler = self.scheduler
        group = scheduler.groups.add(key, spec, owner, self.timers.clock())
        self.decide()
        if group.state == asked.PENDING and scheduler.groups.judge(group, scheduler.nodes):
            self._hopeless([group])

    def unreserve(self, key: int) -> None:
        """Remove a group, if it is there: what runs in it is killed, what waits for it or in it fails."""
        group = self.scheduler.groups.live.get(key)
        if group is None:
            return
        promises = group.promises
        workers = [worker for family in group.families for worker in family.workers]
        for worker in workers:
            worker.leaving = (REMOVED, True)
            self.scheduler.gone(worker)
            self.ports.signal(worker, signal.SIGKILL)
        families = self.scheduler.dissolve(group)
        self.doubtful.difference_update((group, *families))
        for family in families:
            rows = [row for row in family.queue if row.spec is not None and row.state == PENDING]
            family.queue.clear()
            for row in rows:
                self.never_in_group(family, row, key)
        for worker in workers:
            actor = worker.actor
            if actor is not None and not actor.dead:
                self.bury(actor, errors.actor_died(actor, errors.actor_death(actor, worker, REMOVED)))
        if promises:
            self.fill_all((promise for promise, _ in promises), FAILED, errors.packed(asked.group_removed(key)))
        self.decide()

    def await_group(self, promise: int, key: int, value: bytes, holder: Worker | None) -> None:
        """A new object that becomes ready with a group."""
        group = self.scheduler.groups.live.get(key)
        row = self.rows[promise] = Row(maker=GROUP, options=group)
        if holder is not None:
            holder.held.add(promise)
        if group is None:
            self.fill(promise, FAILED, errors.packed(asked.group_removed(key)))
        elif group.state == CREATED:
            row.value, row.state = value, READY
        else:
            if len(group.promises) >= 64:  # somebody asks again and again
                group.promises = [pair for pair in group.promises if pair[0] in self.rows]
            group.promises.append((promise, value))

    def find_group(self, name: str, namespace: str) -> int:
        """The key of a named group; ValueError when there is none."""
        group = self.scheduler.groups.names.get((namespace, name))
        if group is None:
            raise asked.no_such_name(name, namespace)
        return group.key

    def group_row(self, key: int) -> dict[str, Any] | None:
        """A group as the table shows it; None when it is not known."""
        groups = self.scheduler.groups
        group: Group | Gone | None = groups.live.get(key) or groups.gone.get(key)
        return group.row() if group is not None else None

    # ------------------------------------------------------------------- placing

    def place_groups(self) -> None:
        """Something is free for a group that waits."""
        made = self.scheduler.place_groups(self.timers.clock())
        for group in made:
            promises, group.promises = group.promises, []
            for promise, value in promises:
                self.fill(promise, READY, value)

    def nodes_changed(self) -> None:
        """Nodes have come or gone: groups may be placed that could not, or the other way round. Before `decide`."""
        groups = self.scheduler.groups
        if not groups.pending:
            return
        hopeless = groups.judge_all(self.scheduler.nodes)
        for group in groups.live.values():
            if group.state != CREATED:
                self.scheduler.place_families(group)
                if not group.hopeless:
                    self.doubtful.discard(group)
        if hopeless:
            self._hopeless(hopeless)

    # -------------------------------------------------------------- what is hopeless

    def _hopeless(self, groups: list[Group]) -> None:
        """Groups can never be placed: warn, and tell whoever waits for them without a timeout."""
        for group in groups:
            self.doubtful.add(group)
            self.scheduler.place_families(group)
            if next(iter(self.scheduler.groups.pending[group.shape])) is group:  # once for all that ask for the same
                self.ports.warn(self._why_never(group))
        self.doubt()

    def _why_never(self, group: Group) -> str:
        return asked.why_never(group.spec, [node.total for node in self.scheduler.nodes.values()])

    def never_in_group(self, family: Family, row: Row, group: int) -> None:
        """A call can never run in its group: that is gone, or too small; or it can never be placed, and so it waits."""
        found = self.scheduler.groups.live.get(group)
        where = family.where
        assert where is not None
        if found is None and row.actor is not None:
            label = f"The actor {errors.name_of(row.actor)}"
            self.give_up(row, errors.packed(asked.actor_group_removed(label, group)))
        elif found is None:
            self.give_up(row, errors.packed(asked.group_removed(group)))
        elif self.scheduler.groups.misfit(family, where, found):
            bundles = [as_floats(bundle) for bundle in found.spec.bundles]
            text = f"{self.label(row)}: {asked.misfit(family.least or family.need, bundles, where.bundle)}"
            self.give_up(row, errors.packed(asked.Misfit(text)))
        elif family not in self.doubtful:
            self.doubtful.add(family)
            self.doubt()

    def why_never_in_group(self, row: Row) -> bytes:
        """The packed error for who waits for a group, or for a call in a group, that can never be placed."""
        group: Any = None
        if row.maker == GROUP:
            group = row.options
        elif row.options.where is not None:
            group = self.scheduler.groups.live.get(row.options.where.group)
        if group is None or not group.hopeless:
            return b""
        return errors.packed(asked.GroupUnschedulable(self._why_never(group)))
