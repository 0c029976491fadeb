"""Prometheus metrics of the server: requests, how long they took, how many are in progress."""

from __future__ import annotations

import time
from typing import Any


class Metrics:
    """Counts and times requests by route. Raises ImportError without prometheus-client."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        self._requests = Counter(
            "skate_plugin_requests", "Requests that were answered.", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "skate_plugin_request_seconds", "Seconds until the answer was complete.", ("route",), registry=self.registry
        )
        self.ongoing = Gauge("skate_plugin_requests_in_progress", "Requests in progress.", registry=self.registry)
        self._plugins = Gauge("skate_plugin_info", "Plugins that run.", ("plugin", "version"), registry=self.registry)
        started = Gauge("skate_plugin_start_time_seconds", "When the service started.", registry=self.registry)
        started.set(time.time())
        self._children: dict[Any, Any] = {}

    def plugin(self, name: str, version: str) -> None:
        """A plugin runs."""
        self._plugins.labels(name, version).set(1)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        key = (route, method, status)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = (
                self._requests.labels(route, method, str(status)),
                self._seconds.labels(route),
            )
        found[0].inc()
        found[1].observe(seconds)

    def page(self) -> tuple[bytes, str]:
        """The metrics, and their content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
