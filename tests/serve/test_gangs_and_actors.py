"""Replicas that begin and end together, and actors that the replicas of a deployment share."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

import skate
from skate import serve
from skate.serve import context
from skate.serve.config import DeploymentActorConfig, DeploymentConfig, GangSchedulingConfig
from skate.serve.exceptions import RayServeException
from skate.serve.state import DeploymentState
from skate.serve.target import Drain, Introduction, Kill, Phase, Start, Target

pytestmark = pytest.mark.usefixtures("clean")
Eventually = Callable[..., None]


@serve.deployment(num_replicas=4, gang_scheduling_config={"gang_size": 2}, graceful_shutdown_timeout_s=1)
class Member:
    def __call__(self) -> tuple[str, int, int, list[str], str, int]:
        here = serve.get_replica_context()
        gang = here.gang_context
        assert gang is not None
        own = here.replica_id.unique_id
        assert gang.member_replica_ids[gang.rank] == own
        return gang.gang_id, gang.rank, gang.world_size, gang.member_replica_ids, own, os.getpid()


def members(handle: Any) -> list[Any]:
    return sorted(handle.broadcast("__call__").results(timeout_s=60))


def running(app: str = "default", deployment: str = "Member") -> int:
    return serve.status().applications[app].deployments[deployment].replica_states.get("RUNNING", 0)


def test_each_replica_knows_its_gang() -> None:
    found = members(serve.run(Member.bind(), route_prefix=None))
    assert len(found) == 4
    assert len({gang for gang, *_ in found}) == 2
    assert [rank for _, rank, *_ in found] == [0, 1, 0, 1]
    assert all(size == 2 for _, _, size, *_ in found)


def test_when_one_dies_its_gang_is_replaced_and_the_other_serves_on(eventually: Eventually) -> None:
    handle = serve.run(Member.bind(), route_prefix=None)
    first, second, third, fourth = members(handle)
    os.kill(first[-1], signal.SIGKILL)

    def replaced() -> bool:
        try:
            now = members(handle)
        except skate.exceptions.RayActorError:
            return False
        names = {one[4] for one in now}
        return len(now) == 4 and {third[4], fourth[4]} <= names and not {first[4], second[4]} & names

    eventually(replaced)


def test_gangs_scale_whole_and_updates_replace_them_whole(eventually: Eventually) -> None:
    handle = serve.run(Member.bind(), route_prefix=None)
    old = {one[4] for one in members(handle)}
    serve.run(Member.options(num_replicas=6).bind(), route_prefix=None)
    eventually(lambda: running() == 6 and len(members(handle)) == 6)
    now = members(handle)
    assert not old & {one[4] for one in now}
    assert len({gang for gang, *_ in now}) == 3


def test_a_gang_has_a_placement_group_that_goes_with_it_also_after_the_controller_died(eventually: Eventually) -> None:
    def groups() -> int:
        table = skate.util.placement_group_table()
        return sum(
            row["state"] == "CREATED" and row["name"].startswith("SKATE_SERVE_GROUP::") for row in table.values()
        )

    app = Member.options(num_replicas=2, ray_actor_options={"num_cpus": 0.5})
    serve.run(app.bind(), route_prefix=None)
    assert groups() == 1
    skate.kill(context.controller(), no_restart=False)
    eventually(lambda: running() == 2)
    serve.delete("default")
    eventually(lambda: groups() == 0)


def test_groups_of_replicas_that_went_while_the_controller_was_away_are_given_back(eventually: Eventually) -> None:
    bundles = [{"CPU": 0.25}]
    serve.run(Member.options(gang_scheduling_config=None, placement_group_bundles=bundles).bind(), route_prefix=None)

    def groups() -> int:
        table = skate.util.placement_group_table()
        return sum(row["state"] == "CREATED" for row in table.values())

    assert groups() == 4
    stopped = skate.get(context.controller().__ray_call__.remote(lambda _: os.getpid()))
    os.kill(stopped, signal.SIGSTOP)
    names = [row["name"] for row in skate.util.list_named_actors(all_namespaces=True)]
    for name in filter(context.is_replica, names):
        skate.kill(skate.get_actor(name, namespace=context.NAMESPACE))
    os.kill(stopped, signal.SIGKILL)
    eventually(lambda: running() == 4)
    eventually(lambda: groups() == 4)
    serve.delete("default")
    eventually(lambda: groups() == 0)


def test_no_half_gang_is_started_where_there_is_no_room(eventually: Eventually) -> None:
    app = Member.options(num_replicas=4, ray_actor_options={"num_cpus": 1.5})  # of 4 CPUs: one gang, not two
    serve.run(app.bind(), route_prefix=None, _blocking=False)
    eventually(lambda: running() == 2)
    time.sleep(0.3)
    assert running() == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_replicas": 3}, "multiple"),
        ({"max_replicas_per_node": 1}, "max_replicas_per_node"),
        ({"placement_group_strategy": "PACK"}, "placement_group_strategy"),
        ({"num_replicas": "auto"}, "min_replicas"),
        ({"gang_scheduling_config": {"gang_size": 0}}, "gang_size"),
        ({"gang_scheduling_config": {}}, "gang_size"),
        ({"gang_scheduling_config": {"gang_size": 2, "gang_placement_strategy": "NEAR"}}, "gang_placement_strategy"),
    ],
)
def test_wrong_gangs_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Member.options(**options)
    with pytest.raises(NotImplementedError, match="RESTART_GANG"):
        GangSchedulingConfig(2, runtime_failure_policy="RESTART_REPLICA")  # type: ignore[arg-type]


def gang_target(replicas: int, version: str = "1", **options: Any) -> Target:
    config = DeploymentConfig(num_replicas=replicas, gang_scheduling_config=GangSchedulingConfig(2), **options)
    return Target(config, version, replicas=replicas)


def test_decisions_about_gangs_are_whole() -> None:
    state = DeploymentState("app", "d")
    state.deploy(gang_target(4), 0.0)
    begun = [one for one in state.decide(0.0) if isinstance(one, Start)]
    assert [one.gang.rank for one in begun if one.gang] == [0, 1, 0, 1]
    state.started(begun[0].replica, 1.0)
    state.failed(begun[1].replica, "no", 1.0)  # its partner, which runs, goes too
    commands = state.decide(1.0)
    assert Drain(begun[0].replica) in commands
    state.died(begun[0].replica, "ended", 1.0)
    again = [one for one in state.decide(2.0) if isinstance(one, Start)]
    assert len(again) == 2
    assert {one.gang.gang_id for one in again if one.gang} != {begun[0].gang.gang_id if begun[0].gang else ""}
    for one in (*begun[2:], *again):
        state.started(one.replica, 3.0)
    state.decide(3.0)
    assert state.scale(1)
    assert state.target is not None
    assert state.target.replicas == 2, "half a gang is none"
    stopped = [one for one in state.decide(4.0) if isinstance(one, Drain | Kill)]
    assert {one.replica for one in stopped} in ({each.replica for each in again}, {each.replica for each in begun[2:]})


def test_gangs_of_which_some_are_missing_after_a_restart_are_ended() -> None:
    state = DeploymentState("app", "d")
    state.deploy(gang_target(2), 0.0)
    one, other = (each for each in state.decide(0.0) if isinstance(each, Start))
    anew = DeploymentState("app", "d")
    anew.deploy(gang_target(2), 0.0)
    anew.adopt(one.replica, Introduction(one.target, 0, 0, {}, {}, one.gang, False), 1.0)
    anew.mend_gangs(1.0)
    assert anew.replicas[one.replica].phase is Phase.STOPPING
    assert Drain(one.replica) in anew.decide(1.0)
    del other


# ------------------------------------------------------------------ actors


@skate.remote
class Counter:
    def __init__(self, start: int = 0, *, step: int = 1) -> None:
        self.count, self.step = start, step

    def add(self) -> int:
        self.count += self.step
        return self.count

    def where(self) -> tuple[str, str, str, int]:
        here = serve.get_deployment_actor_context()
        return here.app_name, here.deployment, here.actor_name, os.getpid()


COUNTER = {"name": "counter", "actor_class": Counter, "init_args": [10], "init_kwargs": {"step": 5}}


@serve.deployment(num_replicas=2, deployment_actors=[COUNTER], health_check_period_s=0.1)
class User:
    def __init__(self) -> None:
        serve.get_deployment_actor("counter")  # it is there before any replica

    async def __call__(self) -> int:
        return int(await serve.get_deployment_actor("counter").add.remote())

    async def where(self) -> Any:
        return await serve.get_deployment_actor("counter").where.remote()

    def other(self) -> None:
        serve.get_deployment_actor("other")


def shared() -> list[str]:
    rows: list[Any] = skate.util.list_named_actors(all_namespaces=True)
    return [row["name"] for row in rows if row["name"].startswith("SERVE_DEPLOYMENT_ACTOR::")]


def test_replicas_share_an_actor_that_goes_with_the_deployment(eventually: Eventually) -> None:
    handle = serve.run(User.bind(), route_prefix=None)
    assert sorted(handle.remote().result(timeout_s=60) for _ in range(4)) == [15, 20, 25, 30]
    assert handle.where.remote().result(timeout_s=60)[:3] == ("default", "User", "counter")
    with pytest.raises(ValueError, match="other"):
        handle.other.remote().result(timeout_s=60)
    serve.delete("default")
    eventually(lambda: not shared())


def test_an_actor_that_died_is_replaced_also_by_a_controller_that_was_restarted(eventually: Eventually) -> None:
    handle = serve.run(User.bind(), route_prefix=None)

    def kill_it() -> None:
        before = handle.where.remote().result(timeout_s=60)[3]
        os.kill(before, signal.SIGKILL)

        def back() -> bool:
            try:
                return bool(handle.where.remote().result(timeout_s=60)[3] != before)
            except (skate.exceptions.RayActorError, ValueError):
                return False

        eventually(back)

    kill_it()
    skate.kill(context.controller(), no_restart=False)
    eventually(lambda: running("default", "User") == 2)
    replica_pids = set(handle.broadcast("where").results(timeout_s=60))
    assert len(replica_pids) == 1
    serve.delete("default")
    eventually(lambda: not shared())


def test_a_new_version_has_actors_of_its_own_and_those_of_the_old_go(eventually: Eventually) -> None:
    handle = serve.run(User.bind(), route_prefix=None)
    before = handle.where.remote().result(timeout_s=60)[3]
    other = {**COUNTER, "init_kwargs": {"step": 100}}
    serve.run(User.options(deployment_actors=[other]).bind(), route_prefix=None)
    assert handle.where.remote().result(timeout_s=60)[3] != before
    assert handle.remote().result(timeout_s=60) == 110
    eventually(lambda: len(shared()) == 1)


@skate.remote
class Unlucky:
    def __init__(self) -> None:
        raise FileNotFoundError("no such index")


def test_an_actor_whose_constructor_raises_fails_the_deploy_and_is_named() -> None:
    app = User.options(deployment_actors=[{"name": "counter", "actor_class": Unlucky}], max_constructor_retry_count=2)
    with pytest.raises(RuntimeError, match="no such index"):
        serve.run(app.bind(), route_prefix=None)


def test_wrong_actors_and_places_are_told_of() -> None:
    with pytest.raises(RayServeException, match="replica"):
        serve.get_deployment_actor("counter")
    with pytest.raises(RayServeException, match="actor"):
        serve.get_deployment_actor_context()
    for given, named in (
        ([{"name": "a"}], "actor_class"),
        ([{"name": "a", "actor_class": int}], "remote"),
        ([{**COUNTER, "actor_options": {"name": "x"}}], "name"),
        ([COUNTER, COUNTER], "several"),
        (5, "list"),
        ([{"name": "a", "actor_class": "nowhere:Nothing"}], "nowhere"),
    ):
        with pytest.raises((ValueError, ImportError), match=named):
            User.options(deployment_actors=given)
    assert DeploymentActorConfig(**COUNTER).get_actor_class() is not None  # type: ignore[arg-type]
