"""What programs for Ray Serve go by: names, kinds of errors, values that are taken, statuses."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

import skate
from skate import serve
from skate.serve import config, exceptions, schema
from skate.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator

Eventually = Callable[..., None]
NAMES = {
    "config": "AggregationFunction AutoscalingConfig AutoscalingContext AutoscalingPolicy BackpressureConfig "
    "ControllerOptions DeploymentActorConfig GangPlacementStrategy GangRuntimeFailurePolicy GangSchedulingConfig "
    "HTTPOptions ProxyLocation RequestRouterConfig gRPCOptions",
    "handle": "DeploymentBroadcastResponse DeploymentHandle DeploymentResponse DeploymentResponseGenerator",
    "exceptions": "BackPressureError DeploymentUnavailableError RayServeException ReplicaUnavailableError "
    "RequestCancelledError gRPCStatusError",
    "context": "ReplicaContext _get_serve_request_context",
    "schema": "ApplicationStatus ApplicationStatusOverview DeploymentStatus DeploymentStatusOverview EncodingType "
    "LoggingConfig ProxyStatus ReplicaRank ServeApplicationSchema ServeDeploySchema ServeStatus",
    "request_router": "FIFOMixin LocalityMixin MultiplexMixin PendingRequest ReplicaID RequestRouter RunningReplica",
    "autoscaling_policy": "default_autoscaling_policy replica_queue_length_autoscaling_policy",
    "gang": "GangContext",
    "utils": "get_trace_context",
    "experimental.round_robin_router": "RoundRobinRouter",
    "experimental.consistent_hash_router": "ConsistentHashRouter",
}


class Plain:
    def __call__(self) -> int:
        return 1


@pytest.mark.parametrize("module", NAMES)
def test_the_names_that_programs_import_are_there(module: str) -> None:
    found = __import__(f"skate.serve.{module}", fromlist=["x"])
    assert not [name for name in NAMES[module].split() if not hasattr(found, name)]


def test_all_public_names_of_serve_are_there_and_llm_says_where_to_look() -> None:
    for name in serve.__all__:
        assert getattr(serve, name) is not None
    program = "import skate; skate.as_ray()\ntry:\n import ray.serve.llm\nexcept ImportError as error: print(error)\n"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "ray.serve.llm" in told and "docs/compatibility.md" in told


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"max_ongoing_requests": "7"}, "max_ongoing_requests", 7),
        ({"max_ongoing_requests": 7.0}, "max_ongoing_requests", 7),
        ({"health_check_period_s": "2.5"}, "health_check_period_s", 2.5),
        ({"autoscaling_config": {"max_replicas": "3"}}, "autoscaling_config", config.AutoscalingConfig(max_replicas=3)),
        ({"autoscaling_config": {"aggregation_function": "MAX"}}, "autoscaling_config", None),
        ({"autoscaling_config": {"target_ongoing_requests": None}}, "autoscaling_config", None),
        ({"backpressure_config": {"status_code": 429}}, "backpressure_config", config.BackpressureConfig(429)),
        ({"placement_group_bundles": [{"CPU": 1}], "placement_group_bundle_label_selector": [{"a": "b"}]}, "", None),
    ],
)
def test_values_that_ray_takes_are_taken(options: dict[str, Any], name: str, value: object) -> None:
    made = serve.deployment(**options)(Plain)
    if value is not None:
        assert getattr(made._config, name) == value


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_ongoing_requests": "many"}, "max_ongoing_requests"),
        ({"max_ongoing_requests": [1]}, "max_ongoing_requests"),
        ({"backpressure_config": {"status_code": 500}}, "status_code"),
        ({"backpressure_config": {"retry_after": 5}}, "retry_after"),
        ({"backpressure_config": {"retry_after_s": -1}}, "retry_after_s"),
        ({"autoscaling_config": {"policy": {"policy_kwargs": {"a": object()}}}}, "policy_kwargs"),
        ({"autoscaling_config": {"aggregation_function": "median"}}, "aggregation_function"),
        ({"placement_group_bundles": [{"CPU": 1}], "ray_actor_options": {"num_cpus": 2}}, "CPU"),
        ({"placement_group_bundle_label_selector": [{"a": "b"}]}, "placement_group_bundles"),
        (
            {"placement_group_bundles": [{"CPU": 1}], "placement_group_bundle_label_selector": [{}, {}]},
            "label_selector",
        ),
    ],
)
def test_wrong_values_are_value_errors_as_in_ray(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        serve.deployment(**options)(Plain)


def test_a_policy_that_cannot_be_imported_is_told_of_at_once() -> None:
    with pytest.raises(ImportError, match="nowhere"):
        config.AutoscalingConfig(policy={"policy_function": "nowhere:policy"})
    with pytest.raises(ImportError, match="nothing"):
        config.AutoscalingConfig(policy="os.path:nothing")
    assert config.AutoscalingPolicy("os.path:join").get_policy() is __import__("os").path.join


def test_settings_have_the_methods_of_rays_models() -> None:
    made = config.AutoscalingConfig.model_validate({"max_replicas": 3})
    assert made.model_dump(exclude_unset=True) == {"max_replicas": 3}
    assert made.model_copy(update={"max_replicas": 4}).max_replicas == 4
    assert '"max_replicas": 3' in made.model_dump_json()
    assert "max_replicas" in config.AutoscalingConfig.model_fields
    assert (config.AutoscalingConfig.default().max_replicas, made.get_target_ongoing_requests()) == (100, 2)
    assert config.AutoscalingConfig(smoothing_factor=0.5).get_upscaling_factor() == 0.5
    assert config.AutoscalingConfig(downscaling_factor=0.3).get_downscaling_factor() == 0.3
    assert config.HTTPOptions(host=None).location == config.ProxyLocation.Disabled
    assert config.HTTPOptions(location="NoServer").location == "Disabled"
    for wrong in ({"num_cpus": 1}, {"location": "Nowhere"}, {"middlewares": [1]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            config.HTTPOptions(**wrong)  # type: ignore[arg-type]
    assert config.ControllerOptions({"env_vars": {"A": "1"}}).runtime_env == {"env_vars": {"A": "1"}}
    with pytest.raises(ValueError, match="env_vars"):
        config.ControllerOptions({"pip": ["x"]})


def test_deployments_have_what_ray_has() -> None:
    made = serve.deployment(Plain)
    assert (made.init_args, made.init_kwargs, made.logging_config) == ((), {}, None)
    assert made.backpressure_config.status_code == 503
    assert repr(made) == "Deployment(name=Plain)"
    made.set_logging_config({"log_level": "DEBUG"})
    assert made.logging_config == {"log_level": "DEBUG"}
    with pytest.raises(ValueError, match="function"):
        serve.deployment(lambda: 1).options(name="f").bind(1)
    assert inspect.signature(serve.deployment).parameters.keys() >= {
        *("gang_scheduling_config", "deployment_actors", "request_router_config", "backpressure_config"),
        "placement_group_bundle_label_selector",
    }


def test_handles_are_generic_take_rays_options_and_refuse_others() -> None:
    handle: DeploymentHandle[int] = DeploymentHandle("D", "app")
    assert DeploymentHandle[int] and DeploymentResponse[int] and DeploymentResponseGenerator[int]
    assert (handle.deployment_id.name, str(handle.deployment_id)) == ("D", "Deployment(name='D', app='app')")
    assert handle.options(_by_reference=False, request_serialization="pickle", session_id="a")._session == "a"
    again = pickle.loads(pickle.dumps(handle.options(stream=True, session_id="a", method_name="m")))
    assert (again._stream, again._session, again._method) == (True, "a", "m")
    for wrong in ({"stream": "yes"}, {"method_name": 5}, {"nope": 1}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            handle.options(**wrong)  # type: ignore[arg-type]


def test_what_needs_serve_says_that_it_does_not_run() -> None:
    skate.init(engine="local", num_cpus=1)
    try:
        for call in (lambda: serve.delete("x"), lambda: serve.get_app_handle("x")):
            with pytest.raises(exceptions.RayServeException, match="does not run"):
                call()
        assert serve.status().applications == {}
        serve.shutdown()
        with pytest.raises(ValueError, match="at least one"):
            serve.run_many([])
        with pytest.raises(exceptions.RayServeException, match="name"):
            serve.run(serve.deployment(Plain).bind(), name="")
    finally:
        skate.shutdown()


def test_a_request_after_serve_was_shut_down_fails_rather_than_wait_for_ever() -> None:
    skate.init(engine="local", num_cpus=1)
    try:
        handle = serve.run(serve.deployment(Plain).bind(), route_prefix=None)
        assert handle.remote().result(timeout_s=60) == 1
        serve.shutdown()
        serve.shutdown()
        with pytest.raises(exceptions.DeploymentUnavailableError, match="does not run"):
            handle.remote().result(timeout_s=60)
        again = serve.run(serve.deployment(Plain).bind(), route_prefix=None)
        assert (again.remote().result(timeout_s=60), handle.remote().result(timeout_s=60)) == (1, 1)
        asyncio.run(serve.shutdown_async())
        assert serve.status().applications == {}
    finally:
        serve.shutdown()
        skate.shutdown()


# ------------------------------------------------------------------ in a session


@serve.deployment(graceful_shutdown_timeout_s=0.5)
class Thing:
    value = 5

    def __call__(self, value: int = 0) -> int:
        return value + 1

    def stream(self) -> Any:
        yield 1

    async def slow(self) -> None:
        await asyncio.sleep(60)

    def about(self) -> tuple[Any, ...]:
        here = serve.get_replica_context()
        request = serve.context._get_serve_request_context()
        full = here.replica_id.to_full_id_str()
        assert here.replica_id.from_full_id_str(full) == here.replica_id
        assert here.code_version
        return here.replica_id.deployment_id.name, here.rank.rank, here.rank.local_rank, request.app_name


@pytest.mark.usefixtures("clean")
def test_errors_of_handles_are_those_of_ray() -> None:
    handle = serve.run(Thing.bind(), route_prefix=None)
    for call, kinds, text in (
        (lambda: handle.nothing.remote().result(), (AttributeError, exceptions.RayServeException), "nothing"),
        (lambda: handle.value.remote().result(), (TypeError,), "value"),
        (lambda: handle.slow.remote().result(timeout_s=0.1), (skate.exceptions.GetTimeoutError, TimeoutError), "0.1"),
        (lambda: handle.slow.remote().result(timeout_s=-1), (TimeoutError,), "No answer"),
        (lambda: serve.get_deployment_handle("X", "default"), (KeyError, exceptions.RayServeException), "X"),
        (lambda: handle.remote(handle.options(stream=True).stream.remote()), (RuntimeError,), "iterate"),
    ):
        with pytest.raises(kinds[0], match=text) as caught:
            call()
        assert isinstance(caught.value, kinds)

    async def on_a_loop() -> Any:
        response = handle.remote(1)
        with pytest.raises(RuntimeError, match="_to_object_ref"):
            response._to_object_ref_sync()
        return await (await response._to_object_ref())

    assert asyncio.run(on_a_loop()) == 2
    assert handle.about.remote().result(timeout_s=60) == ("Thing", 0, 0, "default")
    with pytest.raises(exceptions.RouteTakenError, match="belongs to"):
        serve.run(Thing.bind(), name="a", route_prefix="/a")
        serve.run(Thing.bind(), name="b", route_prefix="/a")
    assert issubclass(exceptions.RouteTakenError, exceptions.RayServeException)
    assert schema.ApplicationStatus.RUNNING == "RUNNING"


def broken_policy(ctx: config.AutoscalingContext) -> tuple[int, dict[str, Any]]:
    raise ZeroDivisionError("no number")


class Wants:
    """A policy with arguments and a state; it goes by a figure of the replicas' own."""

    def __init__(self, at_most: int) -> None:
        self.at_most = at_most

    def __call__(self, ctx: config.AutoscalingContext) -> tuple[int, dict[str, Any]]:
        calls = ctx.policy_state.get("calls", 0) + 1
        wish = max(ctx.aggregated_metrics.get("wish", {}).values(), default=1)
        assert ctx.deployment_id.name and set(ctx.raw_metrics.get("wish", {})) <= set(ctx.running_replicas)
        return min(self.at_most, int(wish)), {"calls": calls}


SCALING = {"max_replicas": 5, "upscale_delay_s": 0, "metrics_interval_s": 0.1, "look_back_period_s": 0.5}


@serve.deployment(autoscaling_config={**SCALING, "policy": {"policy_function": Wants, "policy_kwargs": {"at_most": 3}}})
class Wishing:
    def record_autoscaling_stats(self) -> dict[str, float]:
        return {"wish": 4.0}

    def __call__(self) -> None:
        return None


@pytest.mark.usefixtures("clean")
def test_policies_go_by_figures_of_replicas_and_one_that_raises_is_told_of(eventually: Eventually) -> None:
    serve.run(Wishing.bind(), route_prefix=None)
    eventually(lambda: serve.status().applications["default"].deployments["Wishing"].replica_states == {"RUNNING": 3})
    broken = Thing.options(autoscaling_config={**SCALING, "policy": broken_policy})
    handle = serve.run(broken.bind(), name="broken", route_prefix=None)
    eventually(lambda: "no number" in serve.status().applications["broken"].deployments["Thing"].message)
    assert handle.remote(1).result(timeout_s=60) == 2


@serve.deployment(
    max_ongoing_requests=1, max_queued_requests=1, backpressure_config={"status_code": 429, "retry_after_s": 2.5}
)
class Full:
    async def __call__(self) -> None:
        await asyncio.sleep(2)


@pytest.mark.usefixtures("clean")
def test_those_who_are_turned_away_are_told_what_the_deployment_says(eventually: Eventually) -> None:
    handle = serve.run(Full.bind(), route_prefix=None)
    busy = handle.remote()
    time.sleep(0.2)
    waits = handle.remote()
    with pytest.raises(exceptions.BackPressureError) as caught:
        handle.remote().result(timeout_s=60)
    assert (caught.value.status_code, caught.value.retry_after_s) == (429, 2.5)
    assert busy.result(timeout_s=60) is None
    assert waits.result(timeout_s=60) is None
    from skate.serve.http_answers import described

    assert described(caught.value)[0::2] == (429, [(b"retry-after", b"3")])


@pytest.mark.usefixtures("clean")
def test_an_external_scaler_may_say_how_many_replicas_there_are_where_that_is_allowed(eventually: Eventually) -> None:
    serve.run(Thing.bind(), name="mine", route_prefix=None)
    with pytest.raises(RuntimeError, match="external_scaler_enabled"):
        serve.api.ask("scale", "mine", "Thing", 2)
    serve.run(Thing.bind(), name="mine", route_prefix=None, external_scaler_enabled=True)
    serve.api.ask("scale", "mine", "Thing", 3)
    eventually(lambda: serve.status().applications["mine"].deployments["Thing"].replica_states == {"RUNNING": 3})
    with pytest.raises(ValueError, match="Thing"):
        serve.run(
            Thing.options(num_replicas="auto").bind(), name="auto", route_prefix=None, external_scaler_enabled=True
        )


def test_options_of_all_kinds_can_be_written_to_a_file() -> None:
    pytest.importorskip("yaml")
    from skate.serve.config_file import DeploymentSchema, to_yaml
    from skate.serve.declared import plain_config

    made = serve.deployment(
        autoscaling_config={"min_replicas": 2, "max_replicas": 4, "policy": broken_policy},
        gang_scheduling_config={"gang_size": 2, "gang_placement_strategy": "SPREAD"},
        request_router_config={"request_router_class": "skate.serve.experimental.round_robin_router.RoundRobinRouter"},
        backpressure_config={"status_code": 429},
    )(Plain)
    text = to_yaml({key: value for key, value in plain_config(made._config).items() if value is not None})
    assert "gang_placement_strategy: SPREAD" in text and "pickled" not in text and "policy_function" not in text
    again = DeploymentSchema.model_validate({"name": "Plain", "gang_scheduling_config": {"gang_size": 1}})
    assert again.options()["gang_scheduling_config"] == {"gang_size": 1}
