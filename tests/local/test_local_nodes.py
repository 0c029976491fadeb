"""Virtual nodes for real: processes that die with theirs, values that are made again, sessions that come and go."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import pytest
from programs import eventually

import skate
from skate.cluster_utils import Cluster
from skate.core import engine as engines
from skate.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectReconstructionFailedError,
    OwnerDiedError,
    TaskUnschedulableError,
)
from skate.testing import nodes as rehearsal
from skate.testing.chaos import leftovers
from skate.testing.faults import FaultPlan, inject
from skate.testing.replay import replay
from skate.util import get_node_ip_address
from skate.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LARGE = 200_000


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head of 2 CPUs and a session on it; nodes are the test's to add."""
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 2})
    yield cluster
    skate.shutdown()
    cluster.shutdown()


def on(node: Any, soft: bool = False) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node.node_id, soft=soft)


@skate.remote
def here(seconds: float = 0.0, begun: Path | None = None) -> str:
    if begun is not None:
        begun.touch()
    time.sleep(seconds)
    return skate.get_runtime_context().get_node_id()


@skate.remote
def large(byte: int) -> Any:
    return numpy.full(LARGE, byte, numpy.uint8)


@skate.remote
def put_inside() -> list[Any]:
    return [skate.put(bytes(LARGE))]


@skate.remote(num_cpus=0.1)
class Home:
    def __init__(self) -> None:
        self.calls = 0

    def where(self, seconds: float = 0.0) -> tuple[str, int]:
        time.sleep(seconds)
        self.calls += 1
        return skate.get_runtime_context().get_node_id(), self.calls

    def pid(self) -> int:
        return os.getpid()

    def hold(self, path: str) -> None:
        Path(path).touch()
        time.sleep(600)


def gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


# --------------------------------------------------------------------------- places


def test_a_call_runs_where_it_is_sent_and_knows_where_it_is(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1, labels={"zone": "b"})
    assert skate.get(here.options(scheduling_strategy=on(node)).remote()) == node.node_id
    assert skate.get(here.options(scheduling_strategy=on(cluster.head_node)).remote()) == cluster.head_node.node_id  # type: ignore[union-attr]
    assert skate.get(here.options(label_selector={"zone": "b"}).remote()) == node.node_id
    assert skate.get_runtime_context().get_node_id() == cluster.head_node.node_id  # type: ignore[union-attr]
    home = Home.options(scheduling_strategy=on(node)).remote()
    assert skate.get(home.where.remote())[0] == node.node_id


def test_nodes_have_addresses_and_labels_of_their_own(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1, labels={"zone": "b"}, node_name="second")
    rows = {row["NodeID"]: row for row in skate.nodes()}
    assert rows[node.node_id]["NodeName"] == "second" and rows[node.node_id]["Labels"]["zone"] == "b"
    assert rows[node.node_id]["NodeManagerAddress"] == node.node_ip_address == "127.0.0.2"

    @skate.remote
    def facts() -> tuple[str, dict[str, str]]:
        return get_node_ip_address(), skate.get_runtime_context().get_node_labels()

    address, labels = skate.get(facts.options(resources={"node:127.0.0.2": 0.1}).remote())
    assert address == "127.0.0.2" and labels == {"zone": "b", "ray.io/node-id": node.node_id}
    assert get_node_ip_address() == "127.0.0.1"


def test_spread_uses_every_node(cluster: Cluster) -> None:
    others = [cluster.add_node(num_cpus=2) for _ in range(3)]
    spread = here.options(scheduling_strategy="SPREAD")
    homes = skate.get([spread.remote(0.2) for _ in range(8)])
    assert sorted(homes.count(node.node_id) for node in cluster.list_all_nodes()) == [2, 2, 2, 2]
    assert len(others) == 3


def test_resources_are_counted_on_each_node(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=3, resources={"disk": 2})
    assert skate.cluster_resources()["CPU"] == 5 and skate.cluster_resources()["disk"] == 2
    too_large = here.options(num_cpus=4).remote()
    with pytest.raises(TaskUnschedulableError, match="CPU: 4"):
        skate.get(too_large)


def test_what_nothing_could_run_runs_on_a_node_that_is_added(cluster: Cluster, capsys: Any) -> None:
    waiting = here.options(resources={"disk": 1}).remote()
    assert skate.wait([waiting], timeout=0.1) == ([], [waiting])
    assert "can never run here" in capsys.readouterr().err
    node = cluster.add_node(num_cpus=1, resources={"disk": 1})
    assert skate.get(waiting, timeout=60) == node.node_id


# -------------------------------------------------------------------------- removal


def test_a_removed_node_takes_its_workers_along(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1)
    home = Home.options(scheduling_strategy=on(node)).remote()
    pid = skate.get(home.pid.remote())
    cluster.remove_node(node)
    assert gone(pid)
    with pytest.raises(ActorDiedError, match="its node has died"):
        skate.get(home.where.remote(), timeout=60)
    assert [row["Alive"] for row in skate.nodes() if row["NodeID"] == node.node_id] == [False]
    assert skate.cluster_resources()["CPU"] == 2


def test_a_task_is_tried_again_elsewhere_or_tells_that_its_node_died(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=3)
    again = here.options(scheduling_strategy=on(node, soft=True)).remote(1, tmp_path / "again")
    never = here.options(scheduling_strategy=on(node, soft=True), max_retries=0).remote(60, tmp_path / "never")
    nowhere = here.options(scheduling_strategy=on(node)).remote(60, tmp_path / "nowhere")
    assert eventually(lambda: len(list(tmp_path.iterdir())) == 3)
    cluster.remove_node(node)
    assert skate.get(again, timeout=60) == cluster.head_node.node_id  # type: ignore[union-attr]
    with pytest.raises(NodeDiedError, match=node.node_id):
        skate.get(never, timeout=60)
    with pytest.raises(TaskUnschedulableError):
        skate.get(nowhere, timeout=60)


def test_an_actor_is_restarted_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1)
    home = Home.options(scheduling_strategy=on(node, soft=True), max_restarts=1).remote()
    assert skate.get(home.where.remote()) == (node.node_id, 1)
    held = home.hold.remote(str(tmp_path / "held"))
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    cluster.remove_node(node)
    with pytest.raises(ActorUnavailableError, match="its node has died"):
        skate.get(held, timeout=60)
    assert skate.get(home.where.remote(), timeout=60) == (cluster.head_node.node_id, 1)  # type: ignore[union-attr]


def test_values_that_lay_there_are_made_again(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=2)
    refs = [large.options(scheduling_strategy=on(node, soft=True)).remote(i) for i in range(4)]
    skate.wait(refs, num_returns=4, timeout=60)
    total = here.remote()
    skate.get(total)
    cluster.remove_node(node)
    for i, ref in enumerate(refs):
        assert skate.get(ref, timeout=60).tolist() == [i] * LARGE


def test_what_was_read_elsewhere_is_not_made_again(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1)

    @skate.remote
    def once(path: str) -> Any:
        with open(path, "a") as file:
            file.write("made\n")
        return numpy.ones(LARGE, numpy.uint8)

    ref = once.options(scheduling_strategy=on(node, soft=True)).remote(str(tmp_path / "made"))
    array = skate.get(ref)
    cluster.remove_node(node)
    assert array.all() and skate.get(ref).all()
    assert (tmp_path / "made").read_text() == "made\n"


def test_what_cannot_be_made_again_is_lost(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1)
    once = large.options(scheduling_strategy=on(node), max_retries=0).remote(7)
    (inner,) = skate.get(put_inside.options(scheduling_strategy=on(node)).remote())
    skate.wait([once], timeout=60)
    cluster.remove_node(node)
    with pytest.raises(ObjectReconstructionFailedError, match="max_retries=0"):
        skate.get(once, timeout=60)
    with pytest.raises(OwnerDiedError):
        skate.get(inner, timeout=60)


def test_a_thread_that_waits_in_get_hears_of_a_loss(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1)
    skate.get(
        here.options(scheduling_strategy=on(node)).remote(), timeout=60
    )  # a worker is up: the next begins at once
    ref = here.options(scheduling_strategy=on(node), max_retries=0).remote(60)
    seen: list[BaseException] = []

    def wait() -> None:
        try:
            skate.get(ref)
        except NodeDiedError as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    cluster.remove_node(node)
    thread.join(90)
    assert len(seen) == 1


def test_nothing_is_left_when_a_node_has_gone(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=2)
    refs = [large.options(scheduling_strategy=on(node, soft=True)).remote(i) for i in range(4)]
    homes = [Home.options(scheduling_strategy=on(node, soft=True), max_restarts=-1).remote() for _ in range(2)]
    skate.get([home.where.remote() for home in homes])
    cluster.remove_node(node)
    skate.get(refs, timeout=60)
    del refs, homes
    assert leftovers(engines.running()) == []


def test_tasks_and_actors_cannot_remove_nodes(cluster: Cluster) -> None:
    @skate.remote
    def remove(node: str) -> str:
        try:
            engines.current().remove_node(node)
        except RuntimeError as error:
            return str(error)
        return ""

    node = cluster.add_node()
    assert "driver" in skate.get(remove.remote(node.node_id))


# ------------------------------------------------------------------------ init(nodes=)


def test_init_starts_several_nodes() -> None:
    skate.init(nodes=[{"num_cpus": 1}, {"num_cpus": 2, "resources": {"disk": 1}, "labels": {"zone": "b"}, "name": "b"}])
    try:
        rows = skate.nodes()
        assert [row["Resources"]["CPU"] for row in rows] == [1, 2] and rows[1]["NodeName"] == "b"
        assert skate.get(here.options(label_selector={"zone": "b"}).remote()) == rows[1]["NodeID"]
        assert rows[0]["NodeID"] == skate.get_runtime_context().get_node_id()
        assert "node:__internal_head__" in rows[0]["Resources"] and "node:__internal_head__" not in rows[1]["Resources"]
    finally:
        skate.shutdown()


@pytest.mark.parametrize(
    ("nodes", "error", "what"),
    [
        ([], TypeError, "a list of one dict or more"),
        ("two", TypeError, "a list"),
        ([{"num_cpus": 1}, 7], TypeError, r"nodes\[1\]"),
        ([{"cpus": 1}], ValueError, "no cpus"),
        ([{"num_cpus": -1}], ValueError, "zero or more"),
        ([{"num_cpus": "2"}], TypeError, "number"),
        ([{"resources": {"CPU": 1}}], ValueError, "num_cpus"),
        ([{"labels": {"zone": 1}}], TypeError, "strings"),
        ([{"name": 3}], TypeError, "string"),
        ([{"object_store_memory": 10}], ValueError, "75 MB"),
    ],
)
def test_nodes_of_the_wrong_form_are_refused(nodes: Any, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what):
        skate.init(nodes=nodes)
    assert not skate.is_initialized()


def test_what_a_node_has_is_said_once() -> None:
    with pytest.raises(ValueError, match="num_cpus, labels cannot be given as well"):
        skate.init(nodes=[{"num_cpus": 1}], num_cpus=2, labels={"a": "b"})


def test_the_inline_engine_has_one_node() -> None:
    with pytest.raises(NotImplementedError, match="one node"):
        skate.init(engine="inline", nodes=[{"num_cpus": 1}, {"num_cpus": 1}])
    assert not skate.is_initialized()
    skate.init(engine="inline", nodes=[{"num_cpus": 3}])
    try:
        assert skate.cluster_resources()["CPU"] == 3
    finally:
        skate.shutdown()


# ------------------------------------------------------------------------ cluster_utils


def test_nodes_can_be_declared_before_the_session_and_keep_their_ids_after_it() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": {"x": 1}})
    try:
        node = cluster.add_node(num_cpus=1, include_dashboard=False)
        for _ in range(2):
            assert not cluster.connected
            skate.init(address=cluster.address)
            assert cluster.connected
            cluster.wait_for_nodes()
            assert skate.get(here.options(scheduling_strategy=on(node)).remote()) == node.node_id
            skate.shutdown()
        cluster.remove_node(node)
        skate.init()  # finds the cluster, as Ray does
        assert [row["NodeID"] for row in skate.nodes()] == [cluster.head_node.node_id]  # type: ignore[union-attr]
    finally:
        skate.shutdown()
        cluster.shutdown()


def test_a_session_of_its_own_is_had_by_asking_for_it() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 7})
    try:
        with pytest.raises(ValueError, match="the cluster has its nodes already"):
            skate.init(num_cpus=1)
        skate.init(address="local", num_cpus=1)
        assert skate.cluster_resources()["CPU"] == 1 and not cluster.connected
    finally:
        skate.shutdown()
        cluster.shutdown()
    with pytest.raises(ConnectionError):
        skate.init(address="skate-cluster-that-is-not")


def test_the_head_cannot_be_removed_under_a_session() -> None:
    cluster = Cluster(initialize_head=True, connect=True)
    other = cluster.add_node()
    assert cluster.list_all_nodes() == [cluster.head_node, other] and cluster.worker_nodes == {other}
    with pytest.raises(ValueError, match="head node"):
        cluster.remove_node(cluster.head_node)  # type: ignore[arg-type]
    assert not skate.is_initialized(), "as in Ray"
    cluster.remove_node(cluster.head_node)  # type: ignore[arg-type]
    assert cluster.address is None
    cluster.shutdown()


def test_a_cluster_without_a_head_cannot_be_joined() -> None:
    with pytest.raises(RuntimeError, match="initialize_head"):
        Cluster(connect=True)
    cluster = Cluster()
    assert cluster.address is None and cluster.list_all_nodes() == []
    with pytest.raises(AssertionError, match="no head"):
        cluster.connect()
    with pytest.raises(ValueError, match="no cpus"):
        cluster.add_node(cpus=2)


def test_removing_twice_is_refused(cluster: Cluster) -> None:
    node = cluster.add_node()
    cluster.remove_node(node)
    with pytest.raises(ValueError, match="no node of this cluster"):
        cluster.remove_node(node)


# -------------------------------------------------------------------------- rehearsal


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_results_are_right_while_nodes_come_and_go(seed: int) -> None:
    log = rehearsal.rehearse(seed, rounds=4, limit=150)
    kinds = [fault.kind for fault in log]
    assert kinds.count("remove_node") >= 3 and kinds.count("add_node") >= 2


def test_a_trace_with_nodes_is_decided_the_same_again(tmp_path: Path) -> None:
    skate.init(nodes=[{"num_cpus": 2}, {"num_cpus": 2}, {"num_cpus": 1}], log_to_driver=False)
    try:
        with inject(FaultPlan(seed=4, node_every=15), trace=tmp_path / "trace") as log:
            rehearsal.map_reduce(1, 30)
            rehearsal.pipeline(2, 30)
    finally:
        skate.shutdown()
    done = replay(tmp_path / "trace")
    assert len(done.hub.scheduler.dead) == sum(fault.kind == "remove_node" for fault in log) > 0


def test_a_plan_leaves_as_many_nodes_as_it_says() -> None:
    skate.init(nodes=[{"num_cpus": 1}, {"num_cpus": 1}, {"num_cpus": 1}], log_to_driver=False)
    try:
        with inject(FaultPlan(seed=1, node_every=2, least_nodes=3)) as log:
            skate.get([here.remote() for _ in range(20)])
        assert log == [] and len(skate.nodes()) == 3
    finally:
        skate.shutdown()
    with pytest.raises(ValueError, match="never removed"):
        FaultPlan(least_nodes=0)
    with pytest.raises(ValueError, match="node_every"):
        FaultPlan(node_every=-1)
