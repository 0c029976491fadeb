"""A Hamilton dataflow, its nodes as tasks, and a dynamic one on its Ray executor."""

import sys

import ray
from hamilton import base, driver
from hamilton.execution import executors
from hamilton.htypes import Collect, Parallelizable
from hamilton.plugins import h_ray


def numbers(limit: int) -> list:
    return list(range(1, limit + 1))


def squares(numbers: list) -> list:
    return [number * number for number in numbers]


def cubes(numbers: list) -> list:
    return [number**3 for number in numbers]


def difference(squares: list, cubes: list) -> int:
    return sum(cubes) - sum(squares)


def part(limit: int) -> Parallelizable[int]:
    yield from range(limit)


def worked(part: int) -> int:
    return part * (part + 1) // 2


def total(worked: Collect[int]) -> int:
    return sum(worked)


here = sys.modules[__name__]
ray.init(num_cpus=2)
adapter = h_ray.RayGraphAdapter(result_builder=base.DictResult())
first = driver.Driver({"limit": 20}, here, adapter=adapter).execute(["difference", "squares"])
ray.shutdown()  # the executor starts a session of its own
second = (
    driver.Builder()
    .enable_dynamic_execution(allow_experimental_mode=True)
    .with_modules(here)
    .with_remote_executor(h_ray.RayTaskExecutor(num_cpus=2))
    .with_local_executor(executors.SynchronousLocalTaskExecutor())
    .build()
    .execute(["total"], inputs={"limit": 12})
)
print("result:", first["difference"], sum(first["squares"]), second["total"])
ray.shutdown()
