"""Placement groups with processes and nodes: what dies with them, what moves, what a trace tells."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import eventually, output_of

import skate
from skate.cluster_utils import Cluster
from skate.core import engine as engines
from skate.exceptions import ActorDiedError, TaskPlacementGroupRemoved, TaskUnschedulableError
from skate.testing.replay import replay
from skate.util import (
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from skate.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Inside


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head of 2 CPUs and a session on it; nodes are the test's to add."""
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 2})
    yield cluster
    skate.shutdown()
    cluster.shutdown()


@skate.remote
def here() -> str:
    return skate.get_runtime_context().get_node_id()


@skate.remote(num_cpus=1)
class Home:
    def where(self) -> str:
        return skate.get_runtime_context().get_node_id()

    def pid(self) -> int:
        return os.getpid()


def nodes_of(group: Any) -> list[str]:
    return list(placement_group_table(group)["bundles_to_node_id"].values())


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


# --------------------------------------------------------------------------- nodes


def test_strategies_over_nodes(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=2)
    cluster.add_node(num_cpus=2)
    bundles = [{"CPU": 1}, {"CPU": 1}]
    for strategy, count in (("PACK", 1), ("STRICT_PACK", 1), ("SPREAD", 2), ("STRICT_SPREAD", 2)):
        group = placement_group(bundles, strategy=strategy)
        assert group.wait(30)
        assert len(set(nodes_of(group))) == count
        places = [skate.get(here.options(scheduling_strategy=Inside(group, n)).remote(), timeout=60) for n in (0, 1)]
        assert places == nodes_of(group)
        remove_placement_group(group)
    assert not placement_group([{"CPU": 1}] * 4, strategy="STRICT_SPREAD").wait(0.1)


def test_labels_and_wishes_choose_the_node_of_a_bundle(cluster: Cluster) -> None:
    north = cluster.add_node(num_cpus=2, labels={"zone": "north"})
    south = cluster.add_node(num_cpus=2, labels={"zone": "south"})
    selected = placement_group([{"CPU": 1}] * 2, bundle_label_selector=[{"zone": "south"}, {"zone": "!south"}])
    assert selected.wait(30)
    assert nodes_of(selected)[0] == south.node_id and nodes_of(selected)[1] != south.node_id
    wished = placement_group([{"CPU": 1}], strategy="STRICT_PACK", _soft_target_node_id=north.node_id)
    assert wished.wait(30) and nodes_of(wished) == [north.node_id]
    together = placement_group(
        [{"CPU": 1}], topology_strategy={"zone": "STRICT_PACK", "ray.io/node-id": "STRICT_SPREAD"}
    )
    assert together.wait(30) and nodes_of(together)[0] in (north.node_id, south.node_id)


def test_a_group_that_nothing_here_can_take_is_placed_when_a_node_comes(cluster: Cluster) -> None:
    group = placement_group([{"CPU": 4}])
    task = here.options(num_cpus=4, scheduling_strategy=Inside(group)).remote()
    with pytest.raises(TaskUnschedulableError, match="CPU: 4"):
        skate.get(group.ready())
    node = cluster.add_node(num_cpus=4)
    assert skate.get(group.ready(), timeout=60) == group
    late = here.options(num_cpus=4, scheduling_strategy=Inside(group)).remote()
    assert skate.get(late, timeout=60) == node.node_id
    del task


def test_bundles_move_when_their_node_dies(cluster: Cluster) -> None:
    first = cluster.add_node(num_cpus=3)
    group = placement_group([{"CPU": 3}], name="mover")
    assert group.wait(30) and nodes_of(group) == [first.node_id]
    home = Home.options(max_restarts=-1, max_task_retries=-1, scheduling_strategy=Inside(group)).remote()
    assert skate.get(home.where.remote(), timeout=60) == first.node_id
    cluster.remove_node(first)
    assert placement_group_table(group)["state"] == "RESCHEDULING" and not group.wait(0.1)
    second = cluster.add_node(num_cpus=3)
    assert get_placement_group("mover").wait(30) and nodes_of(group) == [second.node_id]
    assert skate.get(home.where.remote(), timeout=60) == second.node_id
    assert skate.get(here.options(scheduling_strategy=Inside(group)).remote(), timeout=60) == second.node_id
    remove_placement_group(group)
    assert skate.available_resources()["CPU"] == 5


def test_the_rest_of_a_group_stays_where_it_is(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1)
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert group.wait(30)
    lost = nodes_of(group).index(node.node_id)
    stays = Home.options(scheduling_strategy=Inside(group, 1 - lost)).remote()
    pid = skate.get(stays.pid.remote(), timeout=60)
    cluster.remove_node(node)
    assert nodes_of(group)[lost] == "" and skate.get(stays.pid.remote(), timeout=60) == pid
    third = cluster.add_node(num_cpus=1)
    assert group.wait(30) and nodes_of(group)[lost] == third.node_id
    assert skate.get(stays.pid.remote(), timeout=60) == pid


# -------------------------------------------------------------------------- removal


def test_removal_kills_what_runs_inside(session: None, tmp_path: Path) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    actor = Home.options(scheduling_strategy=Inside(group, 0)).remote()
    pids = [skate.get(actor.pid.remote(), timeout=60)]

    @skate.remote(max_retries=0)
    def hang(path: str) -> None:
        Path(path).write_text(str(os.getpid()))
        time.sleep(600)

    ref = hang.options(scheduling_strategy=Inside(group, 1)).remote(str(tmp_path / "pid"))
    assert eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pids.append(int((tmp_path / "pid").read_text()))
    remove_placement_group(group)
    assert skate.available_resources()["CPU"] == 2
    with pytest.raises(ActorDiedError, match="placement group was removed"):
        skate.get(actor.where.remote(), timeout=60)
    with pytest.raises(skate.exceptions.WorkerCrashedError, match="placement group was removed"):
        skate.get(ref, timeout=60)
    assert eventually(lambda: all(map(gone, pids)))
    assert skate.available_resources()["CPU"] == 2, "not given back again when they were reaped"


def test_removal_while_a_task_inside_waits_for_another(session: None) -> None:
    group = placement_group([{"CPU": 2}])

    @skate.remote(max_retries=0)
    def child() -> None:
        time.sleep(600)

    @skate.remote(max_retries=0)
    def parent() -> None:
        skate.get(child.remote())

    strategy = Inside(group, placement_group_capture_child_tasks=True)
    refs = [parent.options(scheduling_strategy=strategy).remote() for _ in range(2)]
    assert eventually(lambda: sum(row["state"].startswith("RUNNING") for row in engines.current().state("tasks")) == 4)
    remove_placement_group(group)
    for ref in refs:
        with pytest.raises((skate.exceptions.WorkerCrashedError, TaskPlacementGroupRemoved)):
            skate.get(ref, timeout=60)
    assert eventually(lambda: skate.available_resources()["CPU"] == 2)
    assert skate.get(here.remote(), timeout=60)


def test_a_task_ends_the_group_that_it_runs_in(session: None) -> None:
    group = placement_group([{"CPU": 1}])

    @skate.remote
    def saw(group: Any) -> None:
        remove_placement_group(group)
        time.sleep(600)

    with pytest.raises(TaskPlacementGroupRemoved):
        skate.get(saw.options(scheduling_strategy=Inside(group)).remote(group), timeout=60)


def test_many_groups_come_and_go(session: None) -> None:
    for _ in range(3):
        groups = [placement_group([{"CPU": 0.01}]) for _ in range(150)]
        homes = [Home.options(num_cpus=0, scheduling_strategy=Inside(group)).remote() for group in groups[:10]]
        assert len({skate.get(home.pid.remote(), timeout=150) for home in homes}) == 10
        calls = [here.options(num_cpus=0.01, scheduling_strategy=Inside(group)).remote() for group in groups[10:40]]
        assert len(skate.get(calls, timeout=150)) == 30
        for group in groups:
            remove_placement_group(group)
        del homes
    assert skate.available_resources()["CPU"] == 2
    scheduler = engines.current().host.hub.scheduler  # type: ignore[attr-defined]
    assert not any(family.where is not None for family in scheduler.families.values()), "families of groups are left"


# ---------------------------------------------------------------------------- others


def test_groups_of_a_driver_go_with_it() -> None:
    address = skate.init(engine="local", num_cpus=4, namespace="host").address_info["session_dir"]
    try:
        own = placement_group([{"CPU": 1}])
        text = """ray.init(address=sys.argv[1], namespace="guests")
from skate.util import placement_group

@ray.remote(num_cpus=0)
def make():
    group = placement_group([{"CPU": 1}], name="by-a-task")
    return group.wait(10)

kept = placement_group([{"CPU": 1}], name="kept", lifetime="detached")
left = placement_group([{"CPU": 1}], name="left")
print(ray.get([kept.ready(), left.ready()])[0] == kept, ray.get(make.remote()))
print(sorted(row["name"] for row in ray.util.placement_group_table().values()))
"""
        assert output_of(text, address).splitlines() == ["True True", "['', 'by-a-task', 'kept', 'left']"]
        states = {"kept": "CREATED", "left": "REMOVED", "by-a-task": "REMOVED", "": "CREATED"}
        assert eventually(
            lambda: {row["name"]: row["state"] for row in placement_group_table().values()} == states,
        )
        with pytest.raises(ValueError, match="kept"):
            get_placement_group("kept")  # it has the name in another namespace
        assert own.wait(0)
    finally:
        skate.shutdown()


def test_a_trace_with_groups_replays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace"
    monkeypatch.setenv("SKATE_TRACE", str(path))
    skate.init(engine="local", num_cpus=2)
    try:

        @skate.remote
        def nested() -> bool:
            inner = placement_group([{"CPU": 0.5}])
            ready = inner.wait(10)
            remove_placement_group(inner)
            return ready

        group = placement_group([{"CPU": 1}])
        assert skate.get(nested.options(scheduling_strategy=Inside(group)).remote(), timeout=60)
        hopeless = placement_group([{"CPU": 99}])
        ref = hopeless.ready()
        remove_placement_group(hopeless)
        with pytest.raises(TaskPlacementGroupRemoved):
            skate.get(ref, timeout=60)
        remove_placement_group(group)
    finally:
        skate.shutdown()
    assert replay(path).events > 5
