"""Which place a call gets: pure choices among nodes, as Ray makes them.

By default calls are packed onto the first nodes until the scarcest of what they need is half in use there; after that
the least used node is next. With SPREAD the nodes take turns.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

from skate.core.placement import Where, matches
from skate.core.resources import UNIT, fits
from skate.core.spec import Resources
from skate.engines.local.rows import Node, Place

CROWDED = 0.5
"""Part of a resource in use from which on a node counts as used."""


def places_for(need: Resources, where: Where | None, nodes: Iterable[Node]) -> tuple[tuple[Place, ...], ...]:
    """The nodes that could run a call if nothing else ran there, in tiers: those of one are equally good.

    A place of a later tier is for calls for which no earlier one has room.
    """
    found = tuple(node for node in nodes if fits(need, node.total))
    if where is None:
        return (found,)
    if where.node:
        own = tuple(node for node in found if node.hex == where.node)
        others = tuple(node for node in found if node.hex != where.node)
        if not where.soft:
            return (own,)
        return (own, others) if where.spill and own else (own or others,)
    tiers = [found]
    if where.selectors:
        tiers, left = [], list(found)
        for selector in where.selectors:
            tiers.append(tuple(node for node in left if matches(selector, node.labels)))
            left = [node for node in left if node not in tiers[-1]]
    if where.liked:
        tiers = [
            tuple(node for node in tier if matches(where.liked, node.labels) is liked)
            for tier in tiers
            for liked in (True, False)
        ]
    return tuple(tier for tier in tiers if tier) or ((),)


def has_room(need: Resources, place: Place) -> bool:
    """Whether a place can run one more call now."""
    return fits(need, place.free) and choose_gpus(need, place) is not None


def room(need: Resources, place: Place, most: int) -> int:
    """How many more calls a place could run now, `most` at most."""
    for name, units in need:
        if name != "GPU":
            most = min(most, place.free.get(name, 0) // units)
        elif units < UNIT:
            most = min(most, sum(free // units for free in place.gpus.values()))
        else:
            most = min(most, sum(free == UNIT for free in place.gpus.values()) * UNIT // units)
    return most


def choose_gpus(need: Resources, place: Place) -> tuple[int, ...] | None:
    """Numbers of the GPUs for a call; None when what is free lies on the wrong ones."""
    units = next((units for name, units in need if name == "GPU"), 0)
    if not units:
        return ()
    if units < UNIT:  # the fullest that has room, so that whole ones stay whole
        left = [(free, number) for number, free in place.gpus.items() if free >= units]
        return (min(left)[1],) if left else None
    whole = [number for number, free in place.gpus.items() if free == UNIT]
    return tuple(whole[: units // UNIT]) if len(whole) >= units // UNIT else None


def crowding(need: Resources, place: Place, more: int = 0) -> float:
    """How much of what a call needs is in use, with `more` such calls; 0 as long as that is less than half."""
    used = 0.0
    for name, units in need:
        total = place.total.get(name, 0)
        if total:
            used = max(used, (total - place.free.get(name, 0) + more * units) / total)
    return used if used >= CROWDED else 0.0


def by_tiers(need: Resources, tiers: Sequence[Sequence[Place]], count: int) -> Iterator[tuple[Place, int]]:
    """How `count` calls would be shared out: as `in_turn` says, and what does not fit in the next tier."""
    for places in tiers:
        for place, number in in_turn(need, places, count):
            count -= number
            yield place, number


def in_turn(need: Resources, places: Sequence[Place], count: int) -> Iterator[tuple[Place, int]]:
    """How `count` calls would be shared out among places that have room now: each place with its number of calls."""
    rooms = [room(need, place, count) for place in places]
    if len(places) == 1:
        return iter([(places[0], rooms[0])] if rooms[0] > 0 else [])
    line = [(crowding(need, place), order) for order, place in enumerate(places) if rooms[order] > 0]
    heapq.heapify(line)
    given = [0] * len(places)
    while line and count:
        order = line[0][1]
        given[order] += 1
        count -= 1
        if given[order] < rooms[order]:
            heapq.heapreplace(line, (crowding(need, places[order], given[order]), order))
        else:
            heapq.heappop(line)
    return ((places[order], number) for order, number in enumerate(given) if number)
