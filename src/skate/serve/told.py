"""What the controller tells of a deployment, and a replica as callers know it."""

from __future__ import annotations

from typing import Any, NamedTuple

from skate.serve import board
from skate.serve.deployment_parts import BackpressureConfig, RequestRouterConfig

STREAM_AHEAD = 8
"""Groups of items that a replica's stream may be ahead of its reader: of 128 items or 256 KiB each at most."""
Told = dict[tuple[str, ...], tuple[int, Any]]
"""What the controller tells: by topic, its version and its value."""


class ReplicaEntry(NamedTuple):
    """What the controller tells of a replica."""

    name: str
    actor: Any
    slot: int
    max_ongoing: int
    models: tuple[str, ...] = ()
    """Multiplexed models that it holds."""
    info: dict[str, Any] = {}  # noqa: RUF012  never changed
    """What the replica told of itself when it was ready."""
    node: str = ""
    stats: dict[str, Any] = {}  # noqa: RUF012  never changed
    """What its ``record_routing_stats`` gave last."""


class Published(NamedTuple):
    """What the controller tells of a deployment."""

    replicas: tuple[ReplicaEntry, ...]
    max_queued: int
    place: board.Place | None
    state: str
    """Empty; or why no request can be answered."""
    report_every: float = 0.0
    """Seconds between reports of what waits here, where the deployment scales by it; else 0."""
    backpressure: BackpressureConfig | None = None
    routing: RequestRouterConfig | None = None
    """Who chooses, where it is not the usual."""


class Target:
    """A replica as a router knows it."""

    __slots__ = (
        *("actor", "alone", "call", "flying", "full_until", "kept", "max_ongoing", "models", "name", "node"),
        *("stats", "stream", "word", "words"),
    )

    def __init__(self, entry: ReplicaEntry, page: board.Board) -> None:
        self.name = entry.name
        self.actor = entry.actor
        self.node = entry.node
        self.call = entry.actor.call
        self.stream = entry.actor.stream.options(_generator_backpressure_num_objects=STREAM_AHEAD)
        self.word = board.word_of(entry.slot)
        self.words = page.words
        self.alone = entry.info.get("board") != page.identity
        """Whether what the replica has begun cannot be seen from here."""
        self.flying: dict[int, Any] = {}
        """References of this caller's requests, by number, that are not known to have ended."""
        self.kept = 0
        """Requests for which it was chosen, and that are not sent yet."""
        self.full_until = 0.0
        self.take(entry)

    def take(self, entry: ReplicaEntry) -> None:
        """Take over what may change."""
        self.max_ongoing = entry.max_ongoing
        self.models = frozenset(entry.models)
        self.stats = entry.stats

    def load(self) -> int:
        """Requests that it has in hand, as far as can be seen from here."""
        seen, own = self.words[self.word], len(self.flying) + self.kept
        return seen if seen > own else own
