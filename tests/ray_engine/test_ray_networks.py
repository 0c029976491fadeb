"""Two nodes with a network of their own each: what crosses from one to the other goes over the cable between them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from machines import Apart, can_be_apart, rays_own

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")
pytestmark = pytest.mark.skipif(not can_be_apart(), reason="this machine lets nobody make network namespaces")

PROGRAM = """
import os, sys, time
import skate
from skate.util.scheduling_strategies import NodeAffinitySchedulingStrategy

here = sys.argv[1].partition(":")[0]  # Ray 2.53 finds it by asking the internet
skate.init(engine="ray", address=sys.argv[1], log_to_driver=False, _node_ip_address=here)
end = time.monotonic() + 30
while sum(row["Alive"] for row in skate.nodes()) < 2 and time.monotonic() < end:
    time.sleep(0.1)
first, second = sorted(skate.nodes(), key=lambda row: row["NodeManagerAddress"])
print(first["NodeManagerAddress"], second["NodeManagerAddress"], flush=True)

def on(row, soft=False):
    return NodeAffinitySchedulingStrategy(row["NodeID"], soft=soft)

@skate.remote
def make():
    return bytes(8 << 20)

@skate.remote
def links():
    return sorted(os.listdir("/sys/class/net")), os.stat("/proc/self/ns/net").st_ino

@skate.remote
def measure(data):
    return len(data)

there = make.options(scheduling_strategy=on(second)).remote()
assert skate.get(measure.options(scheduling_strategy=on(first)).remote(there)) == 8 << 20
networks = skate.get([links.options(scheduling_strategy=on(row)).remote() for row in (first, second)])
assert networks[0][1] != networks[1][1], networks

@skate.remote(max_restarts=1, max_task_retries=-1)
class Survivor:
    def where(self):
        return skate.get_runtime_context().get_node_id()

actor = Survivor.options(scheduling_strategy=on(second, soft=True)).remote()
assert skate.get(actor.where.remote()) == second["NodeID"]
print("cut", flush=True)
sys.stdin.readline()
assert skate.get(actor.where.remote(), timeout=60) == first["NodeID"]
assert [row["Alive"] for row in skate.nodes() if row["NodeID"] == second["NodeID"]] == [False]
skate.shutdown()
print("done", flush=True)
"""


@pytest.fixture
def machines() -> Iterator[Apart]:
    made = Apart(rays_own())
    try:
        made.head()
        made.join()
        yield made
    finally:
        made.close()


@pytest.mark.timeout(150)
def test_two_networks_work_together_until_the_cable_is_pulled(machines):
    driver = subprocess.Popen(
        [*machines.inside(1), sys.executable, "-c", PROGRAM, machines.address],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(machines.folder)},
    )  # fmt: skip
    try:
        lines = [driver.stdout.readline().strip() for _ in range(2)]
        if lines != [f"{machines.net}.1 {machines.net}.2", "cut"]:
            driver.kill()
            pytest.fail(f"{lines}\n{driver.communicate()[1]}")
        machines.cut()
        said, errors = driver.communicate("\n", timeout=100)
        assert said.endswith("done\n"), errors
    finally:
        driver.kill()
        driver.wait()
