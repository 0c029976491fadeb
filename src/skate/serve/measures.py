"""What serve itself measures, under the names that Ray gives it.

Recording adds to a table of this process and costs less than a microsecond. Nothing is sent until somebody asks: then
the tables of replicas and proxies are fetched (`skate.serve.metrics`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakSet

from skate.serve import context
from skate.util.metrics_registry import Kind, Series, Table, Values

LATENCY_MS = (
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0, 1000.0, 2000.0, 5000.0),
    *(10_000.0, 60_000.0, 120_000.0, 300_000.0, 600_000.0),
)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
PERCENT = (5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 100.0)
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "WEBSOCKET"})
REPLICA_TAGS = ("deployment", "replica", "application")


class Measure:
    """One metric. With `of_replica`, its values have the replica's tags before their own."""

    def __init__(
        self,
        name: str,
        kind: Kind,
        description: str,
        tags: tuple[str, ...] = (),
        bounds: tuple[float, ...] = (),
        of_replica: bool = True,
    ) -> None:
        self.values: Values = {}
        self._of_replica = of_replica
        self._bounds = bounds
        self._series = Series(name, kind, description, REPLICA_TAGS + tags if of_replica else tags, bounds)
        _all.append(self)

    def count(self, *tags: str) -> None:
        """A counter goes up."""
        tags = where() + tags if self._of_replica else tags
        self.values[tags] = self.values.get(tags, 0) + 1

    def set(self, value: float, *tags: str) -> None:
        """A gauge is set."""
        self.values[where() + tags if self._of_replica else tags] = value

    def add(self, value: float, *tags: str) -> None:
        """A histogram takes a value in."""
        tags = where() + tags if self._of_replica else tags
        sums = self.values.get(tags)
        if sums is None:
            sums = self.values[tags] = [0.0] * (len(self._bounds) + 2)
        sums[0] += value
        sums[1 + bisect_left(self._bounds, value)] += 1

    def merge(self, more: list[float], *tags: str) -> None:
        """A histogram takes in another of the same bounds."""
        tags = where() + tags if self._of_replica else tags
        sums = self.values.get(tags)
        self.values[tags] = list(more) if sums is None else [one + other for one, other in zip(sums, more, strict=True)]

    def table(self, of: tuple[str, ...] | None, everything: bool) -> tuple[Series, Values]:
        """A copy of its values as the registry has them: those of the replica `of`, and those of no replica if
        `everything` is wanted.
        """
        chosen = [
            (tags, value)
            for tags, value in list(self.values.items())
            if (tags[:3] == of if self._of_replica else everything)
        ]
        return self._series, {tags: list(value) if isinstance(value, list) else value for tags, value in chosen}


class Source(Protocol):
    """Whoever else measures in this process."""

    def table(self, of: tuple[str, ...] | None, everything: bool) -> Table:
        """A copy of what it has, as `Measure.table` chooses it."""


_all: list[Measure] = []
_sources: WeakSet[Source] = WeakSet()


def add_source(source: Source) -> None:
    """Have `table` hold what somebody else measures, for as long as that object lives."""
    _sources.add(source)


def where() -> tuple[str, ...]:
    """The replica whose code calls: deployment, replica, application."""
    replica = context.current_replica()
    return replica.tags if replica is not None else NOWHERE


NOWHERE = ("", "", "")


def table(of: tuple[str, ...] | None = None, everything: bool = True) -> Table:
    """What has been measured in this process: of the replica that `of` names, and outside of replicas if `everything`
    is wanted.
    """
    tables = [measure.table(of, everything) for measure in _all]
    found = {series.name: (series, values) for series, values in tables if values}
    for name, (histogram, description) in _COUNTS.items():
        if histogram in found:
            series, values = found[histogram]
            totals = {tags: sum(counts[1:]) for tags, counts in values.items()}
            found[name] = (Series(name, "counter", description, series.tags), totals)
    for source in list(_sources):
        for name, (series, values) in source.table(of, everything).items():
            found.setdefault(name, (series, {}))[1].update(values)
    return found


# ------------------------------------------------------------- requests

_latency = Measure(
    "serve_deployment_processing_latency_ms",
    "histogram",
    "Milliseconds that replicas took for requests.",
    ("route",),
    LATENCY_MS,
)
_errors = Measure("serve_deployment_error_counter", "counter", "Requests that raised in the replica.", ("route",))
_ongoing = Measure("serve_replica_processing_queries", "gauge", "Requests that run in the replica.")
_http = Measure(
    "serve_http_request_latency_ms",
    "histogram",
    "Milliseconds from a request's head to the end of its answer.",
    ("method", "route", "application", "status_code"),
    LATENCY_MS,
    of_replica=False,
)
_http_errors = Measure(
    "serve_num_http_error_requests",
    "counter",
    "HTTP requests that were answered with a status of 400 or more.",
    ("method", "route", "application", "error_code"),
    of_replica=False,
)
_grpc = Measure(
    "serve_grpc_request_latency_ms",
    "histogram",
    "Milliseconds from a gRPC call to its end.",
    ("method", "route", "application", "status_code"),
    LATENCY_MS,
    of_replica=False,
)
_grpc_errors = Measure(
    "serve_num_grpc_error_requests",
    "counter",
    "gRPC calls that ended with another status than OK.",
    ("method", "route", "application", "error_code"),
    of_replica=False,
)
_COUNTS = {
    "serve_num_grpc_requests": ("serve_grpc_request_latency_ms", "gRPC calls that were answered."),
    "serve_deployment_request_counter": ("serve_deployment_processing_latency_ms", "Requests that a replica handled."),
    "serve_num_http_requests": ("serve_http_request_latency_ms", "HTTP requests that were answered."),
    "serve_batches_processed": ("serve_batch_execution_time_ms", "Batches that ran."),
    "serve_multiplexed_models_load_counter": ("serve_multiplexed_model_load_latency_ms", "Models that were loaded."),
    "serve_multiplexed_models_unload_counter": (
        "serve_multiplexed_model_unload_latency_ms",
        "Models that were unloaded.",
    ),
}
"""Counters that a histogram's count gives."""


def request_done(route: str, seconds: float, failed: bool) -> None:
    """A replica has handled a request, by HTTP or by a handle."""
    _latency.add(seconds * 1000, route)
    if failed:
        _errors.count(route)


def http_many(method: str, route: str, application: str, status: int, sums: list[float]) -> None:
    """Many requests that came on connections of this replica have their answers.

    Args:
        sums: the sum of their milliseconds, and after it how many took so long, by `LATENCY_MS`.
    """
    code = str(status)
    if method not in METHODS:
        method = "OTHER"
    _http.merge(sums, method, route, application, code)
    _latency.merge(sums, route)
    for _ in range(int(sum(sums[1:])) if status >= 400 else 0):
        _http_errors.count(method, route, application, code)
        if status >= 500:
            _errors.count(route)


def http_done(method: str, route: str, application: str, status: int, seconds: float) -> None:
    """A request has its whole answer."""
    code = str(status)
    if method not in METHODS:  # clients may invent any number of them
        method = "OTHER"
    _http.add(seconds * 1000, method, route, application, code)
    if status >= 400:
        _http_errors.count(method, route, application, code)


def grpc_done(method: str, application: str, status: str, seconds: float) -> None:
    """A gRPC call has ended, with a status as in ``StatusCode.OK``."""
    _grpc.add(seconds * 1000, method, application, application, status)
    if status != "StatusCode.OK":
        _grpc_errors.count(method, application, application, status)


def ongoing(number: int) -> None:
    """So many requests run in this replica."""
    _ongoing.set(number)


APP_STATUS = ("UNKNOWN", "DEPLOY_FAILED", "UNHEALTHY", "NOT_STARTED", "DELETING", "DEPLOYING", "RUNNING")
DEPLOYMENT_STATUS = ("UNKNOWN", "DEPLOY_FAILED", "UNHEALTHY", "UPDATING", "UPSCALING", "DOWNSCALING", "HEALTHY")
"""Their places are the numbers that metrics have for them, as in Ray."""


def _number_of(status: str, known: tuple[str, ...]) -> int:
    return known.index(status) if status in known else 0


def replica_table(status: dict[str, Any]) -> Table:
    """From the controller's status: how applications, deployments and replicas are, and how many requests wait."""
    tags = ("deployment", "application")
    counts: Values = {}
    queues: Values = {}
    apps: Values = {}
    deployments: Values = {}
    healthy: Values = {}
    for app, row in status["applications"].items():
        apps[app,] = _number_of(row["status"], APP_STATUS)
        for deployment, found in row["deployments"].items():
            queues[deployment, app] = found["queued"]
            deployments[deployment, app] = _number_of(found["status"], DEPLOYMENT_STATUS)
            for replica in found["replicas"]:
                healthy[deployment, replica["replica_id"], app] = int(replica["state"] == "RUNNING")
            for state, number in found["replica_states"].items():
                counts[deployment, app, state] = number
    return {
        "serve_deployment_replicas": (
            Series("serve_deployment_replicas", "gauge", "Replicas by state.", (*tags, "state")),
            counts,
        ),
        "serve_deployment_queued_queries": (
            Series("serve_deployment_queued_queries", "gauge", "Requests that wait for a replica.", tags),
            queues,
        ),
        "serve_deployment_replica_healthy": (
            Series("serve_deployment_replica_healthy", "gauge", "1 for a replica that serves.", REPLICA_TAGS),
            healthy,
        ),
        "serve_deployment_status": (
            Series("serve_deployment_status", "gauge", f"Of {', '.join(DEPLOYMENT_STATUS)}, from 0 on.", tags),
            deployments,
        ),
        "serve_application_status": (
            Series("serve_application_status", "gauge", f"Of {', '.join(APP_STATUS)}, from 0 on.", ("application",)),
            apps,
        ),
    }


# ------------------------------------------------------------- batches

_batch_wait = Measure(
    "serve_batch_wait_time_ms",
    "histogram",
    "Milliseconds that the oldest member of a batch waited.",
    ("function_name",),
    LATENCY_MS,
)
_batch_size = Measure("serve_actual_batch_size", "histogram", "Members of a batch.", ("function_name",), SIZES)
_batch_fill = Measure(
    "serve_batch_utilization_percent", "histogram", "How full batches are.", ("function_name",), PERCENT
)
_batch_time = Measure(
    "serve_batch_execution_time_ms", "histogram", "Milliseconds that batches run.", ("function_name",), LATENCY_MS
)


def batch_begins(function: str, waited: float, size: float, limit: float) -> None:
    """A batch begins, whose oldest member has waited so many seconds."""
    _batch_wait.add(waited * 1000, function)
    _batch_size.add(size, function)
    _batch_fill.add(100 * size / limit, function)


def batch_ended(function: str, seconds: float) -> None:
    """A batch has run."""
    _batch_time.add(seconds * 1000, function)


# ------------------------------------------------------------- multiplexed models

_model_load = Measure(
    "serve_multiplexed_model_load_latency_ms", "histogram", "Milliseconds that loading a model took.", (), LATENCY_MS
)
_model_unload = Measure(
    "serve_multiplexed_model_unload_latency_ms",
    "histogram",
    "Milliseconds that unloading a model took.",
    (),
    LATENCY_MS,
)
_models = Measure("serve_num_multiplexed_models", "gauge", "Models that the replica has.")
_model_ids = Measure("serve_registered_multiplexed_model_id", "gauge", "1 for a model that is here.", ("model_id",))
_model_asked = Measure("serve_multiplexed_get_model_requests_counter", "counter", "How often a model was asked for.")


def model_asked() -> None:
    """A request asks for a model."""
    _model_asked.count()


def model_loaded(seconds: float) -> None:
    """A model has been loaded."""
    _model_load.add(seconds * 1000)


def model_unloaded(seconds: float) -> None:
    """A model has been unloaded."""
    _model_unload.add(seconds * 1000)


def models_here(names: Sequence[str]) -> None:
    """These models are in the replica."""
    _models.set(len(names))
    here = where()
    for tags in list(_model_ids.values):
        if tags[:-1] == here and tags[-1] not in names:
            del _model_ids.values[tags]
    for name in names:
        _model_ids.set(1, name)
