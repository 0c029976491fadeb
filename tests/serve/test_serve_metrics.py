"""Metrics: those that applications define in replicas, and what serve measures itself."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from skate import serve
from skate.exceptions import RayTaskError
from skate.serve import context, measures
from skate.util import metrics as plain


def rows(name: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in found if row["name"] == name]


@serve.deployment(num_replicas=2, max_ongoing_requests=50)
class Measured:
    def __init__(self) -> None:
        self.count = serve.metrics.Counter("serve_test_count", tag_keys=("kind", "route"))
        self.count.set_default_tags({"kind": "usual"})
        self.level = pickle.loads(pickle.dumps(serve.metrics.Gauge("serve_test_level")))
        self.sizes = serve.metrics.Histogram("serve_test_sizes", boundaries=[1, 10])

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.01)
    async def batched(self, items: list[int]) -> list[int]:
        return items

    @serve.multiplexed(max_num_models_per_replica=1)
    async def model(self, name: str) -> str:
        return name

    async def __call__(self, number: int) -> int:
        self.count.inc()
        self.count.inc(2, tags={"kind": "other", "route": "/given"})
        self.level.set(number)
        self.sizes.observe(number)
        await self.model("m")
        return await self.batched(number)

    async def fail(self) -> None:
        raise KeyError("x")


@pytest.mark.usefixtures("clean")
def test_values_of_replicas_with_their_tags(eventually: Callable[..., None]) -> None:
    handle = serve.run(Measured.bind(), name="app", route_prefix=None)
    for response in [handle.remote(number) for number in range(20)]:
        response.result(timeout_s=60)
    with pytest.raises(RayTaskError):
        handle.fail.remote().result(timeout_s=60)

    own = serve.metrics.snapshot()
    requests = rows("serve_deployment_request_counter", own)
    assert sum(row["value"] for row in requests) == 21
    assert {row["tags"]["application"] for row in requests} == {"app"}
    names = {row["replica_id"] for row in serve.status().applications["app"].deployments["Measured"].replicas}
    assert {row["tags"]["replica"] for row in requests} <= names
    assert [row["value"] for row in rows("serve_deployment_error_counter", own)] == [1]
    assert sum(row["value"]["count"] for row in rows("serve_deployment_processing_latency_ms", own)) == 21
    assert sum(row["value"]["sum"] for row in rows("serve_actual_batch_size", own)) == 20
    assert sum(row["value"] for row in rows("serve_multiplexed_models_load_counter", own)) == len(requests)
    assert {row["value"] for row in rows("serve_replica_processing_queries", own)} == {0}
    assert rows("serve_deployment_replicas", own)[0]["value"] == 2

    eventually(lambda: sum(row["value"] for row in rows("serve_test_count", plain.snapshot())) == 60)
    found = plain.snapshot()
    assert {row["tags"]["kind"]: row["tags"]["route"] for row in rows("serve_test_count", found)} == {
        "usual": "",
        "other": "/given",
    }
    assert {row["tags"]["replica"] for row in rows("serve_test_level", found)} <= names
    assert rows("serve_test_sizes", found)[0]["tags"].keys() == {"deployment", "replica", "application"}

    text = serve.metrics.prometheus_text()
    assert 'ray_serve_test_count_total{deployment="Measured",replica="' in text
    assert "# TYPE ray_serve_deployment_processing_latency_ms histogram" in text
    names_of_metrics = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names_of_metrics) == len(set(names_of_metrics))


def test_outside_of_replicas_a_metric_is_like_others() -> None:
    count = serve.metrics.Counter("serve_test_outside", tag_keys=("kind",))
    count.inc(tags={"kind": "x"})
    assert rows("serve_test_outside", plain.snapshot())[0]["tags"] == {"kind": "x"}
    with pytest.raises(ValueError, match="reserved"):
        count.set_default_tags({"replica": "x"})


def test_tags_that_serve_sets_are_refused_in_replicas() -> None:
    class Here:
        tags = ("deployment", "replica", "app")

    token = context.replica_here.set(Here())
    try:
        with pytest.raises(ValueError, match="'replica' tag is reserved"):
            serve.metrics.Counter("serve_test_reserved", tag_keys=("replica",))
    finally:
        context.replica_here.reset(token)


def test_methods_that_clients_invent_make_no_metrics_of_their_own() -> None:
    for number in range(50):
        measures.http_done(f"METHOD{number}", "/", "inventive", 200, 0.001)
    measures.http_done("GET", "/", "inventive", 404, 0.001)
    table = measures.table()

    def ours(name: str) -> dict[tuple[str, ...], object]:
        return {tags: value for tags, value in table[name][1].items() if "inventive" in tags}

    assert {tags[0] for tags in ours("serve_http_request_latency_ms")} == {"OTHER", "GET"}
    assert ours("serve_num_http_requests")["OTHER", "/", "inventive", "200"] == 50
    assert ours("serve_num_http_error_requests") == {("GET", "/", "inventive", "404"): 1}
