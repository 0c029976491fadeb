"""Each replica in its turn."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from skate.serve.request_router import FIFOMixin, MultiplexMixin, PendingRequest, RequestRouter, RunningReplica


class RoundRobinRouter(FIFOMixin, MultiplexMixin, RequestRouter):
    """Goes round the replicas; for a multiplexed model, round those that hold it. One without room is passed over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turns: dict[str, int] = defaultdict(lambda: random.randrange(1 << 30))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Sequence[Sequence[RunningReplica]]:
        """All replicas, from the one whose turn it is."""
        model = pending_request.metadata.multiplexed_model_id if pending_request is not None else ""
        replicas, turn = candidate_replicas, ""
        if pending_request is not None and model:
            ids = self.apply_multiplex_routing(pending_request)
            replicas = [one for one in candidate_replicas if one.replica_id in ids]
            turn = model if all(model in one.multiplexed_model_ids for one in replicas) else ""
        if not replicas:
            return []
        replicas = sorted(replicas, key=lambda one: one.replica_id.unique_id)
        first = self._turns[turn] % len(replicas)
        self._turns[turn] += 1
        return [[one] for one in (*replicas[first:], *replicas[:first])]
