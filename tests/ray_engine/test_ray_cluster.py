"""A cluster of three nodes on this machine, driven through Skate, which the nodes do not have."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from machines import Machines, rays_own, skates

import skate
from skate.util.placement_group import placement_group, placement_group_table, remove_placement_group
from skate.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

ray = pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the nodes cannot import this module

QUIET = {"log_to_driver": False}


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    made = Machines([*skates()], SKATE_ENGINE="ray")
    try:
        made.head()
        made.launcher = rays_own()
        made.join("--labels=role=worker")
        made.join("--labels=role=worker")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def cluster(machines: Machines) -> Iterator[list[str]]:
    """The driver has joined; the ids of the nodes, in the order of their addresses."""
    skate.init(engine="ray", address=machines.address, **QUIET)
    end = time.monotonic() + 30
    while sum(row["Alive"] for row in skate.nodes()) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    yield [row["NodeID"] for row in sorted(skate.nodes(), key=lambda row: row["NodeManagerAddress"])]
    skate.shutdown()


@skate.remote
def where() -> str:
    return skate.get_runtime_context().get_node_id()


def on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def test_every_node_has_its_address(cluster):
    assert [row["NodeManagerAddress"] for row in sorted(skate.nodes(), key=lambda row: row["NodeManagerAddress"])] == [
        "127.0.0.11",
        "127.0.0.12",
        "127.0.0.13",
    ]
    assert skate.cluster_resources()["CPU"] == 6


def test_skate_is_sent_along_to_nodes_that_lack_it(cluster):
    @skate.remote
    def home():
        import msgspec

        import skate

        return skate.__file__, msgspec.__file__, skate.__version__

    for node in cluster[1:]:
        ours, needed, version = skate.get(home.options(scheduling_strategy=on(node)).remote())
        assert "runtime_resources" in ours and "runtime_resources" in needed and ours != skate.__file__
        assert version == skate.__version__


def test_tasks_spread_over_the_nodes(cluster):
    @skate.remote(scheduling_strategy="SPREAD")
    def where_slowly():
        time.sleep(0.5)  # else one node has done them all before the others' workers are up
        return skate.get_runtime_context().get_node_id()

    assert set(skate.get([where_slowly.remote() for _ in range(12)])) == set(cluster)


def test_affinity_and_labels_choose_the_node(cluster):
    for node in cluster:
        assert skate.get(where.options(scheduling_strategy=on(node)).remote()) == node
    chosen = skate.get([where.options(label_selector={"role": "worker"}).remote() for _ in range(4)])
    assert set(chosen) <= set(cluster[1:])


def test_a_group_that_must_spread_has_a_bundle_on_each_node(cluster):
    group = placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
    try:
        assert group.wait(30)
        inside = [
            where.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i))
            for i in range(3)
        ]
        assert set(skate.get([task.remote() for task in inside])) == set(cluster)
        assert set(placement_group_table(group)["bundles_to_node_id"].values()) == set(cluster)
    finally:
        remove_placement_group(group)


def test_objects_travel_between_nodes(cluster):
    @skate.remote
    def make():
        return np.arange(1 << 20)

    @skate.remote
    def use(array, nested):
        return int(array.sum()), int(skate.get(nested[0]).sum()), skate.get_runtime_context().get_node_id()

    made = make.options(scheduling_strategy=on(cluster[1])).remote()
    total = sum(range(1 << 20))
    assert skate.get(use.options(scheduling_strategy=on(cluster[2])).remote(made, [made])) == (total, total, cluster[2])
    assert int(skate.get(made).sum()) == total
    found = skate.experimental.get_object_locations([made])[made]
    assert set(found["node_ids"]) >= set(cluster[1:]) and found["object_size"] > 8 << 20


def test_a_second_driver_joins_by_auto(machines, cluster, tmp_path):
    program = (
        "import skate\n"
        "with skate.init(engine='ray', address='auto', log_to_driver=False):\n"
        "    print(sum(row['Alive'] for row in skate.nodes()), skate.get(skate.remote(lambda n: n + 1).remote(3)))\n"
    )
    environment = {**os.environ, **{k: v for k, v in machines.environment.items() if k.startswith("RAY_")}}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, env=environment, cwd=tmp_path
    )
    assert done.stdout.split() == ["3", "4"], done.stderr


def test_errors_and_streams_cross_nodes(cluster):
    @skate.remote(max_retries=0)
    def fail():
        raise KeyError("gone")

    with pytest.raises(KeyError) as caught:
        skate.get(fail.options(scheduling_strategy=on(cluster[1])).remote())
    assert isinstance(caught.value, skate.exceptions.RayTaskError)

    @skate.remote
    def count():
        yield 0
        yield 1
        yield 2

    stream = count.options(scheduling_strategy=on(cluster[2])).remote()
    assert [skate.get(item) for item in stream] == [0, 1, 2]


@pytest.mark.timeout(120)
def test_an_actor_comes_back_elsewhere_when_its_node_is_killed(machines, cluster, tmp_path):
    fourth = machines.join('--resources={"fourth": 1}')
    end = time.monotonic() + 30
    while sum(row["Alive"] for row in skate.nodes()) < 4 and time.monotonic() < end:
        time.sleep(0.1)
    doomed = next(row["NodeID"] for row in skate.nodes() if "fourth" in row["Resources"])

    @skate.remote(max_restarts=1, max_task_retries=-1)
    class Survivor:
        def where(self):
            return skate.get_runtime_context().get_node_id(), os.getpid()

    actor = Survivor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(doomed, soft=True)).remote()

    @skate.remote(max_retries=0)
    def sleep(begun):
        open(begun, "w").close()
        time.sleep(600)

    node, pid = skate.get(actor.where.remote())
    assert node == doomed
    lost = sleep.options(resources={"fourth": 0.5}).remote(str(tmp_path / "begun"))
    end = time.monotonic() + 30
    while not (tmp_path / "begun").exists() and time.monotonic() < end:
        time.sleep(0.1)
    fourth.kill()
    after, new_pid = skate.get(actor.where.remote(), timeout=60)
    assert after in cluster and new_pid != pid
    with pytest.raises((skate.exceptions.WorkerCrashedError, skate.exceptions.NodeDiedError)):
        skate.get(lost, timeout=60)
    assert not next(row for row in skate.nodes() if row["NodeID"] == doomed)["Alive"]
