"""Several nodes on one machine: what runs where, and what becomes of it when its node goes."""

import importlib
import time

import pytest

from skate.testing.contract import target
from skate.testing.contract.tools import eventually

INIT = None
pytestmark = pytest.mark.skipif(target.ENGINE == "inline", reason="one process is one node")


@pytest.fixture
def cluster(ray):
    """A head with 1 CPU, and a session on it."""
    utils = importlib.import_module(f"{target.PACKAGE}.cluster_utils")
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def added(cluster, **arguments):
    """A node, when the session knows it."""
    node = cluster.add_node(**arguments)
    cluster.wait_for_nodes()
    return node


def affinity(node, soft=False, **more):
    module = importlib.import_module(f"{target.PACKAGE}.util.scheduling_strategies")
    return module.NodeAffinitySchedulingStrategy(node_id=node.node_id, soft=soft, **more)


def here(ray, **options):
    @ray.remote(**{"num_cpus": 0.1, **options})
    def f(seconds=0, begun=None):
        if begun is not None:
            begun.add()
        time.sleep(seconds)
        return ray.get_runtime_context().get_node_id()

    return f


def home(ray, **options):
    @ray.remote(**{"num_cpus": 0.1, **options})
    class A:
        def where(self, seconds=0):
            time.sleep(seconds)
            return ray.get_runtime_context().get_node_id()

    return A


def test_calls_go_where_they_are_sent(ray, cluster):
    node = added(cluster, num_cpus=1, resources={"disk": 1}, labels={"zone": "b"})
    assert ray.get(here(ray, scheduling_strategy=affinity(node)).remote()) == node.node_id
    assert ray.get(here(ray, scheduling_strategy=affinity(cluster.head_node)).remote()) == cluster.head_node.node_id
    assert ray.get(here(ray, resources={"disk": 1}).remote()) == node.node_id
    assert ray.get(here(ray, label_selector={"zone": "b"}).remote()) == node.node_id
    assert ray.get(home(ray, scheduling_strategy=affinity(node)).remote().where.remote()) == node.node_id
    assert ray.get_runtime_context().get_node_id() == cluster.head_node.node_id
    assert ray.cluster_resources()["CPU"] == 2


def test_spread_uses_all_nodes(ray, cluster):
    nodes = [cluster.head_node, added(cluster, num_cpus=1), added(cluster, num_cpus=1)]
    task = here(ray, num_cpus=1, scheduling_strategy="SPREAD")
    assert set(ray.get([task.remote(1) for _ in range(3)])) == {node.node_id for node in nodes}


def test_a_soft_wish_spills_only_when_it_is_told_to(ray, cluster):
    node = added(cluster, num_cpus=1)
    holder = home(ray, num_cpus=1, scheduling_strategy=affinity(node)).remote()
    ray.get(holder.where.remote())
    waiting = here(ray, num_cpus=1, scheduling_strategy=affinity(node, soft=True)).remote()
    assert ray.wait([waiting], timeout=1) == ([], [waiting])
    spilling = here(ray, num_cpus=1, scheduling_strategy=affinity(node, soft=True, _spill_on_unavailable=True))
    assert ray.get(spilling.remote(), timeout=60) == cluster.head_node.node_id
    at_once = here(ray, num_cpus=1, scheduling_strategy=affinity(node, _fail_on_unavailable=True))
    with pytest.raises(ray.exceptions.TaskUnschedulableError):
        ray.get(at_once.remote(), timeout=60)
    ray.kill(holder)
    assert ray.get(waiting, timeout=60) == node.node_id


def test_a_fallback_is_for_when_the_first_choice_has_no_room(ray, cluster):
    first, second = added(cluster, num_cpus=1, labels={"zone": "a"}), added(cluster, num_cpus=1, labels={"zone": "b"})
    fallback = [{"label_selector": {"zone": "b"}}]
    task = here(ray, num_cpus=1, label_selector={"zone": "a"}, fallback_strategy=fallback)
    assert ray.get(task.remote(), timeout=60) == first.node_id
    holder = home(ray, num_cpus=1, label_selector={"zone": "a"}).remote()
    ray.get(holder.where.remote())
    assert ray.get(task.remote(), timeout=60) == second.node_id


def test_what_no_node_can_run_runs_on_one_that_is_added(ray, cluster):
    ref = here(ray, resources={"disk": 1}).remote()
    assert ray.wait([ref], timeout=0.5) == ([], [ref])
    node = added(cluster, num_cpus=1, resources={"disk": 1})
    assert ray.get(ref, timeout=60) == node.node_id


def test_tasks_of_a_node_that_goes(ray, cluster, tally):
    node = added(cluster, num_cpus=1)
    again = here(ray, scheduling_strategy=affinity(node, soft=True)).remote(3, tally)
    never = here(ray, scheduling_strategy=affinity(node, soft=True), max_retries=0).remote(60, tally)
    nowhere = here(ray, scheduling_strategy=affinity(node)).remote(60, tally)
    assert eventually(lambda: tally.count() == 3)
    cluster.remove_node(node)
    assert ray.get(again, timeout=150) == cluster.head_node.node_id
    with pytest.raises(ray.exceptions.NodeDiedError, match=node.node_id):
        ray.get(never, timeout=60)
    with pytest.raises(ray.exceptions.TaskUnschedulableError):
        ray.get(nowhere, timeout=60)


def test_actors_of_a_node_that_goes(ray, cluster):
    node = added(cluster, num_cpus=1)
    mortal = home(ray, scheduling_strategy=affinity(node, soft=True)).remote()
    other = home(ray, scheduling_strategy=affinity(node, soft=True), max_restarts=1).remote()
    assert ray.get([mortal.where.remote(), other.where.remote()]) == [node.node_id] * 2
    calls = [mortal.where.remote(60), other.where.remote(60)]
    time.sleep(0.5)
    cluster.remove_node(node)
    with pytest.raises(ray.exceptions.ActorDiedError, match="its node has died"):
        ray.get(calls[0], timeout=60)
    with pytest.raises(ray.exceptions.ActorUnavailableError):
        ray.get(calls[1], timeout=60)
    assert ray.get(other.where.remote(), timeout=60) == cluster.head_node.node_id


def test_objects_of_a_node_that_goes(ray, cluster):
    node = added(cluster, num_cpus=1)

    @ray.remote
    def make():
        return bytes(1_000_000)

    @ray.remote
    def put():
        return [ray.put(bytes(1_000_000))]

    soft = affinity(node, soft=True)
    again = make.options(scheduling_strategy=soft).remote()
    never = make.options(scheduling_strategy=soft, max_retries=0).remote()
    (inner,) = ray.get(put.options(scheduling_strategy=soft).remote())
    own = ray.put(bytes(1_000_000))
    ray.wait([again, never], num_returns=2, timeout=60, fetch_local=False)
    cluster.remove_node(node)
    assert len(ray.get(again, timeout=150)) == 1_000_000
    assert len(ray.get(own, timeout=60)) == 1_000_000
    with pytest.raises(ray.exceptions.ObjectReconstructionFailedError):
        ray.get(never, timeout=60)
    with pytest.raises(ray.exceptions.OwnerDiedError):
        ray.get(inner, timeout=60)


def test_nodes_that_went_are_listed_as_dead(ray, cluster):
    node = added(cluster, num_cpus=3)
    assert ray.cluster_resources()["CPU"] == 4
    cluster.remove_node(node)
    until = time.monotonic() + 30
    while time.monotonic() < until and sum(row["Alive"] for row in ray.nodes()) > 1:
        time.sleep(0.1)
    (dead,) = (row for row in ray.nodes() if not row["Alive"])
    assert dead["NodeID"] == node.node_id and dead["Resources"] == {}
    assert ray.cluster_resources()["CPU"] == 1


def test_a_session_ends_and_another_joins(ray, cluster):
    node = added(cluster, num_cpus=1)
    ray.shutdown()
    assert not ray.is_initialized()
    ray.init(address=cluster.address, log_to_driver=False)
    assert {row["NodeID"] for row in ray.nodes()} == {node.node_id, cluster.head_node.node_id}


def test_the_head_cannot_be_removed_under_the_driver(ray, cluster):
    with pytest.raises(ValueError):
        cluster.remove_node(cluster.head_node)
