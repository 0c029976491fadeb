"""Metrics: what processes record comes together, and in Prometheus' words."""

from __future__ import annotations

import pickle
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import skate
from skate.util.metrics import Counter, Gauge, Histogram, prometheus_text, snapshot


def rows(name: str) -> list[dict[str, Any]]:
    return [row for row in snapshot() if row["name"] == name]


def eventually(name: str, expected: Any) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if [row["value"] for row in rows(name)] == expected:
            return True
        time.sleep(0.05)
    return False


def test_values_of_the_driver_need_no_session() -> None:
    counter = Counter("driver_only", "d", ("kind",))
    counter.inc(2, {"kind": "a"})
    counter.inc(3, {"kind": "a"})
    counter.inc(tags={"kind": "b"})
    assert {row["tags"]["kind"]: row["value"] for row in rows("driver_only")} == {"a": 5, "b": 1}
    assert not skate.is_initialized()


def test_counts_of_all_processes_are_summed_up(session: None) -> None:
    counter = Counter("summed_up")
    counter.inc()

    @skate.remote
    class Actor:
        def __init__(self) -> None:
            self.counter = Counter("summed_up")

        def count(self, times: int) -> None:
            for _ in range(times):
                self.counter.inc()

    actors = [Actor.remote() for _ in range(2)]
    skate.get([actor.count.remote(10) for actor in actors])
    assert eventually("summed_up", [21])
    skate.get(actors[0].count.remote(5))
    assert eventually("summed_up", [26])


def test_gauges_keep_processes_apart(session: None) -> None:
    @skate.remote
    class Actor:
        def set(self, value: float) -> None:
            Gauge("apart").set(value)

    actors = [Actor.remote() for _ in range(2)]
    skate.get([actor.set.remote(value) for actor, value in zip(actors, (1, 2), strict=True)])
    deadline = time.monotonic() + 60
    while len(rows("apart")) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sorted(row["value"] for row in rows("apart")) == [1, 2]
    assert len({row["process"] for row in rows("apart")}) == 2


def test_a_histogram_counts_by_size() -> None:
    histogram = Histogram("sizes", boundaries=[1, 10])
    for value in (0.5, 1, 5, 50):
        histogram.observe(value)
    (row,) = rows("sizes")
    assert row["value"] == {"count": 4, "sum": 56.5, "buckets": {1: 2, 10: 3}}


def test_one_name_is_one_kind() -> None:
    Counter("one_kind")
    with pytest.raises(ValueError, match="one_kind"):
        Gauge("one_kind")
    Counter("one_kind").inc()


def test_default_tags_travel() -> None:
    counter = Counter("travel", tag_keys=("a",)).set_default_tags({"a": "x"})
    assert pickle.loads(pickle.dumps(counter)).info["default_tags"] == {"a": "x"}


def test_prometheus_reads_it() -> None:
    Counter("prom_counter", 'counts "things"\nover lines', ("a",)).inc(3, {"a": 'quote " and \\ and \n'})
    Gauge("prom_gauge").set(-2.5)
    Histogram("prom_histogram", boundaries=[1, 2]).observe(1.5)
    families = {family.name: family for family in text_string_to_metric_families(prometheus_text())}
    (sample,) = families["ray_prom_counter"].samples
    assert (sample.value, sample.labels["a"]) == (3, 'quote " and \\ and \n')
    assert families["ray_prom_gauge"].samples[0].value == -2.5
    found = {(s.name, s.labels.get("le")): s.value for s in families["ray_prom_histogram"].samples}
    assert found[("ray_prom_histogram_bucket", "1.0")] == 0
    assert found[("ray_prom_histogram_bucket", "2.0")] == 1
    assert found[("ray_prom_histogram_bucket", "+Inf")] == 1
    assert found[("ray_prom_histogram_sum", None)] == 1.5
