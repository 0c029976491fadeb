"""Deployments as programs write them: options, their checks, copies; none of it needs a session."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import skate
from skate import serve
from skate.serve.build import build_app
from skate.serve.config import HTTPOptions
from skate.serve.handle import DeploymentHandle


@serve.deployment
class Plain:
    def __call__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"num_replicas": 0}, ValueError, "num_replicas"),
        ({"num_replicas": -1}, ValueError, "num_replicas"),
        ({"num_replicas": 1.5}, TypeError, "num_replicas"),
        ({"num_replicas": True}, TypeError, "num_replicas"),
        ({"max_ongoing_requests": 0}, ValueError, "max_ongoing_requests"),
        ({"max_ongoing_requests": None}, ValueError, "max_ongoing_requests"),
        ({"max_queued_requests": -2}, ValueError, "max_queued_requests"),
        ({"graceful_shutdown_timeout_s": -1}, ValueError, "graceful_shutdown_timeout_s"),
        ({"health_check_period_s": 0}, ValueError, "health_check_period_s"),
        ({"health_check_timeout_s": "a"}, TypeError, "health_check_timeout_s"),
        ({"ray_actor_options": {"max_restarts": 1}}, ValueError, "max_restarts"),
        ({"ray_actor_options": {"num_cpus": -1}}, ValueError, "num_cpus"),
        ({"ray_actor_options": [1]}, TypeError, "ray_actor_options"),
        ({"placement_group_bundles": []}, ValueError, "placement_group_bundles"),
        ({"placement_group_bundles": [{"CPU": -1}]}, ValueError, "placement_group_bundles"),
        ({"placement_group_strategy": "PACK"}, ValueError, "placement_group_bundles"),
        ({"placement_group_bundles": [{"CPU": 1}], "placement_group_strategy": "X"}, ValueError, "strategy"),
        ({"max_replicas_per_node": 0}, ValueError, "max_replicas_per_node"),
        ({"max_replicas_per_node": 1, "placement_group_bundles": [{"CPU": 1}]}, ValueError, "max_replicas_per_node"),
        ({"max_surge_percent": 101}, ValueError, "max_surge_percent"),
        ({"rolling_update_percentage": 0.0}, ValueError, "rolling_update_percentage"),
        ({"logging_config": {"log_level": "LOUD"}}, ValueError, "log_level"),
        ({"logging_config": {"level": "INFO"}}, ValueError, "level"),
        ({"name": "a#b"}, ValueError, "#"),
        ({"name": ""}, TypeError, "name"),
        ({"version": 1}, TypeError, "version"),
        ({"route_prefix": "/a"}, ValueError, "serve.run"),
        ({"num_cpus": 1}, TypeError, "num_cpus"),
        ({"gang_scheduling_config": {"gang_size": 2}}, ValueError, "num_replicas"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        serve.deployment(**options)(lambda: None)
    with pytest.raises(error, match=named):
        Plain.options(**options)


def test_options_make_a_copy() -> None:
    more = Plain.options(num_replicas=3, name="More", user_config={"a": 1})
    assert (Plain.num_replicas, Plain.name, Plain.user_config) == (1, "Plain", None)
    assert (more.num_replicas, more.name, more.user_config) == (3, "More", {"a": 1})
    assert more.options(max_ongoing_requests=7).num_replicas == 3
    scaled = more.options(autoscaling_config={"max_replicas": 5, "min_replicas": 2})
    assert scaled.num_replicas == 2 and scaled.autoscaling_config.max_replicas == 5
    assert scaled.options(num_replicas=4).autoscaling_config is None


def test_what_is_no_deployment_is_told_of() -> None:
    with pytest.raises(TypeError, match="class or a function"):
        serve.deployment(5)
    with pytest.raises(TypeError, match="deployment already"):
        serve.deployment(Plain)
    with pytest.raises(RuntimeError, match="bind"):
        Plain()


def test_applications_in_all_places_become_handles() -> None:
    leaf = Plain.bind()
    spec = build_app(Plain.options(name="Top").bind(leaf, [leaf], {"key": (leaf, 1)}, name=leaf), "app", None)
    assert set(spec.targets) == {"Top", "Plain"} and spec.ingress == "Top"
    target, args, kwargs = skate.cloudpickle.loads(spec.codes[spec.targets["Top"].code])
    assert target.__name__ == "Plain"
    found = [args[0], args[1][0], args[2]["key"][0], kwargs["name"]]
    assert all(isinstance(each, DeploymentHandle) and each.deployment_name == "Plain" for each in found)


def test_versions_change_with_what_needs_new_replicas_only() -> None:
    def built(**options: object) -> object:
        return build_app(Plain.options(version="1", **options).bind(), "app", None).targets["Plain"]

    same = built()
    assert built().version == same.version and built().light == same.light  # type: ignore[attr-defined]
    lightly = built(user_config=1, num_replicas=4)
    assert lightly.version == same.version and lightly.light != same.light  # type: ignore[attr-defined]
    assert built(ray_actor_options={"num_cpus": 1}).version != same.version  # type: ignore[attr-defined]
    assert (
        build_app(Plain.bind(), "app", None).targets["Plain"].version
        != build_app(Plain.bind(), "app", None).targets["Plain"].version
    ), "without a version each deploy is a new one"


@pytest.mark.parametrize(
    "options",
    [{"port": -1}, {"port": 70000}, {"host": ""}, {"root_path": "a"}, {"ssl_keyfile": "a"}, {"request_timeout_s": 0}],
)
def test_wrong_http_options_are_named(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        HTTPOptions.read(options, "http_options")


def test_outside_of_a_replica_there_is_no_replica() -> None:
    with pytest.raises(serve.exceptions.RayServeException, match="replica"):
        serve.get_replica_context()
    with pytest.raises(TypeError, match="bind"):
        serve.run(Plain)  # type: ignore[arg-type]
    assert not skate.is_initialized(), "what is wrong is told before anything is started"


def test_local_testing_mode_is_one_process() -> None:
    handle = serve.run(Plain.bind(), route_prefix=None, _local_testing_mode=True)
    assert handle.remote().result() == 1
    serve.shutdown()
    skate.shutdown()


def test_importing_serve_imports_nothing_of_http() -> None:
    code = "import sys; from skate import serve; serve.deployment, serve.run; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"starlette", "fastapi", "uvicorn", "pydantic", "numpy", "yaml"} & set(found)


def test_a_session_that_ends_with_serve_in_it_is_over_and_the_next_is_another() -> None:
    for amount in (1, 2):
        skate.init(engine="local", num_cpus=2)
        serve.start(proxy_location="Disabled")
        handle = serve.run(Answer.bind(amount), route_prefix=None)
        assert handle.remote().result(timeout_s=60) == amount
        skate.shutdown()
        time.sleep(0.5)  # longer than routers wait before they ask for the controller again
        assert not skate.is_initialized()
    serve.shutdown()  # nothing runs; what this process still maps of the session's memory is given back


def test_replicas_spread_over_nodes_where_each_may_have_one() -> None:
    skate.init(nodes=[{"num_cpus": 1}] * 3)
    serve.start(proxy_location="Disabled")
    handle = serve.run(Answer.options(num_replicas=3, max_replicas_per_node=1).bind(1), route_prefix=None)
    assert len({handle.node.remote().result() for _ in range(60)}) == 3
    serve.shutdown()
    skate.shutdown()


@serve.deployment
class Answer:
    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __call__(self) -> int:
        return self.amount

    def node(self) -> str:
        return skate.get_runtime_context().get_node_id()
