"""Whom to end when memory runs short: pure decisions, no I/O.

The order is Ray's since 2.56: idle workers first, the largest before the others; then those that can be tried again;
among equals the newest. As many are ended as it takes to get below the limit with something to spare. Unlike Ray,
those that have next to nothing are spared, because their end would help nobody; and an end counts as one of the task's
own attempts when nothing was left beside it that might give memory back. So a task that needs more than there is fails
in the end, instead of being tried for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

WORTH = 16 << 20
"""Bytes below which ending a worker frees nothing to speak of."""
SPARE = 0.05
"""The share of all memory that is to be free below the limit, once we had to act..."""
MOST_SPARE = 3 << 30
"""...but not more bytes than this."""
LONGEST_DELAY = 60.0


class Candidate(NamedTuple):
    """A worker that might be ended."""

    client: int
    size: int
    """Bytes that its end would free."""
    since: tuple[int, int] = (0, 0)
    """Grows with the time at which its call began."""
    idle: bool = False
    retriable: bool = True
    busy: bool = True
    """Runs a call now; an actor may be neither idle nor busy."""


class Verdict(NamedTuple):
    """End this worker."""

    client: int
    counts: bool
    """Whether that uses up one of its call's attempts."""


def choose(candidates: Sequence[Candidate], used: int, bound: int, total: int) -> list[Verdict]:
    """Whom to end, in order, so that `used` bytes of `total` come down below `bound`; nobody when they are below."""
    if used <= bound:
        return []
    goal = bound - min(int(total * SPARE), MOST_SPARE)
    worthy = [candidate for candidate in candidates if candidate.size >= WORTH]
    worthy.sort(key=_urgency)
    chosen: list[Candidate] = []
    for candidate in worthy:
        if used <= goal:
            break
        chosen.append(candidate)
        used -= candidate.size
    left = any(candidate.busy and not candidate.idle for candidate in worthy[len(chosen) :])
    last = next((candidate for candidate in reversed(chosen) if not candidate.idle), None)
    return [Verdict(candidate.client, candidate is last and not left) for candidate in chosen]


def _urgency(candidate: Candidate) -> tuple[int, int, int]:
    """Who sorts first is ended first."""
    if candidate.idle:
        return (0, -candidate.size, 0)
    return (1 if candidate.retriable else 2, -candidate.since[0], -candidate.since[1])


def delay(base_ms: int, times: int) -> float:
    """Seconds before a task that was ended for the `times`-th time is tried again."""
    return float(min(base_ms / 1000 * 2 ** min(times - 1, 20), LONGEST_DELAY))
