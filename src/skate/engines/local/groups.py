"""Placement groups in the scheduler: parts of nodes that are set aside, and the groups that wait for theirs. No I/O.

Groups that cannot be placed wait by what they ask for, so that a thousand equal ones cost one look. The oldest is tried
first; one that does not fit does not hold up those after it, as in Ray.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from skate.core import groups
from skate.core.groups import CREATED, PENDING, REMOVED, RESCHEDULING
from skate.core.placement import Where, matches
from skate.core.resources import UNIT, fits, give
from skate.core.spec import GroupSpec, Resources
from skate.engines.local.bundling import plan, possible, put
from skate.engines.local.rows import Family, Node, Place, Worker

REMEMBERED = 10_000
"""Removed groups that the table still shows."""

Tiers = tuple[tuple[Place, ...], ...]
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(GroupSpec).decode


class Bundle(Place):
    """A part of a node that belongs to a group."""

    __slots__ = ("need", "number")

    def __init__(self, node: Node, number: int, need: Resources) -> None:
        super().__init__(dict(need), put(need, node))
        self.node = node
        self.number = number
        self.need = need
        for gpu in self.gpus:
            self.gpus[gpu] = min(UNIT, self.total["GPU"])

    def give_back(self) -> None:
        """The node has it all again; what ran here must have been ended."""
        give(self.need, self.node.free)
        for gpu in self.gpus:
            self.node.gpus[gpu] += min(UNIT, self.total["GPU"])


class Group:
    """A placement group."""

    __slots__ = (
        "asked",
        "bundles",
        "families",
        "hopeless",
        "key",
        "made",
        "order",
        "owner",
        "promises",
        "shape",
        "spec",
        "state",
        "tries",
    )

    def __init__(self, key: int, spec: GroupSpec, owner: Worker | None, order: int, now: float) -> None:
        self.key = key
        self.spec = spec
        self.owner = owner
        """The worker, or attached driver, in which it was made; None: the driver itself."""
        self.order = order
        self.shape: Any = (spec.bundles, spec.strategy, spec.selectors, spec.target, spec.domain)
        """Groups of one shape fit or do not fit together."""
        self.state = PENDING
        self.bundles: list[Bundle | None] = [None] * len(spec.bundles)
        self.families: list[Family] = []
        """Of calls that belong into it."""
        self.promises: list[tuple[int, bytes]] = []
        """Objects that become ready with it: their keys and values."""
        self.hopeless = False
        """Not even with all nodes to itself could it be placed."""
        self.asked = now
        self.made = 0.0
        self.tries = 0

    def took(self) -> float:
        """Seconds until it was placed; 0 when it was not."""
        return self.made - self.asked if self.made else 0.0

    def nodes(self) -> list[str]:
        """The ids of its bundles' nodes, in hex; empty for one that has none."""
        return [bundle.node.hex if bundle is not None else "" for bundle in self.bundles]

    def row(self) -> dict[str, Any]:
        """As the table shows it."""
        doing = "FINISHED" if self.state == CREATED else "INFEASIBLE" if self.hopeless else "NO_RESOURCES"
        return _row(self.key, self.spec, self.state, self.nodes(), self.took(), self.tries, doing)


class Gone(msgspec.Struct, gc=False):
    """What remains of a group that was removed: little, for there are many."""

    key: int
    spec: bytes
    nodes: tuple[str, ...]
    took: float
    tries: int

    def row(self) -> dict[str, Any]:
        """As the table shows it."""
        spec = _decode(self.spec)
        return _row(self.key, spec, REMOVED, list(self.nodes), self.took, self.tries, "REMOVED")


def _row(
    key: int, spec: GroupSpec, state: str, nodes: list[str], took: float, tries: int, doing: str
) -> dict[str, Any]:
    stats = {
        "end_to_end_creation_latency_ms": took * 1000,
        "scheduling_latency_ms": took * 1000,
        "scheduling_attempt": tries,
        "highest_retry_delay_ms": 0.0,
        "scheduling_state": doing,
    }
    return groups.row(key, spec, state, nodes, stats)


class Groups:
    """All groups of a session."""

    def __init__(self) -> None:
        self.live: dict[int, Group] = {}
        self.names: dict[tuple[str, str], Group] = {}
        self.gone: dict[int, Gone] = {}
        """Removed ones, the oldest first."""
        self.pending: dict[Any, dict[Group, None]] = {}
        """Those that have not all their bundles, by shape, the oldest first."""
        self.due = False
        """Something has changed that may let a pending one be placed."""
        self._orders = itertools.count()

    # ---------------------------------------------------------------- come and go

    def add(self, key: int, spec: GroupSpec, owner: Worker | None, now: float) -> Group:
        """A new group, to be placed; GroupNameTaken when another one has its name."""
        name = (spec.namespace, spec.name)
        if spec.name and name in self.names:
            raise groups.name_taken(spec)
        group = self.live[key] = Group(key, spec, owner, next(self._orders), now)
        if spec.name:
            self.names[name] = group
        self._wait(group)
        return group

    def remove(self, group: Group) -> None:
        """A group is no more, and its nodes have their resources again. Who is in it must have been ended."""
        del self.live[group.key]
        self._wait_no_more(group)
        name = (group.spec.namespace, group.spec.name)
        if self.names.get(name) is group:
            del self.names[name]
        for bundle in group.bundles:
            if bundle is not None:
                bundle.give_back()
        group.state = REMOVED
        group.owner = None
        group.families, group.promises = [], []
        self.due = bool(self.pending)
        self.gone[group.key] = Gone(group.key, _encode(group.spec), tuple(group.nodes()), group.took(), group.tries)
        if len(self.gone) > REMEMBERED:
            del self.gone[next(iter(self.gone))]

    def _wait(self, group: Group) -> None:
        self.pending.setdefault(group.shape, {})[group] = None
        self.due = True

    def _wait_no_more(self, group: Group) -> None:
        alike = self.pending.get(group.shape)
        if alike is not None:
            alike.pop(group, None)
            if not alike:
                del self.pending[group.shape]

    # -------------------------------------------------------------------- placing

    def place(self, nodes: Mapping[int, Node], now: float) -> list[Group]:
        """Set aside what is free for the groups that wait, the oldest first; those that have all now."""
        self.due = False
        made = []
        line = [(next(iter(alike)).order, shape) for shape, alike in self.pending.items()]
        heapq.heapify(line)  # no two have one order, so shapes are never compared
        while line:
            shape = line[0][1]
            alike = self.pending[shape]
            group = next(iter(alike))
            if group.hopeless or not self._set_aside(group, nodes.values()):
                heapq.heappop(line)
                continue
            group.state, group.made = CREATED, now
            made.append(group)
            self._wait_no_more(group)
            if alike:
                heapq.heapreplace(line, (next(iter(alike)).order, shape))
            else:
                heapq.heappop(line)
        return made

    def _set_aside(self, group: Group, nodes: Iterable[Node]) -> bool:
        group.tries += 1
        missing = [number for number, bundle in enumerate(group.bundles) if bundle is None]
        kept = [bundle.node for bundle in group.bundles if bundle is not None]
        found = plan(group.spec, missing, kept, nodes)
        if found is None:
            return False
        # In the plan's own order: it is the one in which the GPUs work out.
        for number, node in found.items():
            group.bundles[number] = Bundle(node, number, group.spec.bundles[number])
        return True

    def judge(self, group: Group, nodes: Mapping[int, Node]) -> bool:
        """Find out whether a new group that waits can never be placed."""
        first = next(iter(self.pending[group.shape]))
        group.hopeless = first.hopeless if first is not group else not possible(group.spec, nodes.values())
        return group.hopeless

    def judge_all(self, nodes: Mapping[int, Node]) -> list[Group]:
        """Find out again which of the waiting groups can never be placed; those of which that was not known."""
        self.due = bool(self.pending)
        news = []
        for alike in self.pending.values():
            first = next(iter(alike))
            hopeless = not possible(first.spec, nodes.values())
            for group in alike:
                if hopeless and not group.hopeless:
                    news.append(group)
                group.hopeless = hopeless
        return news

    def lost(self, node: Node) -> None:
        """A node is gone, and the bundles on it: they are to be placed anew. Its workers are gone before."""
        hit = [group for group in self.live.values() if any(b is not None and b.node is node for b in group.bundles)]
        for group in hit:
            self._wait_no_more(group)
            group.bundles = [None if b is not None and b.node is node else b for b in group.bundles]
            group.state = RESCHEDULING
            group.shape = group.key
            self._wait(group)

    # --------------------------------------------------------------------- calls

    def tiers(self, family: Family, where: Where) -> Tiers:
        """The bundles that could run a family's calls, if they were empty."""
        group = self.live.get(where.group)
        need = family.least or family.need
        found = [
            bundle
            for bundle in (group.bundles if group is not None else ())
            if bundle is not None and where.bundle in (-1, bundle.number) and fits(need, bundle.total)
        ]
        if where.selectors:
            found = [b for b in found if any(matches(selector, b.node.labels) for selector in where.selectors)]
        return (tuple(found),)

    def refuses(self, family: Family, where: Where) -> bool:
        """Whether nothing can ever run a family's calls: the group is gone, hopeless, or too small."""
        group = self.live.get(where.group)
        if group is None or group.hopeless:
            return True
        return self.misfit(family, where, group)

    def misfit(self, family: Family, where: Where, group: Group) -> bool:
        """Whether a family's calls fit into no bundle of their group."""
        needs = group.spec.bundles
        chosen = needs if where.bundle < 0 else needs[where.bundle : where.bundle + 1]
        return not any(fits(family.least or family.need, dict(need)) for need in chosen)

    def hold(self, name: str) -> bool:
        """Whether some of a resource is set aside."""
        return any(name == held for group in self.live.values() for need in group.spec.bundles for held, _ in need)
