"""Prometheus metrics of a service: requests, how long they took, how many are in progress.

Each process counts what it answers. Where there are several, the values of each carry its name, so that one that begins
anew begins its own series anew and no other.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from skate.util.metrics_registry import Series, Table

PREFIX = "skate_plugin"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""
REQUESTS = Series(f"{PREFIX}_requests", "counter", "Requests that were answered.", ("route", "method", "status"))
SECONDS = Series(
    f"{PREFIX}_request_seconds", "histogram", "Seconds until the answer was complete.", ("route",), BUCKETS
)
ONGOING = Series(f"{PREFIX}_requests_in_progress", "gauge", "Requests in progress.", ())
INFO = Series(f"{PREFIX}_info", "gauge", "Plugins that run.", ("plugin", "version"))
STARTED = Series(f"{PREFIX}_start_time_seconds", "gauge", "When the process began to serve.", ())


class Metrics:
    """Counts and times requests by route. Raises ImportError without prometheus-client, which writes them down.

    Args:
        replica: the tags of the replica that this process is, as serve has them; empty: it is the only one.
    """

    def __init__(self, replica: tuple[str, ...] = ()) -> None:
        import prometheus_client  # noqa: F401  missing now rather than when it is asked

        self.replica = replica
        self.ongoing = 0
        """Requests in progress."""
        self._started = time.time()
        self._plugins: dict[tuple[str, ...], float] = {}
        self._counts: dict[tuple[str, str, int], int] = {}
        self._times: dict[str, list[float]] = {}
        """By route: the sum of seconds, and requests by bucket."""

    def plugin(self, name: str, version: str) -> None:
        """A plugin runs."""
        self._plugins[name, version] = 1.0

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        key = (route, method, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        times = self._times.get(route)
        if times is None:
            times = self._times[route] = [0.0] * (len(BUCKETS) + 2)
        times[0] += seconds
        times[1 + bisect_left(BUCKETS, seconds)] += 1

    def table(self, of: tuple[str, ...] | None = None, everything: bool = True) -> Table:
        """A copy of what was counted here; nothing if that of another replica is asked for. See `serve.measures`."""
        if of is not None and of != self.replica:
            return {}
        tag, name = (("replica",), ("#".join(self.replica[:2]),)) if self.replica else ((), ())
        found: Table = {}
        kinds: list[tuple[Series, dict[tuple[str, ...], Any]]] = [
            (REQUESTS, {(route, method, str(status)): n for (route, method, status), n in list(self._counts.items())}),
            (SECONDS, {(route,): list(times) for route, times in list(self._times.items())}),
            (ONGOING, {(): float(self.ongoing)}),
            (INFO, dict(self._plugins)),
            (STARTED, {(): self._started}),
        ]
        for series, values in kinds:
            rows: dict[tuple[str, ...], Any] = {name + key: value for key, value in values.items()}
            found[series.name] = (series._replace(tags=tag + series.tags), rows)
        return found

    def page(self, others: Iterable[Table] = ()) -> tuple[bytes, str]:
        """The metrics, with those of other processes, and their content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(_Written([self.table(), *others]))
        return generate_latest(registry), CONTENT_TYPE_LATEST


class _Written:
    """What several processes have counted, for Prometheus."""

    def __init__(self, tables: list[Table]) -> None:
        self.tables = tables

    def describe(self) -> list[Any]:
        """Nothing that is known ahead."""
        return []

    def collect(self) -> Iterator[Any]:
        """Metrics of Prometheus."""
        from prometheus_client.core import Metric

        found: Table = {}
        for table in self.tables:
            for name, (series, values) in table.items():
                if name.startswith(PREFIX):
                    found.setdefault(name, (series, {}))[1].update(values)
        for series, values in found.values():
            metric = Metric(series.name, series.description, series.kind)
            for key, value in values.items():
                labels = dict(zip(series.tags, key, strict=True))
                if series.kind == "counter":
                    metric.add_sample(series.name + "_total", labels, float(value))
                elif series.kind == "gauge":
                    metric.add_sample(series.name, labels, value)
                else:
                    for bound, count in zip((*map(str, BUCKETS), "+Inf"), accumulate(value[1:]), strict=True):
                        metric.add_sample(series.name + "_bucket", {**labels, "le": bound}, count)
                    metric.add_sample(series.name + "_count", labels, sum(value[1:]))
                    metric.add_sample(series.name + "_sum", labels, value[0])
            yield metric
