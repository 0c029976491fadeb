"""Prometheus metrics of the server: requests, how long they took, how many are in progress."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

PREFIX = "skate_plugin"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""
Sample = tuple[str, dict[str, str], float]
Families = list[tuple[str, str, str, list[Sample]]]
"""Metrics by name: what they are, their kind, and their samples."""


class Metrics:
    """Counts and times requests by route. Raises ImportError without prometheus-client, which writes them down."""

    def __init__(self) -> None:
        import prometheus_client  # noqa: F401  missing now rather than when it is asked

        self.ongoing = 0
        """Requests in progress."""
        self._started = time.time()
        self._plugins: dict[str, str] = {}
        self._counts: dict[tuple[str, str, int], int] = {}
        self._times: dict[str, list[float]] = {}
        """By route: requests by bucket, those over all buckets, and the sum of their seconds."""

    def plugin(self, name: str, version: str) -> None:
        """A plugin runs."""
        self._plugins[name] = version

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        key = (route, method, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        times = self._times.get(route)
        if times is None:
            times = self._times[route] = [0.0] * (len(BUCKETS) + 2)
        times[bisect_left(BUCKETS, seconds)] += 1
        times[-1] += seconds

    def samples(self) -> Families:
        """What was counted here, to be added up elsewhere."""
        counted = [
            (f"{PREFIX}_requests_total", {"route": route, "method": method, "status": str(status)}, float(count))
            for (route, method, status), count in list(self._counts.items())
        ]
        timed: list[Sample] = []
        for route, times in list(self._times.items()):
            total = 0.0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), times, strict=False):
                total += count
                timed.append((f"{PREFIX}_request_seconds_bucket", {"route": route, "le": bound}, total))
            timed.append((f"{PREFIX}_request_seconds_count", {"route": route}, total))
            timed.append((f"{PREFIX}_request_seconds_sum", {"route": route}, times[-1]))
        running = [(f"{PREFIX}_info", {"plugin": name, "version": each}, 1.0) for name, each in self._plugins.items()]
        return [
            (f"{PREFIX}_requests", "Requests that were answered.", "counter", counted),
            (f"{PREFIX}_request_seconds", "Seconds until the answer was complete.", "histogram", timed),
            (f"{PREFIX}_requests_in_progress", "Requests in progress.", "gauge", [
                (f"{PREFIX}_requests_in_progress", {}, float(self.ongoing))
            ]),
            (f"{PREFIX}_info", "Plugins that run.", "gauge", running),
            (f"{PREFIX}_start_time_seconds", "When the service started.", "gauge", [
                (f"{PREFIX}_start_time_seconds", {}, self._started)
            ]),
        ]  # fmt: skip

    def page(self, others: Iterable[Families] = ()) -> tuple[bytes, str]:
        """The metrics, with those of other processes added, and their content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(_Sum([self.samples(), *others]))
        return generate_latest(registry), CONTENT_TYPE_LATEST


class _Sum:
    """Collects what several processes have counted. Of when they started, the earliest."""

    def __init__(self, parts: list[Families]) -> None:
        self.parts = parts

    def describe(self) -> list[Any]:
        """Nothing that is known ahead."""
        return []

    def collect(self) -> Iterator[Any]:
        """The sums, as metrics of Prometheus."""
        from prometheus_client.core import Metric

        found: dict[str, tuple[str, str, dict[Any, float]]] = {}
        for part in self.parts:
            for name, documentation, kind, samples in part:
                totals = found.setdefault(name, (documentation, kind, {}))[2]
                for sample, labels, value in samples:
                    key = (sample, tuple(labels.items()))
                    if sample.endswith(("_time_seconds", "_info")):
                        totals[key] = min(totals.get(key, value), value)
                    else:
                        totals[key] = totals.get(key, 0) + value
        for name, (documentation, kind, totals) in found.items():
            metric = Metric(name, documentation, kind)
            for (sample, labels), value in totals.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric
