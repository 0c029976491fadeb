"""What the controller tells: of a deployment to its callers, of routes to the proxy, of everything as a status."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from skate.serve.declared import plain_config
from skate.serve.state import DeploymentState
from skate.serve.target import DeploymentStatus
from skate.serve.told import Published, ReplicaEntry

if TYPE_CHECKING:
    from skate.serve.controller import App
    from skate.serve.tending import Tender

clock = time.monotonic


def published(state: DeploymentState | None, tender: Tender) -> Published:
    """What callers have to know of a deployment."""
    if state is None:
        return Published((), -1, None, "there is no such deployment")
    replicas = tuple(
        _entry(entry.name, entry.target.config.max_ongoing_requests, tender)
        for entry in state.running()
        if entry.name in tender.tended
    )
    config = state.target.config if state.target is not None else None
    place = tender.board.place if tender.board is not None else None
    if config is None:
        return Published(replicas, -1, place, "" if replicas else "it is being deleted")
    failed = state.status is DeploymentStatus.DEPLOY_FAILED and not replicas and state.fallback is None
    scaling, routing = config.autoscaling_config, config.request_router_config
    if routing is not None and routing.is_default_request_router():
        routing = None
    return Published(
        replicas, config.max_queued_requests, place, "it could not be deployed" if failed else "",
        scaling.metrics_interval_s if scaling is not None else 0.0, config.backpressure_config, routing,
    )  # fmt: skip


def _entry(name: str, max_ongoing: int, tender: Tender) -> ReplicaEntry:
    known = tender.tended[name]
    return ReplicaEntry(
        name, known.actor, known.slot, max_ongoing, known.models, known.info, known.node, known.stats
    )  # fmt: skip


def routes(apps: dict[str, App]) -> dict[str, tuple[str, str, Any]]:
    """Which application answers which paths: prefix -> (application, ingress deployment, its options)."""
    return {
        prefix: (name, app.spec.ingress, app.spec.ingress_options)
        for name, app in apps.items()
        if app.spec.route_prefix is not None and not app.deleting
        for prefix in (app.spec.route_prefix, *app.spec.ingress_options.get("more_prefixes", ()))
    }


def row(state: DeploymentState, tender: Tender, queued: int, problem: str) -> dict[str, Any]:
    """A deployment's status as plain values; `problem`: what goes wrong beside it."""
    return {
        "status": state.status.value,
        "status_trigger": state.trigger,
        "message": "\n".join(filter(None, (state.message, problem))),
        "target_num_replicas": state.target.replicas if state.target is not None else 0,
        "replica_states": state.counts(),
        "replicas": [
            {
                "replica_id": entry.name,
                "state": entry.phase.value,
                "ongoing": tender.ongoing(entry.name),
                "since_s": time.time() - clock() + entry.since,
                "where": tender.where(entry.name),
            }
            for entry in state.replicas.values()
        ],
        "config": plain_config(state.target.config) if state.target is not None else {},
        "queued": queued,
    }
