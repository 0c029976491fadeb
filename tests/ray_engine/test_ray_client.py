"""A driver that joins through Ray Client, ``ray://``: another process of Ray acts for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from machines import Machines, rays_own

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")
pytest.importorskip("grpc", reason="Ray Client is not installed: pip install 'ray[client]'")

PROGRAM = """
import asyncio
import skate
from skate.util.placement_group import placement_group, remove_placement_group
from skate.util.scheduling_strategies import PlacementGroupSchedulingStrategy

skate.init(engine="ray", address="%s", namespace="here")
assert skate.is_initialized()

@skate.remote
def double(n):
    return 2 * n

@skate.remote
def total(refs):
    return sum(skate.get(refs))

@skate.remote(max_retries=0)
def fail():
    raise KeyError("gone")

@skate.remote
class Counter:
    def __init__(self, start):
        self.count = start
    def add(self, n=1):
        self.count += n
        return self.count

refs = [double.remote(n) for n in range(4)]
assert skate.get(refs) == [0, 2, 4, 6]
assert skate.get(total.remote(refs)) == 12, "references inside values"
assert skate.get(double.remote(skate.put(21))) == 42
ready, rest = skate.wait([double.remote(1), double.remote(2)], num_returns=2, timeout=30)
assert len(ready) == 2 and not rest

counter = Counter.options(name="counter").remote(5)
assert skate.get([counter.add.remote(), counter.add.remote(n=3)]) == [6, 9]
assert skate.get(skate.get_actor("counter").add.remote()) == 10

@skate.remote
def use(handle):
    return skate.get(handle.add.remote(10))

assert skate.get(use.remote(counter)) == 20, "a handle travels"
try:
    skate.get(fail.remote())
except KeyError as error:
    assert isinstance(error, skate.exceptions.RayTaskError), type(error).__mro__
else:
    raise AssertionError("no error")

async def waiting():
    return await double.remote(8)

assert asyncio.run(waiting()) == 16

skate.kill(counter)
try:
    skate.get(counter.add.remote(), timeout=30)
except skate.exceptions.RayActorError:
    pass
else:
    raise AssertionError("no error")

group = placement_group([{"CPU": 1}])
assert group.wait(30)
inside = double.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group))
assert skate.get(inside.remote(2)) == 4
remove_placement_group(group)

here = skate.get_runtime_context()
assert here.namespace == "here" and here.get_job_id() and here.get_node_id() == skate.nodes()[0]["NodeID"]
assert here.get_session_name().startswith("session_")
assert skate.cluster_resources()["CPU"] == 2

@skate.remote
def version():
    return skate.__file__

assert "runtime_resources" in skate.get(version.remote()), "Skate was sent along"
skate.shutdown()
assert not skate.is_initialized()
print("done")
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    made = Machines(rays_own())
    try:
        made.head()
        yield made
    finally:
        made.close()


def run(program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, env=environment)


@pytest.mark.timeout(120)
def test_a_driver_works_through_ray_client(machines):
    done = run(PROGRAM % f"ray://127.0.0.11:{machines.client_port}")
    assert done.stdout.endswith("done\n"), done.stderr


def test_nobody_at_the_address_is_told_soon():
    done = run("import skate; skate.init(engine='ray', address='ray://127.0.0.1:1')")
    assert "ConnectionError: There is no Ray cluster at 'ray://127.0.0.1:1'" in done.stderr
