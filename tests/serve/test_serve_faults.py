"""What goes wrong: replicas and the controller are killed, constructors raise, versions change under load."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import skate
from skate import serve
from skate.exceptions import RayActorError
from skate.serve import context
from skate.serve.exceptions import DeploymentUnavailableError
from skate.serve.handle import DeploymentHandle
from skate.serve.target import ApplicationStatus, DeploymentStatus

pytestmark = pytest.mark.usefixtures("clean")
Eventually = Callable[..., None]


@serve.deployment(max_ongoing_requests=20, graceful_shutdown_timeout_s=5)
class Worker:
    def __init__(self, version: int = 1) -> None:
        self.version = version

    async def __call__(self, seconds: float = 0.0) -> int:
        await asyncio.sleep(seconds)
        return self.version

    async def pid(self) -> int:
        return os.getpid()

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def overview(app: str = "default", deployment: str = "Worker") -> Any:
    return serve.status().applications[app].deployments[deployment]


def is_healthy() -> bool:
    found = overview()
    return found.status is DeploymentStatus.HEALTHY and found.replica_states == {"RUNNING": len(found.replicas) or -1}


class Load:
    """Requests from several threads until it is stopped; what they gave and what they failed of."""

    def __init__(self, handle: DeploymentHandle, seconds: float = 0.002, threads: int = 4) -> None:
        self.handle, self.seconds = handle, seconds
        self.values: list[int] = []
        self.errors: list[BaseException] = []
        self.stopping = False
        self.threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self.stopping:
            try:
                self.values.append(self.handle.remote(self.seconds).result(timeout_s=60))
            except Exception as error:  # noqa: BLE001  the test looks at them
                self.errors.append(error)

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        for thread in self.threads:
            thread.join()


def test_a_request_on_a_replica_that_dies_fails_cleanly_and_the_next_ones_work(eventually: Eventually) -> None:
    handle = serve.run(Worker.bind())
    under_way = handle.remote(30)
    first = handle.pid.remote().result()
    os.kill(first, signal.SIGKILL)
    with pytest.raises(RayActorError):
        under_way.result(timeout_s=60)
    assert handle.remote().result(timeout_s=60) == 1
    eventually(is_healthy)
    assert handle.pid.remote().result() != first


def test_requests_that_a_dead_replica_had_not_begun_are_sent_to_another() -> None:
    handle = serve.run(Worker.options(num_replicas=2).bind())
    pids = {handle.pid.remote().result() for _ in range(50)}
    assert len(pids) == 2
    victim = pids.pop()
    os.kill(victim, signal.SIGSTOP)  # what is sent to it now is not begun
    try:
        responses = [handle.remote() for _ in range(12)]
    finally:
        os.kill(victim, signal.SIGKILL)
    assert [response.result(timeout_s=60) for response in responses] == [1] * 12


def test_all_replicas_dead_and_requests_wait_for_new_ones(eventually: Eventually) -> None:
    handle = serve.run(Worker.options(num_replicas=2).bind())
    for pid in {handle.pid.remote().result() for _ in range(50)}:
        os.kill(pid, signal.SIGKILL)
    responses = []
    while len(responses) < 20:
        try:
            responses.append(handle.remote().result(timeout_s=60))
        except RayActorError:
            continue  # begun on one of them before it died
    assert responses == [1] * 20
    eventually(is_healthy)


def test_a_handler_that_kills_its_process_is_not_run_twice() -> None:
    handle = serve.run(Worker.bind())
    with pytest.raises(RayActorError):
        handle.die.remote().result(timeout_s=60)
    assert handle.remote().result(timeout_s=60) == 1


def kill_controller() -> None:
    skate.kill(context.controller(), no_restart=False)


def test_requests_go_on_while_the_controller_is_killed_and_a_redeploy_works_after_it(eventually: Eventually) -> None:
    handle = serve.run(Worker.options(num_replicas=2).bind(1))
    before = {handle.pid.remote().result() for _ in range(50)}
    with Load(handle) as load:
        time.sleep(0.1)
        kill_controller()
        time.sleep(0.3)
        eventually(is_healthy)
        assert {handle.pid.remote().result() for _ in range(50)} == before, "the replicas were found again"
        serve.run(Worker.options(num_replicas=2).bind(2))
        eventually(lambda: load.values and load.values[-1] == 2)
    assert load.errors == []


def test_the_vault_is_filled_again_when_it_died(eventually: Eventually) -> None:
    handle = serve.run(Worker.options(num_replicas=2).bind(1))
    before = {handle.pid.remote().result() for _ in range(50)}
    vault = skate.get_actor(context.VAULT, namespace=context.NAMESPACE)
    _, old = skate.get(vault.everything.remote())
    skate.kill(vault, no_restart=False)
    eventually(lambda: has_record(vault, old.pid))
    kill_controller()
    eventually(is_healthy)
    assert {handle.pid.remote().result() for _ in range(50)} == before


def has_record(vault: Any, old: int) -> bool:
    try:
        kept, place = skate.get(vault.everything.remote())
    except RayActorError:
        return False
    return "app:default" in kept and place is not None and place.pid != old


def test_a_replica_that_dies_while_there_is_no_controller_is_replaced(eventually: Eventually) -> None:
    handle = serve.run(Worker.options(num_replicas=2).bind())
    victim = handle.pid.remote().result()
    kill_controller()
    os.kill(victim, signal.SIGKILL)
    eventually(is_healthy)
    assert victim not in {handle.pid.remote().result() for _ in range(50)}


def test_an_application_deleted_by_a_restarted_controller_leaves_nothing(eventually: Eventually) -> None:
    serve.run(Worker.options(num_replicas=2).bind())
    kill_controller()
    serve.delete("default")
    eventually(lambda: replicas_alive() == [])


def replicas_alive() -> list[str]:
    rows: list[Any] = skate.util.list_named_actors(all_namespaces=True)
    return [row["name"] for row in rows if context.is_replica(row["name"])]


def test_a_rolling_update_under_load_fails_no_request() -> None:
    handle = serve.run(Worker.options(num_replicas=3).bind(1))
    with Load(handle, seconds=0.01, threads=6) as load:
        time.sleep(0.2)
        serve.run(Worker.options(num_replicas=3).bind(2))
        time.sleep(0.2)
    assert load.errors == []
    assert load.values[0] == 1 and load.values[-1] == 2
    assert len(load.values) > 50


def test_scaling_under_load_fails_no_request(eventually: Eventually) -> None:
    def deploy(replicas: int) -> DeploymentHandle:
        return serve.run(Worker.options(num_replicas=replicas, version="same").bind())

    handle = deploy(1)
    (first,) = {handle.pid.remote().result() for _ in range(10)}
    with Load(handle, seconds=0.01, threads=6) as load:
        deploy(4)
        eventually(lambda: len({handle.pid.remote().result() for _ in range(30)}) == 4)
        deploy(1)
        eventually(lambda: {handle.pid.remote().result() for _ in range(10)} == {first})
    assert load.errors == []


@serve.deployment
class Broken:
    def __init__(self) -> None:
        raise KeyError("the model is not there")

    def __call__(self) -> None: ...


def test_a_constructor_that_raises_is_told_of() -> None:
    with pytest.raises(RuntimeError, match="the model is not there"):
        serve.run(Broken.bind())
    status = serve.status().applications["default"]
    assert status.status is ApplicationStatus.DEPLOY_FAILED
    assert status.deployments["Broken"].status is DeploymentStatus.DEPLOY_FAILED
    assert "KeyError" in status.deployments["Broken"].message
    with pytest.raises(DeploymentUnavailableError, match="Broken"):
        serve.get_app_handle("default").remote().result(timeout_s=60)


def test_the_old_version_serves_when_the_new_one_cannot_be_constructed() -> None:
    handle = serve.run(Worker.bind(1))
    broken = Broken.options(name="Worker")
    with Load(handle) as load, pytest.raises(RuntimeError, match="the model is not there"):
        serve.run(broken.bind())
    assert load.errors == [] and set(load.values) == {1}
    assert overview().status is DeploymentStatus.DEPLOY_FAILED
    serve.run(Worker.bind(3))
    assert handle.remote().result() == 3


def test_a_constructor_that_never_ends_can_be_deleted(eventually: Eventually) -> None:
    @serve.deployment
    class Stuck:
        def __init__(self) -> None:
            time.sleep(1000)

    serve.run(Stuck.bind(), _blocking=False)
    eventually(lambda: serve.status().applications["default"].deployments["Stuck"].replica_states)
    assert serve.status().applications["default"].status is ApplicationStatus.DEPLOYING
    began = time.monotonic()
    serve.delete("default")
    assert time.monotonic() - began < 30 and replicas_alive() == []


def test_requests_under_way_end_before_their_deployment_is_deleted() -> None:
    handle = serve.run(Worker.bind())
    under_way = handle.remote(0.3)
    time.sleep(0.05)
    serve.delete("default")
    assert under_way.result(timeout_s=60) == 1
    with pytest.raises(DeploymentUnavailableError):
        handle.remote().result(timeout_s=60)


def test_a_request_that_outlasts_the_graceful_timeout_is_ended() -> None:
    handle = serve.run(Worker.options(graceful_shutdown_timeout_s=0.2).bind())
    under_way = handle.remote(1000)
    time.sleep(0.05)
    began = time.monotonic()
    serve.delete("default")
    assert time.monotonic() - began < 60
    with pytest.raises(RayActorError):
        under_way.result(timeout_s=60)


@serve.deployment(health_check_period_s=0.05, health_check_timeout_s=10)
class Patient:
    def __init__(self) -> None:
        self.sick = False

    async def fall_sick(self) -> int:
        self.sick = True
        return os.getpid()

    async def pid(self) -> int:
        return os.getpid()

    def check_health(self) -> None:
        if self.sick:
            raise RuntimeError("fever")


def test_a_replica_that_fails_its_health_checks_is_replaced(eventually: Eventually) -> None:
    handle = serve.run(Patient.bind())
    sick = handle.fall_sick.remote().result()
    eventually(lambda: handle.pid.remote().result() != sick)
    eventually(lambda: overview(deployment="Patient").status is DeploymentStatus.HEALTHY)


def test_a_health_check_that_does_not_answer_counts_as_failed(eventually: Eventually) -> None:
    @serve.deployment(health_check_period_s=0.05, health_check_timeout_s=0.3)
    class Silent:
        def __init__(self) -> None:
            self.checks = 0

        async def check_health(self) -> None:
            self.checks += 1
            if self.checks > 2:
                await asyncio.sleep(1000)

        async def pid(self) -> int:
            return os.getpid()

    handle = serve.run(Silent.bind())
    first = handle.pid.remote().result()
    eventually(lambda: handle.pid.remote().result() != first)


def test_user_config_reaches_replicas_that_go_on_running() -> None:
    @serve.deployment(version="1")
    class Configured:
        def __init__(self) -> None:
            self.seen: list[object] = []

        def reconfigure(self, config: object) -> None:
            if config == "bad":
                raise ValueError("no such model")
            self.seen.append(config)

        async def __call__(self) -> tuple[int, list[object]]:
            return os.getpid(), self.seen

    handle = serve.run(Configured.options(user_config={"a": 1}).bind())
    pid, seen = handle.remote().result()
    assert seen == [{"a": 1}]
    serve.run(Configured.options(user_config={"a": 2}).bind())
    assert handle.remote().result() == (pid, [{"a": 1}, {"a": 2}])
    with pytest.raises(RuntimeError, match="no such model"):
        serve.run(Configured.options(user_config="bad").bind())
    assert handle.remote().result(timeout_s=60)[1] == [{"a": 2}], "what was there before is kept up"


def test_user_config_without_reconfigure_says_so() -> None:
    with pytest.raises(RuntimeError, match="reconfigure"):
        serve.run(Worker.options(user_config=1).bind())


def test_code_that_cannot_be_pickled_is_told_of_at_once() -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        serve.run(Worker.bind(lock))


def test_routes_that_are_taken_and_wrong_arguments_are_told_of() -> None:
    serve.run(Worker.bind(), name="one", route_prefix="/one")
    with pytest.raises(ValueError, match="'/one'"):
        serve.run(Worker.bind(), name="two", route_prefix="/one")
    assert set(serve.status().applications) == {"one"}
    for wrong in ("one", "/one/", "/{x}"):
        with pytest.raises(ValueError, match="route_prefix"):
            serve.run(Worker.bind(), route_prefix=wrong)
    with pytest.raises(TypeError, match="bind"):
        serve.run(Worker)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bind"):
        serve.run(Worker.bind(Worker))


def test_a_deployment_that_nobody_deployed_is_unavailable() -> None:
    handle = DeploymentHandle("Nobody", "nowhere")
    with pytest.raises(DeploymentUnavailableError, match="Nobody"):
        handle.remote().result(timeout_s=60)


def test_many_threads_or_clients_do_not_slow_a_replica_that_runs_in_threads() -> None:
    @serve.deployment(max_ongoing_requests=50)
    def slow() -> None:
        time.sleep(0.2)

    handle = serve.run(slow.bind())
    began = time.monotonic()
    for response in [handle.remote() for _ in range(50)]:
        response.result()
    assert time.monotonic() - began < 8  # one after the other they take 10


def test_shutdown_leaves_nothing() -> None:
    serve.run(Worker.options(num_replicas=2).bind())
    serve.shutdown()
    rows: list[Any] = skate.util.list_named_actors(all_namespaces=True)
    assert [row for row in rows if row["namespace"] == "serve"] == []
    assert serve.status().applications == {}
    serve.start(proxy_location="Disabled")
    handle = serve.run(Worker.bind(7))
    assert handle.remote().result() == 7


def test_scale_from_zero_and_back(eventually: Eventually) -> None:
    scaling = {
        "min_replicas": 0, "max_replicas": 3, "target_ongoing_requests": 2, "look_back_period_s": 0.3,
        "metrics_interval_s": 0.1, "upscale_delay_s": 0.1, "downscale_delay_s": 0.3,
    }  # fmt: skip
    handle = serve.run(Worker.options(autoscaling_config=scaling).bind())
    assert overview().replica_states == {}
    responses = [handle.remote(0.5) for _ in range(10)]
    assert [response.result(timeout_s=60) for response in responses] == [1] * 10
    eventually(lambda: overview().replica_states == {})


def test_autoscaling_follows_a_load_up_and_down_and_fails_no_request(eventually: Eventually) -> None:
    scaling = {
        "min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 1, "look_back_period_s": 0.4,
        "metrics_interval_s": 0.1, "upscale_delay_s": 0.2, "downscale_delay_s": 0.5,
    }  # fmt: skip
    handle = serve.run(Worker.options(autoscaling_config=scaling).bind())
    with Load(handle, seconds=0.05, threads=6) as load:
        eventually(lambda: overview().replica_states.get("RUNNING") == 3)
    eventually(lambda: overview().replica_states == {"RUNNING": 1})
    assert load.errors == [] and len(load.values) > 10


def test_replicas_have_placement_groups_of_their_own_which_go_with_them(eventually: Eventually) -> None:
    @serve.deployment(num_replicas=2, placement_group_bundles=[{"CPU": 0.5}, {"CPU": 0.25}])
    def where() -> str | None:
        return skate.get_runtime_context().get_placement_group_id()

    handle = serve.run(where.bind())
    groups = set()
    eventually(lambda: groups.add(handle.remote().result()) or len(groups) == 2)
    assert None not in groups
    serve.delete("default")
    eventually(lambda: {row["state"] for row in skate.util.placement_group_table().values()} == {"REMOVED"})


def test_no_more_replicas_on_a_node_than_allowed(eventually: Eventually) -> None:
    serve.run(Worker.options(num_replicas=3, max_replicas_per_node=2).bind(), _blocking=False)
    eventually(lambda: overview().replica_states == {"RUNNING": 2, "STARTING": 1})
    time.sleep(0.3)
    assert overview().replica_states == {"RUNNING": 2, "STARTING": 1}, "there is one node"
    assert serve.status().applications["default"].status is ApplicationStatus.DEPLOYING
    serve.delete("default")
    assert replicas_alive() == []


def test_replicas_wait_for_resources_and_the_old_ones_serve_meanwhile() -> None:
    deployment = Worker.options(ray_actor_options={"num_cpus": 3})
    handle = serve.run(deployment.bind(1))
    with Load(handle, seconds=0.01, threads=2) as load:
        serve.run(deployment.bind(2))  # of the session's 4 CPUs: the old replica has to make room
    assert load.errors == [] and load.values[0] == 1
    assert handle.remote().result() == 2
