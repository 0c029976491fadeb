"""Metrics of applications: as `skate.util.metrics`, with tags that say where a value comes from.

Values that a replica records have the tags ``deployment``, ``replica`` and ``application``. One that has ``route``
among its `tag_keys` gets the route of the request that runs.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

import skate
from skate.exceptions import GetTimeoutError, RayError
from skate.serve import context
from skate.util import metrics

if TYPE_CHECKING:
    from skate.util.metrics_registry import Table

__all__ = ["Counter", "Gauge", "Histogram", "prometheus_text", "snapshot"]

OWN = ("deployment", "replica", "application")
ROUTE = "route"


class _InReplica(metrics.Metric):
    """Adds the tags of the replica, once it is known which one this process is."""

    _settled = False
    _bounds: tuple[float, ...] = ()

    def _register(self, bounds: tuple[float, ...] = ()) -> None:
        self._bounds = bounds
        self._users_keys = self._tag_keys
        self._users_defaults: dict[str, str] = {}
        self._settle()

    def _settle(self) -> None:
        replica = context.current_replica()
        if replica is None:
            return
        self._settled = True
        for key in OWN:
            if key in self._tag_keys:
                raise ValueError(f"'{key}' tag is reserved for Serve metrics")
        where = dict(zip(OWN, replica.tags, strict=True))
        self._tag_keys = OWN + self._tag_keys
        self._default_tags = {**self._users_defaults, **where}
        super()._register(self._bounds)

    def set_default_tags(self, default_tags: dict[str, str]) -> Self:
        """Values of tags for when a call does not give them; returns the metric.

        Raises ValueError for a tag that is not in `tag_keys`, or that serve sets itself; TypeError for a value that is
        not a string.
        """
        for key in OWN:
            if key in default_tags:
                raise ValueError(f"'{key}' tag is reserved for Serve metrics")
        where = {key: self._default_tags[key] for key in OWN if key in self._default_tags}
        super().set_default_tags(default_tags)
        self._users_defaults = default_tags
        self._default_tags = {**default_tags, **where}
        return self

    def _record(self, value: float, tags: dict[str, str] | None) -> None:
        if not self._settled:
            self._settle()
            if not self._settled:  # not in a replica: a metric like others
                self._settled = True
                super()._register(self._bounds)
        if ROUTE in self._tag_keys and ROUTE not in (tags or {}):
            tags = {**(tags or {}), ROUTE: context.request_context.get().route}
        super()._record(value, tags)

    def _arguments(self) -> tuple[Any, ...]:
        return tuple(self._users_keys if part is self._tag_keys else part for part in super()._arguments())

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self._arguments(), self._users_defaults)


class Counter(_InReplica, metrics.Counter):
    """Counts up. See `skate.util.metrics.Counter`."""


class Gauge(_InReplica, metrics.Gauge):
    """Holds the value that was set last. See `skate.util.metrics.Gauge`."""


class Histogram(_InReplica, metrics.Histogram):
    """Counts values by size. See `skate.util.metrics.Histogram`."""


def _rebuild(kind: type[_InReplica], arguments: tuple[Any, ...], default_tags: dict[str, str]) -> _InReplica:
    return kind(*arguments).set_default_tags(default_tags)


# ------------------------------------------------------------- what serve measures itself

ANSWER_S = 2.0
"""Seconds for which replicas are waited for."""


def tables() -> dict[str, Table | None]:
    """What replicas and proxies have measured, by the names of their actors.

    None for those that do not answer within two seconds.
    """
    rows = skate.util.list_named_actors(all_namespaces=True)
    names = [row["name"] for row in rows if row["namespace"] == context.NAMESPACE]  # type: ignore[index]
    asked = {}
    for name in names:
        if name.startswith(MEASURING):
            with contextlib.suppress(ValueError):  # it has just ended
                asked[skate.get_actor(name, namespace=context.NAMESPACE).measured.remote()] = name
    found: dict[str, Table | None] = dict.fromkeys(asked.values())
    ready, _ = skate.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
    for ref in ready:
        with contextlib.suppress(RayError, GetTimeoutError):  # it has just ended
            found[asked[ref]] = skate.get(ref)
    return found


def snapshot() -> list[dict[str, Any]]:
    """What serve itself measures, as `skate.util.metrics.snapshot` has it: requests, latencies, queues, replicas.

    Replicas that do not answer within two seconds are left out.
    """
    from skate.serve import measures
    from skate.util.metrics_registry import merged

    found: dict[str, Table] = {"here": measures.table()}
    found.update((name, table) for name, table in tables().items() if table is not None)
    with contextlib.suppress(RuntimeError):  # serve does not run
        status = skate.get(context.controller().status.remote())
        found["controller"] = measures.replica_table(status)
    return [{**row, "process": ""} for row in merged(found)]


MEASURING = ("SERVE_REPLICA::", "SERVE_PROXY")
"""How the names of actors begin that have the method `measured`."""


def prometheus_text() -> str:
    """All metrics of the session in Prometheus' text format: serve's own, and those that programs define."""
    from skate.util.metrics_text import text_of

    return metrics.prometheus_text() + text_of(snapshot())
