"""The cases of the cluster benchmark, written once for every package that has Ray's API.

A case is a generator, as in api_cases.py. Tasks and actors are defined inside of the cases, so that they travel by
value.
"""

from __future__ import annotations

import importlib
import os
import time
from collections import Counter
from typing import Any

import memory
from api_cases import Case, wait_for_end

TASKS = 2_000
GROUPS = 10_000
READY_GROUPS = 100
GROUP_TASKS = 1_000


def nodes_few(ray: Any) -> Case:
    return spread(ray, 4, "nodes_few")


def nodes_many(ray: Any) -> Case:
    return spread(ray, 50, "nodes_many")


def spread(ray: Any, nodes: int, figure: str) -> Case:
    """Tasks that are to be spread over nodes of one CPU each, with a worker up on each node before."""
    ray.shutdown()
    clusters = importlib.import_module(f"{ray.__name__}.cluster_utils")
    begin = time.perf_counter()
    cluster = clusters.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address)

        @ray.remote(scheduling_strategy="SPREAD")
        def where(seconds: float = 0.0) -> str:
            time.sleep(seconds)
            return str(ray.get_runtime_context().get_node_id())

        while len(set(ray.get([where.remote(0.2) for _ in range(2 * nodes)]))) < nodes:
            pass
        up = time.perf_counter() - begin
        while True:
            start = time.perf_counter()
            found = Counter(ray.get([where.remote() for _ in range(TASKS)]))
            seconds = time.perf_counter() - start
            least = min(found.values()) if len(found) == nodes else 0
            yield {figure: seconds, f"{figure}_start": up, f"{figure}_least": least}
    finally:
        ray.shutdown()
        cluster.shutdown()


def actors_some(ray: Any) -> Case:
    return crowd(ray, 100, "actors_some")


def actors_many(ray: Any) -> Case:
    return crowd(ray, 1_000, "actors_many")


def crowd(ray: Any, count: int, figure: str) -> Case:
    """So many actors alive at once, each of which has answered."""

    @ray.remote(num_cpus=0)
    class Process:
        def pid(self) -> int:
            return os.getpid()

    while True:
        start = time.perf_counter()
        actors = [Process.remote() for _ in range(count)]
        pids = ray.get([actor.pid.remote() for actor in actors])
        seconds = time.perf_counter() - start
        assert len(set(pids)) == count
        again = time.perf_counter()
        assert ray.get([actor.pid.remote() for actor in actors]) == pids
        sample = {
            figure: seconds,
            f"{figure}_again": time.perf_counter() - again,
            f"{figure}_private": sum(map(memory.private, pids)) / count,
            f"{figure}_whole": sum(map(memory.proportional, pids)) / count,
        }
        for actor in actors:
            ray.kill(actor)
        del actors
        wait_for_end(pids)
        yield sample


def groups_removed(ray: Any) -> Case:
    """Placement groups that nobody waits for."""
    util = importlib.import_module(f"{ray.__name__}.util")
    while True:
        start = time.perf_counter()
        for _ in range(GROUPS):
            util.remove_placement_group(util.placement_group([{"CPU": 1}]))
        yield {"groups_removed": time.perf_counter() - start}


def groups_ready(ray: Any) -> Case:
    """One after the other; and all at once."""
    util = importlib.import_module(f"{ray.__name__}.util")
    while True:
        start = time.perf_counter()
        for _ in range(READY_GROUPS):
            group = util.placement_group([{"CPU": 1}])
            ray.get(group.ready(), timeout=60)
            util.remove_placement_group(group)
        in_turn = time.perf_counter() - start
        start = time.perf_counter()
        groups = [util.placement_group([{"CPU": 0.001}]) for _ in range(READY_GROUPS)]
        ray.get([group.ready() for group in groups], timeout=300)
        for group in groups:
            util.remove_placement_group(group)
        yield {"groups_ready": in_turn, "groups_together": time.perf_counter() - start}


def group_tasks(ray: Any) -> Case:
    """Tasks inside a placement group, and the same outside."""
    util = importlib.import_module(f"{ray.__name__}.util")
    strategies = importlib.import_module(f"{ray.__name__}.util.scheduling_strategies")

    @ray.remote
    def nothing() -> None:
        return None

    def timed(task: Any) -> float:
        ray.get([task.remote() for _ in range(GROUP_TASKS)])
        start = time.perf_counter()
        ray.get([task.remote() for _ in range(GROUP_TASKS)])
        return time.perf_counter() - start

    while True:
        outside = timed(nothing)
        group = util.placement_group([{"CPU": 1}] * 2)
        assert group.wait(60)
        inside = timed(nothing.options(scheduling_strategy=strategies.PlacementGroupSchedulingStrategy(group)))
        util.remove_placement_group(group)
        yield {"group_tasks": inside, "group_tasks_outside": outside}


CASES = {
    case.__name__: case
    for case in (nodes_few, nodes_many, actors_some, actors_many, groups_removed, groups_ready, group_tasks)
}
