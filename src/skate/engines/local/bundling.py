"""Which nodes get the bundles of a placement group: a pure choice.

A bundle needs room on one node, and the strategy says how bundles may share nodes. The first try is greedy: the bundles
that few nodes can take come first, each goes to the node that the strategy likes best. When that fails and the group is
small, all other ways are tried, up to a limit of steps; so a greedy mistake does not make a group wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from skate.core.placement import Selector, matches
from skate.core.resources import UNIT, take
from skate.core.spec import GroupSpec, Resources
from skate.engines.local.placing import choose_gpus, has_room
from skate.engines.local.rows import Node, Place

STEPS = 5_000
"""Looks at a node after which the search for another way is given up, for a group that can be tried again."""
STEPS_TO_JUDGE = 100_000
"""The same, when it is to be known whether there is a way at all."""
DEEPEST = 100
"""Bundles of a group up to which other ways are looked for."""

Plan = dict[int, Node]
"""A node for each bundle, by its number."""


class Missing(NamedTuple):
    """A bundle that has no node."""

    number: int
    need: Resources
    selector: Selector


class GaveUp(Exception):
    """Not all ways could be tried."""


def plan(spec: GroupSpec, missing: Sequence[int], kept: Sequence[Node], nodes: Iterable[Node]) -> Plan | None:
    """Nodes with room now for the bundles `missing`, the others being on the nodes `kept`; None: not now."""
    try:
        return _over_domains(spec, missing, kept, list(nodes), empty=False)
    except GaveUp:
        return None


def possible(spec: GroupSpec, nodes: Iterable[Node]) -> bool:
    """Whether all bundles would fit if nothing else ran or was set aside. When it is too hard to tell, they may."""
    try:
        return _over_domains(spec, range(len(spec.bundles)), (), list(nodes), empty=True) is not None
    except GaveUp:
        return True


def put(need: Resources, place: Place) -> tuple[int, ...]:
    """Take a bundle's resources from a place that has room; the numbers of its GPUs."""
    gpus = choose_gpus(need, place) or ()
    take(need, place.free)
    for number in gpus:
        place.gpus[number] -= min(UNIT, dict(need)["GPU"])
    return gpus


def _over_domains(
    spec: GroupSpec, missing: Sequence[int], kept: Sequence[Node], nodes: list[Node], empty: bool
) -> Plan | None:
    """A plan among nodes of one domain, where the group asks for that; the first that works."""
    if not spec.domain:
        return _by_strategy(spec, missing, kept, nodes, empty)
    values = [node.labels.get(spec.domain) for node in kept or nodes]
    for value in dict.fromkeys(values):
        inside = [node for node in nodes if node.labels.get(spec.domain) == value]
        found = _by_strategy(spec, missing, kept, inside, empty) if value is not None else None
        if found is not None:
            return found
    return None


def _by_strategy(
    spec: GroupSpec, missing: Sequence[int], kept: Sequence[Node], nodes: list[Node], empty: bool
) -> Plan | None:
    """A plan by the strictest form of the strategy that works."""
    strict = {"PACK": "STRICT_PACK", "SPREAD": "STRICT_SPREAD"}.get(spec.strategy)
    if strict is not None and not empty:
        try:
            found = _Trial(spec, strict, missing, kept, nodes, empty).run()
        except GaveUp:
            found = None
        if found is not None:
            return found
    return _Trial(spec, spec.strategy, missing, kept, nodes, empty).run()


class _Trial:
    """Puts bundles on copies of nodes."""

    def __init__(
        self,
        spec: GroupSpec,
        strategy: str,
        missing: Sequence[int],
        kept: Sequence[Node],
        nodes: list[Node],
        empty: bool,
    ) -> None:
        self.strategy = strategy
        self.target = spec.target
        self.nodes = nodes
        self.empty = empty
        self.kept = kept
        self.steps = STEPS_TO_JUDGE if empty else STEPS
        selectors = spec.selectors or ((),) * len(spec.bundles)
        self.missing = [Missing(number, spec.bundles[number], selectors[number]) for number in missing]
        self.start_over()

    def start_over(self) -> None:
        """Nothing is placed."""
        self.rooms: dict[Node, Place] = {node: _emptied(node) for node in self.nodes} if self.empty else {}
        self.count: dict[Node, int] = {}
        """How many bundles of the group a node has."""
        for node in self.kept:
            self.count[node] = self.count.get(node, 0) + 1
        self.chosen: Plan = {}

    def run(self) -> Plan | None:
        """Find a plan."""
        candidates = {kind: self._candidates(*kind) for kind in {bundle[1:] for bundle in self.missing}}
        if not all(candidates.values()) or not self._enough():
            return None
        # Those with the fewest nodes to choose from first, then the largest; equal ones side by side.
        line = sorted(self.missing, key=lambda b: (len(candidates[b[1:]]), [(n, -u) for n, u in b.need], b.number))
        if self.strategy == "STRICT_PACK":
            return self._on_one(line, candidates)
        if self.strategy == "STRICT_SPREAD" and len(line) + len(self.kept) > len(self.nodes):
            return None
        for bundle in line:
            node = next(iter(self._choices(bundle, candidates[bundle[1:]])), None)
            if node is None:
                break
            self._put(bundle, node)
        else:
            return self.chosen
        if len(line) > DEEPEST:
            raise GaveUp
        self.start_over()
        return self.chosen if self._search(line, 0, candidates) else None

    def _candidates(self, need: Resources, selector: Selector) -> list[Node]:
        return [node for node in self.nodes if matches(selector, node.labels) and has_room(need, self._room(node))]

    def _room(self, node: Node) -> Place:
        return self.rooms.get(node, node)

    def _put(self, bundle: Missing, node: Node) -> tuple[int, ...]:
        room = self.rooms.get(node)
        if room is None:
            room = self.rooms[node] = _copied(node)
        self.count[node] = self.count.get(node, 0) + 1
        self.chosen[bundle.number] = node
        return put(bundle.need, room)

    # ------------------------------------------------------------------ strategies

    def _on_one(self, line: list[Missing], candidates: dict[tuple[Resources, Selector], list[Node]]) -> Plan | None:
        """All on one node: the one that is wished for, then one that the group has, then the emptiest."""
        names = {name for bundle in line for name, _ in bundle.need}
        shared = set.intersection(*(set(nodes) for nodes in candidates.values()))
        if self.kept:
            shared &= set(self.kept)
        inside = [node for node in self.nodes if node in shared]
        inside.sort(key=lambda node: (node.hex != self.target, node not in self.count, self._use(node, names)))
        for node in inside:
            if all(has_room(bundle.need, self._room(node)) and (self._put(bundle, node), True)[1] for bundle in line):
                return self.chosen
            self.start_over()
        return None

    def _use(self, node: Node, names: Iterable[str]) -> float:
        """How much of the scarcest of some resources is in use."""
        free, total = self._room(node).free, node.total
        return max((1 - free.get(name, 0) / total[name] for name in names if total.get(name)), default=0.0)

    def _choices(self, bundle: Missing, nodes: list[Node]) -> list[Node]:
        """Nodes that can take a bundle now, by the strategy's liking."""
        count = self.count
        able = [node for node in nodes if has_room(bundle.need, self._room(node))]
        names = [name for name, _ in bundle.need]
        if self.strategy == "STRICT_SPREAD":
            able = [node for node in able if node not in count]
            return sorted(able, key=lambda node: self._use(node, names))
        if self.strategy == "SPREAD":
            return sorted(able, key=lambda node: (count.get(node, 0), self._use(node, names)))
        used = [node for node in able if node in count]
        if used:
            fresh = [node for node in able if node not in count]
            return sorted(used, key=lambda node: (-count[node], self._use(node, names))) + fresh
        takes: dict[object, int] = {}
        for node in able:
            kind = self._kind(node, self._room(node))
            if kind not in takes:
                takes[kind] = self._takes(node)
        return sorted(able, key=lambda node: -takes[self._kind(node, self._room(node))])

    def _takes(self, node: Node) -> int:
        """How many of the bundles that have no node yet one node could take together."""
        room, taken = _copied(self._room(node)), 0
        for bundle in self.missing:
            if bundle.number in self.chosen or not matches(bundle.selector, node.labels):
                continue
            if has_room(bundle.need, room):
                put(bundle.need, room)
                taken += 1
        return taken

    # ---------------------------------------------------------------------- search

    def _enough(self) -> bool:
        """Whether all nodes together have what the bundles need together: else no way is worth a try."""
        needed: dict[str, int] = {}
        for bundle in self.missing:
            for name, units in bundle.need:
                needed[name] = needed.get(name, 0) + units
        for name, units in needed.items():
            if units > sum((node.total if self.empty else node.free).get(name, 0) for node in self.nodes):
                return False
        return True

    def _search(
        self, line: list[Missing], place: int, candidates: dict[tuple[Resources, Selector], list[Node]]
    ) -> bool:
        """Put the bundles from `place` on in any way that works."""
        if place == len(line):
            return True
        bundle = line[place]
        tried = set()
        self.steps -= len(self.nodes)
        if self.steps < 0:
            raise GaveUp
        for node in self._choices(bundle, candidates[bundle[1:]]):
            room = self._room(node)
            kind = self._kind(node, room)
            if kind in tried:
                continue  # a node like one that did not work
            tried.add(kind)
            before = self.count.get(node, 0)
            self.rooms[node] = _copied(room)
            self._put(bundle, node)
            if self._search(line, place + 1, candidates):
                return True
            self.rooms[node] = room
            del self.chosen[bundle.number]
            if before:
                self.count[node] = before
            else:
                del self.count[node]
        return False

    def _kind(self, node: Node, room: Place) -> tuple[object, ...]:
        """Nodes of one kind are the same for what is left to be placed."""
        names = sorted({name for bundle in self.missing for name, _ in bundle.need})
        passes = tuple(matches(bundle.selector, node.labels) for bundle in self.missing if bundle.selector)
        return (
            tuple(room.free.get(name, 0) for name in names),
            tuple(sorted(room.gpus.values())),
            passes,
            node in self.count,
        )


def _copied(place: Place) -> Place:
    copy = Place(place.total, ())
    copy.node, copy.free, copy.gpus = place.node, dict(place.free), dict(place.gpus)
    return copy


def _emptied(node: Node) -> Place:
    empty = Place(node.total, node.gpus)
    empty.node = node
    return empty
