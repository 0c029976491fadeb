"""Where recorded values are kept: a table in each process, and an actor that gathers those of workers."""

from __future__ import annotations

import atexit
import bisect
import contextlib
import threading
from typing import Any, Literal, NamedTuple

from skate.api import get, get_actor, remote
from skate.core import engine as engines
from skate.exceptions import RayError

Kind = Literal["counter", "gauge", "histogram"]
PAUSE = 0.5
"""Seconds between two reports of a worker."""
NAMESPACE, NAME = "_skate", "metrics"


class Series(NamedTuple):
    """What a metric is."""

    name: str
    kind: Kind
    description: str
    tags: tuple[str, ...]
    bounds: tuple[float, ...] = ()
    """Upper ends of a histogram's buckets."""


Values = dict[tuple[str, ...], Any]
"""By the values of the tags: a number, or for a histogram ``[sum, count of each bucket, and of what is larger]``."""
Table = dict[str, tuple[Series, Values]]


class Registry:
    """The metrics of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._table: Table = {}
        self._changed = threading.Event()
        self._reporter: threading.Thread | None = None
        self._gatherer: Any = None

    def define(self, series: Series) -> None:
        """Make a metric known; ValueError when the name stands for another kind."""
        with self._lock:
            known = self._table.setdefault(series.name, (series, {}))[0]
            if known.kind != series.kind:
                raise ValueError(f"The metric {series.name} is a {known.kind}, and cannot be a {series.kind} too.")

    def record(self, name: str, tags: tuple[str, ...], value: float) -> None:
        """Take a value in."""
        with self._lock:
            series, values = self._table[name]
            if series.kind == "counter":
                values[tags] = values.get(tags, 0.0) + value
            elif series.kind == "gauge":
                values[tags] = float(value)
            else:
                sums = values.setdefault(tags, [0.0] * (len(series.bounds) + 2))
                sums[0] += value
                sums[1 + bisect.bisect_left(series.bounds, value)] += 1
        if not self._changed.is_set() and _in_worker():
            self._report_soon()

    def table(self) -> Table:
        """A copy."""
        with self._lock:
            return {
                name: (series, {tags: list(v) if isinstance(v, list) else v for tags, v in values.items()})
                for name, (series, values) in self._table.items()
                if values
            }

    # ----------------------------------------------------------------- of a worker

    def _report_soon(self) -> None:
        self._changed.set()
        if self._reporter is None:
            self._reporter = threading.Thread(target=self._report, name="skate-metrics", daemon=True)
            self._reporter.start()
            atexit.register(self._send)

    def _report(self) -> None:
        pause = threading.Event()
        while self._changed.wait():
            self._changed.clear()
            self._send()
            pause.wait(PAUSE)

    def _send(self) -> None:
        """Give the whole table to the actor: what is sent twice does no harm."""
        with contextlib.suppress(RayError):  # the session ends
            if self._gatherer is None:
                made: Any = remote(Gatherer)
                self._gatherer = made.options(
                    name=NAME, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0
                ).remote()
            self._gatherer.take.remote(engines.current().context().worker, self.table())

    # ----------------------------------------------------------------- of the session

    def snapshot(self) -> list[dict[str, Any]]:
        """See `skate.util.metrics.snapshot`."""
        tables: dict[str, Table] = {"driver": self.table()}
        if engines.running() is not None:
            with contextlib.suppress(ValueError):  # no worker has recorded anything
                tables.update(get(get_actor(NAME, NAMESPACE).give.remote()))
        return merged(tables)


class Gatherer:
    """The actor that has the tables of all workers."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}

    def take(self, process: str, table: Table) -> None:
        """A worker's table, in place of the one before."""
        self.tables[process] = table

    def give(self) -> dict[str, Table]:
        """All tables by process."""
        return self.tables


def merged(tables: dict[str, Table]) -> list[dict[str, Any]]:
    """The tables of processes as rows: summed up, but for gauges."""
    sums: dict[tuple[str, tuple[str, ...], str], tuple[Series, Any]] = {}
    for process, table in tables.items():
        for name, (series, values) in table.items():
            for tags, value in values.items():
                key = (name, tags, process if series.kind == "gauge" else "")
                before = sums.get(key)
                sums[key] = (series, value if before is None else _added(before[1], value))
    return [
        {
            "name": name,
            "kind": series.kind,
            "description": series.description,
            "tags": dict(zip(series.tags, tags, strict=True)),
            "process": process,
            "value": _histogram(series, value) if series.kind == "histogram" else value,
        }
        for (name, tags, process), (series, value) in sums.items()
    ]


def _added(one: Any, two: Any) -> Any:
    return [a + b for a, b in zip(one, two, strict=True)] if isinstance(one, list) else one + two


def _histogram(series: Series, sums: list[float]) -> dict[str, Any]:
    total, *counts = sums
    buckets, reached = {}, 0
    for bound, count in zip(series.bounds, counts, strict=False):
        reached += int(count)
        buckets[bound] = reached
    return {"count": int(sum(counts)), "sum": total, "buckets": buckets}


def _in_worker() -> bool:
    engine = engines.running()
    return engine is not None and not engine.context().driver


_registry = Registry()


def registry() -> Registry:
    """The one of this process."""
    return _registry
