"""Requests of one session go to one replica, chosen by consistent hashing.

Every replica has many points on a ring (Karger et al., 1997, "Consistent hashing and random trees"). A session belongs
to the replica whose point comes next after its own, so that a replica that comes or goes moves few sessions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from skate.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica


class ConsistentHashRouter(RequestRouter):
    """By ``handle.options(session_id=...)``, or the HTTP header x-session-id; requests without go anywhere.

    ``request_router_kwargs``: ``num_virtual_nodes`` (100), points of a replica on the ring; ``num_fallback_replicas``
    (2), replicas that may stand in for the first when it has no room.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._points: list[tuple[int, ReplicaID]] = []
        self._virtual, self._fallbacks = 100, 2

    def initialize_state(self, **kwargs: Any) -> None:
        """Raises ValueError for numbers that are none, or too small, TypeError for other arguments."""
        known = {"num_virtual_nodes": (100, 1), "num_fallback_replicas": (2, 0)}
        for name in kwargs:
            if name not in known:
                raise TypeError(f"There is no {name!r} in request_router_kwargs; there are: {', '.join(known)}")
        for name, (usual, least) in known.items():
            value = kwargs.setdefault(name, usual)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
        self._virtual, self._fallbacks = kwargs["num_virtual_nodes"], kwargs["num_fallback_replicas"]

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Make the ring anew when there are other replicas."""
        before = set(self.curr_replicas)
        super().update_replicas(replicas)
        if before != set(self.curr_replicas):
            self._points = sorted(
                (_point(f"{one.unique_id}:{number}"), one)
                for one in sorted(self.curr_replicas, key=lambda each: each.unique_id)
                for number in range(self._virtual)
            ) if replicas else []  # fmt: skip

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Sequence[Sequence[RunningReplica]]:
        """The session's replica, then those that stand in for it."""
        metadata = pending_request.metadata if pending_request is not None else None
        key = (metadata.session_id or metadata.internal_request_id) if metadata is not None else ""
        place = bisect_right(self._points, _point(key), key=lambda point: point[0])
        ranks: list[RunningReplica] = []
        for _, name in (*self._points[place:], *self._points[:place]):
            one = self.curr_replicas.get(name)
            if one is not None and one not in ranks:
                ranks.append(one)
                if len(ranks) > self._fallbacks:
                    break
        return [[one] for one in ranks]


def _point(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
