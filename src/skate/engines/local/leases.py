"""Nodes with their resources, families of calls, and which worker is leased to which family. No I/O.

Tasks are grouped in families (same resources, same environment). A worker is *leased* to one family: it takes the
family's resources once, and gives them back when it runs dry or blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from skate.core.placement import Where
from skate.core.resources import UNIT, give, take
from skate.core.spec import Resources
from skate.engines.local.groups import Group, Groups
from skate.engines.local.limit import Limit
from skate.engines.local.placing import choose_gpus, places_for
from skate.engines.local.rows import HEAD, Family, Node, Place, Worker

REMEMBERED = 1000
"""Removed nodes that are remembered."""

Kind = tuple[Resources, str, Resources | None, Where | None, int]


class Leases:
    """The nodes and their resources, the families, and the workers that these have."""

    def __init__(self, total: dict[str, int], labels: dict[str, str] | None = None) -> None:
        self.head = Node(HEAD, total, labels)
        """The driver's own node."""
        self.nodes: dict[int, Node] = {HEAD: self.head}
        self.dead: deque[Node] = deque(maxlen=REMEMBERED)
        """Nodes that were removed."""
        self.copies: dict[int, set[int]] = {}
        """Stored values that the driver's node has no copy of: the nodes, by number, that have one."""
        self.groups = Groups()
        """Placement groups."""
        self.families: dict[Kind, Family] = {}
        self.waiting: dict[Family, None] = {}
        """Families with queued calls, the longest waiting first."""
        self.ranked = False
        """Whether any family has a priority of its own."""
        self.resting: dict[str, int] = {}
        """How many workers of an environment are idle, on all nodes."""
        self.limit: Limit | None = None
        """The most worker processes, if there is one."""

    @property
    def total(self) -> dict[str, int]:
        """What all nodes have."""
        return self.head.total if len(self.nodes) == 1 else _sum(node.total for node in self.nodes.values())

    @property
    def free(self) -> dict[str, int]:
        """What all nodes have left."""
        return self.head.free if len(self.nodes) == 1 else _sum(node.free for node in self.nodes.values())

    def family(
        self,
        need: Resources,
        environment: str,
        least: Resources | None = None,
        where: Where | None = None,
        priority: int = 0,
    ) -> Family:
        """The family of calls with these needs and wishes; `least` of actors alone."""
        key = (need, environment, least, where, priority)
        family = self.families.get(key)
        if family is None:
            family = Family(need, environment, least, where, priority)
            self._place(family)
            self.ranked = self.ranked or bool(priority)
            group = self.groups.live.get(where.group) if where is not None and where.group else None
            if group is not None:
                group.families.append(family)
            if group is not None or where is None or not where.group:  # or it is for calls that will only be refused
                self.families[key] = family
        return family

    def _place(self, family: Family) -> None:
        """Find out where calls of a family could run."""
        where = family.where
        if where is not None and where.group:
            family.tiers = self.groups.tiers(family, where)
        else:
            family.tiers = places_for(family.least or family.need, where, self.nodes.values())
        family.spreads = where is not None and where.spread and len(family.tiers[0]) > 1
        family.places = family.tiers[0] if family.spreads else tuple(place for tier in family.tiers for place in tier)
        family.infeasible = not family.places
        if where is not None and where.group:  # one that waits has no places yet
            family.infeasible = self.groups.refuses(family, where)
        family.picky = family.infeasible or (where is not None and where.now)
        plain = not family.picky and len(family.places) == 1 and all(name != "GPU" for name, _ in family.need)
        family.only = family.places[0] if plain else None
        family.promised = {place: count for place, count in family.promised.items() if place in family.places}

    def add_node(self, node: Node) -> None:
        """A node joins."""
        self.nodes[node.key] = node
        for family in self.families.values():
            self._place(family)

    def remove_node(self, node: Node) -> None:
        """A node is no more; its workers are `gone` before."""
        del self.nodes[node.key]
        self.dead.append(node)
        self.groups.lost(node)
        for family in self.families.values():
            self._place(family)

    def copied(self, key: int, node: int) -> None:
        """A stored value is read on a node, which has a copy from now on."""
        places = self.copies.get(key)
        if places is not None:
            if node == HEAD:
                del self.copies[key]
            else:
                places.add(node)

    # ------------------------------------------------------------- placement groups

    def place_groups(self, now: float) -> list[Group]:
        """Set aside what is free for placement groups that wait; those that have all they asked for now."""
        made = self.groups.place(self.nodes, now)
        for group in made:
            self.place_families(group)
        return made

    def place_families(self, group: Group) -> None:
        """A group's bundles have changed: so have the places of its calls."""
        for family in group.families:
            self._place(family)

    def dissolve(self, group: Group) -> list[Family]:
        """A group is no more; the families of its calls, for which nothing is left. Its workers are gone already."""
        families = group.families
        self.groups.remove(group)
        for family in families:
            self.families.pop((family.need, family.environment, family.least, family.where, family.priority), None)
            self.waiting.pop(family, None)
            self._place(family)
        return families

    # ------------------------------------------------------------------ workers

    def arrived(self, worker: Worker) -> None:
        """A started worker is up."""
        worker.node.starting[worker.environment] -= 1
        self._rest(worker)

    def _rest(self, worker: Worker) -> None:
        environment = worker.environment
        worker.node.idle.setdefault(environment, []).append(worker)
        self.resting[environment] = self.resting.get(environment, 0) + 1

    def gone(self, worker: Worker) -> None:
        """A worker died, or is about to."""
        node, environment = worker.node, worker.environment
        if not worker.up:
            node.starting[environment] -= 1
        idle = node.idle.get(environment)
        if idle and worker in idle:
            idle.remove(worker)
            self.resting[environment] -= 1
        self.unlease(worker)

    def reaped(self, worker: Worker) -> None:
        """A worker's process is no more."""
        self.gone(worker)
        if self.limit is not None:
            self.limit.ended(worker.client)

    def lease(self, worker: Worker, family: Family, place: Place) -> None:
        """Give the worker to the family, with the family's resources."""
        need = family.need
        worker.family = family
        worker.batch = 0
        worker.taken = need
        worker.place = place
        take(need, place.free)
        if place.gpus:
            worker.gpus = choose_gpus(need, place) or ()
            for number in worker.gpus:
                place.gpus[number] -= min(UNIT, dict(need)["GPU"])
        family.workers[worker] = None

    def unlease(self, worker: Worker) -> None:
        """Take back what the worker holds."""
        family = worker.family
        if family is None:
            return
        place = worker.place
        family.workers.pop(worker, None)
        worker.family = None
        give(worker.taken, place.free)
        if worker.blocked:
            take(_cpus(worker.taken), place.free)  # they were given back already
        for number in worker.gpus:
            place.gpus[number] += min(UNIT, dict(family.need)["GPU"])
        worker.taken = ()
        worker.gpus = ()
        if self.groups.pending:
            self.groups.due = True

    def block(self, worker: Worker) -> None:
        """The worker waits for an object: others may use its CPUs. Memory and devices it holds on to, as in Ray."""
        worker.blocked += 1
        if worker.blocked == 1:
            give(_cpus(worker.taken), worker.place.free)
            if self.groups.pending:
                self.groups.due = True

    def unblock(self, worker: Worker) -> None:
        """The worker goes on."""
        worker.blocked -= 1
        if worker.blocked == 0:
            # may go below zero: oversubscribing beats deadlock
            take(_cpus(worker.taken), worker.place.free)

    def dry(self, worker: Worker, now: float) -> None:
        """A leased worker has nothing to run: it is idle."""
        self.unlease(worker)
        worker.idle_since = now
        self._rest(worker)


def _cpus(need: Resources) -> Resources:
    return tuple(part for part in need if part[0] == "CPU")


def _sum(amounts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in amounts:
        give(tuple(part.items()), total)
    return total
