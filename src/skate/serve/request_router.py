"""Routers of a program's own: what a class for `request_router_config` is made of, as in `ray.serve.request_router`.

A subclass of `RequestRouter` says in ``choose_replicas`` which replicas may have a request, best first. Whether one has
room, sending, waiting and trying again are `skate.serve.routing`'s. All methods run on one event loop, which is in a
thread of its own in every process that calls the deployment; so each of these has a router of its own.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from skate.serve.context import DeploymentID
from skate.serve.context import ReplicaID as ReplicaID
from skate.serve.told import Target

__all__ = [
    "FIFOMixin",
    "LocalityMixin",
    "MultiplexMixin",
    "PendingRequest",
    "ReplicaID",
    "RequestRouter",
    "RunningReplica",
]


@dataclass
class RequestMetadata:
    """What is known of a request besides its arguments."""

    request_id: str
    internal_request_id: str
    call_method: str = "__call__"
    route: str = ""
    app_name: str = ""
    multiplexed_model_id: str = ""
    session_id: str = ""
    is_streaming: bool = False


@dataclass
class RequestRoutingContext:
    """What a router noted of a request."""

    multiplexed_start_matching_time: float | None = None
    tried_fewest_multiplexed_models: bool = False
    tried_first_multiplexed_models: bool = False
    tried_same_node: bool = False
    tried_same_az: bool = False
    should_backoff: bool = False


@dataclass
class PendingRequest:
    """A request that waits for a replica."""

    args: list[Any]
    kwargs: dict[str, Any]
    metadata: RequestMetadata
    created_at: float = field(default_factory=time.time)
    routing_context: RequestRoutingContext = field(default_factory=RequestRoutingContext)


class RunningReplica:
    """A replica that may be chosen."""

    def __init__(self, target: Target, deployment: DeploymentID) -> None:
        self._target = target
        self._id = ReplicaID(target.name, deployment)

    @property
    def replica_id(self) -> ReplicaID:
        """Which it is."""
        return self._id

    @property
    def actor_id(self) -> Any:
        """The id of its actor."""
        return self._target.actor._actor_id

    @property
    def node_id(self) -> str:
        """The node where it runs."""
        return self._target.node

    @property
    def availability_zone(self) -> str | None:
        """Not known here."""
        return None

    @property
    def multiplexed_model_ids(self) -> set[str]:
        """Models that it holds."""
        return set(self._target.models)

    @property
    def routing_stats(self) -> dict[str, Any]:
        """What the deployment's ``record_routing_stats`` gave last; empty at first."""
        return self._target.stats

    @property
    def replica_metadata(self) -> dict[str, Any]:
        """Nothing here."""
        return {}

    @property
    def max_ongoing_requests(self) -> int:
        """Requests that it runs at once."""
        return self._target.max_ongoing

    @property
    def is_cross_language(self) -> bool:
        """No."""
        return False

    @property
    def queue_len(self) -> int:
        """Requests that it has in hand."""
        return self._target.load()

    async def get_queue_len(self, *, deadline_s: float = 0.0) -> int:
        """The same; nobody need be asked for it."""
        return self._target.load()

    def __repr__(self) -> str:
        return f"RunningReplica({self._id!r})"


class QueueLengths:
    """The requests that replicas have in hand, by their ids."""

    def __init__(self, replicas: dict[ReplicaID, RunningReplica]) -> None:
        self._replicas = replicas

    def get(self, replica_id: ReplicaID) -> int | None:
        """How many; None for one that is not there."""
        found = self._replicas.get(replica_id)
        return found.queue_len if found is not None else None


class RequestRouter(ABC):
    """Chooses replicas. A subclass has `choose_replicas`, and what else of this it wants to know.

    Args:
        deployment_id: whose requests it routes.
        self_node_id: the node of the calling process.
        self_actor_id: the calling actor; None in a driver.
    """

    def __init__(
        self, deployment_id: DeploymentID, *, self_node_id: str = "", self_actor_id: str | None = None, **_: Any
    ) -> None:
        super().__init__()
        self._deployment_id = deployment_id
        self._self_node_id = self_node_id
        self._self_actor_id = self_actor_id
        self._replicas: dict[ReplicaID, RunningReplica] = {}
        self._pending: Callable[[], int] = lambda: 0

    def initialize_state(self, **kwargs: Any) -> None:  # noqa: B027  may be overridden
        """Called once, with ``request_router_kwargs``."""

    @abstractmethod
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Sequence[Sequence[RunningReplica]]:
        """Ranks of replicas, the best first: of the first rank where one has room, the least busy gets the request.

        When none has, it is called again, later.
        """

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:  # noqa: B027  may be overridden
        """A request was sent to a replica; `result` is the reference of its answer."""

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:  # noqa: B027  may be overridden
        """A request is over."""

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:  # noqa: B027  may be overridden
        """A replica is gone."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """There are other replicas, or what is known of them has changed."""
        self._replicas.clear()
        self._replicas.update((one.replica_id, one) for one in replicas)

    @property
    def curr_replicas(self) -> dict[ReplicaID, RunningReplica]:
        """The replicas by their ids."""
        return self._replicas

    @property
    def app_name(self) -> str:
        """The application's name."""
        return self._deployment_id.app_name

    @property
    def num_pending_requests(self) -> int:
        """Requests that wait here."""
        return self._pending()

    @property
    def replica_queue_len_cache(self) -> QueueLengths:
        """How busy replicas are."""
        return QueueLengths(self._replicas)

    def select_available_replicas(self, candidates: list[RunningReplica] | None = None) -> list[RunningReplica]:
        """Those of `candidates`, or of all, that have room for a request."""
        given = list(self._replicas.values()) if candidates is None else candidates
        return [one for one in given if one.queue_len < one.max_ongoing_requests]


class FIFOMixin:
    """Requests are routed in the order in which they came: the next when the one before it was sent."""


class LocalityMixin:
    """Ranks replicas by how near they are. Of `RequestRouter` it needs the replicas and the own node."""

    _self_node_id: str
    _replicas: dict[ReplicaID, RunningReplica]

    def rank_replicas_via_locality(self, replicas: list[RunningReplica]) -> list[list[RunningReplica]]:
        """Those on this node, those in this zone (none: zones are not known), the others."""
        near = [one for one in replicas if one.node_id == self._self_node_id]
        return [near, [], [one for one in replicas if one.node_id != self._self_node_id]]

    def apply_locality_routing(self, pending_request: PendingRequest | None = None) -> set[ReplicaID]:
        """The ids of those on this node at first, after that of all."""
        noted = pending_request.routing_context if pending_request is not None else RequestRoutingContext()
        near = {one.replica_id for one in self._replicas.values() if one.node_id == self._self_node_id}
        if near and not noted.tried_same_node:
            noted.tried_same_node, noted.should_backoff = True, False
            return near
        noted.should_backoff = True
        return set(self._replicas)


class MultiplexMixin:
    """Ranks replicas by the models that they hold. Of `RequestRouter` it needs the replicas."""

    MATCHING_S = 1.0
    """Seconds for which only replicas are given that hold the model."""

    _replicas: dict[ReplicaID, RunningReplica]

    def rank_replicas_via_multiplex(
        self, replicas: list[RunningReplica], multiplexed_model_id: str
    ) -> list[list[RunningReplica]]:
        """Those that hold the model, those of the others that hold the fewest, the rest."""
        holding = [one for one in replicas if multiplexed_model_id in one.multiplexed_model_ids]
        others = [one for one in replicas if multiplexed_model_id not in one.multiplexed_model_ids]
        return [holding, *_by_models(others)]

    def apply_multiplex_routing(self, pending_request: PendingRequest) -> set[ReplicaID]:
        """The ids of those that hold the model for a while, after that of those that hold the fewest, then of all."""
        noted, model = pending_request.routing_context, pending_request.metadata.multiplexed_model_id
        now = time.time()
        if noted.multiplexed_start_matching_time is None:
            noted.multiplexed_start_matching_time = now
        holding, fewest, _ = self.rank_replicas_via_multiplex(list(self._replicas.values()), model)
        noted.should_backoff = True
        if holding and now - noted.multiplexed_start_matching_time < self.MATCHING_S:
            noted.tried_first_multiplexed_models = True
            return {one.replica_id for one in holding}
        if fewest and not noted.tried_fewest_multiplexed_models:
            noted.tried_fewest_multiplexed_models = True
            return {one.replica_id for one in fewest}
        return set(self._replicas)


def _by_models(replicas: Iterable[RunningReplica]) -> tuple[list[RunningReplica], list[RunningReplica]]:
    """Those that hold the fewest models, and the others."""
    given = list(replicas)
    least = min((len(one.multiplexed_model_ids) for one in given), default=0)
    return (
        [one for one in given if len(one.multiplexed_model_ids) == least],
        [one for one in given if len(one.multiplexed_model_ids) > least],
    )


class PowerOfTwoChoicesRequestRouter(FIFOMixin, MultiplexMixin, LocalityMixin, RequestRouter):
    """Two replicas chosen at random, for routers that build on the usual one; without any, serve has its own way."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Sequence[Sequence[RunningReplica]]:
        """Two of those that the model allows."""
        if pending_request is not None and pending_request.metadata.multiplexed_model_id:
            ids = self.apply_multiplex_routing(pending_request)
            candidate_replicas = [one for one in candidate_replicas if one.replica_id in ids]
        return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
