"""Which replica gets a request for a multiplexed model: one that holds the model, if it can be had."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

PATIENCE_S = 1.0
"""Seconds for which a request waits for a replica that holds its model, before another one loads the model too."""
BELIEVED_S = 5.0
"""Seconds for which a replica that was sent a request counts as one that will tell of the model."""

clock = time.monotonic


class Candidate(Protocol):
    """A replica."""

    name: str
    models: frozenset[str]

    def load(self) -> int:
        """Requests that it has in hand."""


C = TypeVar("C", bound=Candidate)


class Holders:
    """Chooses, and remembers where requests for a model have gone lately."""

    def __init__(self) -> None:
        self._sent: dict[tuple[str, str], float] = {}

    def choose(self, model: str, replicas: Sequence[C], has_room: Callable[[C], bool], waits_since: float) -> C | None:
        """The least busy replica that holds `model`; when there is none, the one with the fewest models.

        None: all are full, or those that hold it are and the request has not waited long.
        """
        now = clock()
        holding = [one for one in replicas if model in one.models or self._believed(one, model, now)]
        best = min((one for one in holding if has_room(one)), key=lambda one: one.load(), default=None)
        if best is None and (not holding or now - waits_since >= PATIENCE_S):
            roomy = [one for one in replicas if has_room(one)]
            best = min(roomy, key=lambda one: (self._number(one, now), one.load()), default=None)
        if best is not None and model not in best.models:
            self._sent[best.name, model] = now
        return best

    def _believed(self, replica: Candidate, model: str, now: float) -> bool:
        return now - self._sent.get((replica.name, model), -BELIEVED_S) < BELIEVED_S

    def _number(self, replica: Candidate, now: float) -> int:
        """How many models it holds or will."""
        for key in [key for key, when in self._sent.items() if now - when >= BELIEVED_S]:
            del self._sent[key]
        return len(replica.models | {model for name, model in self._sent if name == replica.name})
