"""Serve on two machines: no connection can be handed from one to the other, so requests are relayed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from machines import Strangers, can_be_strange, rays_own

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")
pytest.importorskip("uvicorn", reason="needs the extra skate-ray[serve]")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_be_strange(), reason="this machine lets nobody make namespaces"),
]

PROGRAM = """
import asyncio, http.client, json, os, socket, sys, threading, time
import skate
from skate import serve
from skate.serve import context

here = sys.argv[1].partition(":")[0]
skate.init(engine="ray", address=sys.argv[1], log_to_driver=False, _node_ip_address=here)
THERE = {"num_cpus": 0, "resources": {"there": 0.1}}


def until(what, seconds=60):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)
    return found


until(lambda: sum(row["Alive"] for row in skate.nodes()) == 2)


@serve.deployment(ray_actor_options=THERE, max_ongoing_requests=20)
class Far:
    gone = 0

    async def __call__(self, request):
        path = request.url.path
        if path == "/stream":
            from starlette.responses import StreamingResponse
            return StreamingResponse(self.numbers())
        if path == "/slow":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                type(self).gone += 1
                raise
        if path == "/fail":
            raise KeyError("secret")
        if path == "/die":
            os._exit(1)
        return {"host": socket.gethostname(), "gone": self.gone, "body": len(await request.body())}

    async def numbers(self):
        for number in range(3):
            yield f"{number};"


def ask(path="/", body=None, host=here):
    client = http.client.HTTPConnection(host, port, timeout=60)
    client.request("POST" if body else "GET", path, body)
    answer = client.getresponse()
    found = answer.status, answer.read()
    client.close()
    return found


serve.start(http_options={"port": 8123, "host": "0.0.0.0"})
port = 8123
serve.run(Far.bind())
expected = {"host": "machine2", "gone": 0, "body": 0}
assert json.loads(ask()[1]) == expected
assert json.loads(ask("/", b"x" * 300_000)[1])["body"] == 300_000
assert ask("/stream") == (200, b"0;1;2;")
status, text = ask("/fail")
assert status == 500 and b"secret" not in text, text
print("relayed", flush=True)

client = http.client.HTTPConnection(here, port, timeout=60)
client.request("GET", "/slow")
time.sleep(1)
client.close()
until(lambda: json.loads(ask()[1])["gone"] == 1)
print("cancelled", flush=True)

there = here[:-1] + "2"


def listens():
    try:
        return json.loads(ask(host=there)[1])["host"] == "machine2"
    except OSError:
        return False


until(listens)
assert len(context.proxies()) == 2
print("a proxy there", flush=True)


def ongoing():
    rows = serve.status().applications["default"].deployments["Far"]
    raw = skate.get(context.controller().status.remote())["applications"]["default"]["deployments"]["Far"]["replicas"]
    return [row["ongoing"] for row in raw]


slow = [threading.Thread(target=ask, args=("/slow",)) for _ in range(3)]
for thread in slow:
    thread.start()
until(lambda: ongoing() == [3])
print("its load is seen", flush=True)

assert ask("/die")[0] == 500
for thread in slow:
    thread.join()
until(lambda: ask()[0] == 200)
print("replaced", flush=True)


@serve.deployment(
    ray_actor_options=THERE, max_ongoing_requests=2,
    autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 1, "upscale_delay_s": 0.1,
                        "metrics_interval_s": 0.2, "look_back_period_s": 1},
)
class Busy:
    async def __call__(self):
        await asyncio.sleep(1)
        return os.getpid()


HERE = {"num_cpus": 0, "resources": {context.HEAD: 0.01}}


@serve.deployment(num_replicas=2, ray_actor_options=HERE, max_ongoing_requests=20)
class Near:
    async def __call__(self):
        await asyncio.sleep(20)


@serve.deployment(ray_actor_options=THERE)
class Looks:
    def __init__(self, near):
        self.near = near
        near._init()

    def __call__(self):
        return sorted(target.load() for target in self.near._router.targets)


looks = serve.run(Looks.bind(Near.bind()), name="looks", route_prefix=None)
near = serve.get_deployment_handle("Near", "looks")
waiting = [near.remote() for _ in range(5)]
until(lambda: sum(looks.remote().result()) == 5)
for each in waiting:
    each.cancel()
until(lambda: looks.remote().result() == [0, 0])
print("loads are seen there", flush=True)

busy = serve.run(Busy.bind(), name="busy", route_prefix=None)
pids = set()
until(lambda: pids.update(each.result() for each in [busy.remote() for _ in range(4)]) or len(pids) == 2)
print("grown", flush=True)
serve.shutdown()
assert not context.names(), context.names()
skate.shutdown()
print("done", flush=True)
"""


@pytest.fixture
def machines() -> Iterator[Strangers]:
    made = Strangers(rays_own())
    try:
        made.head()
        made.join('--resources={"there":1}')
        yield made
    finally:
        made.close()


@pytest.mark.timeout(280)
def test_two_machines_serve_as_one(machines: Strangers) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(machines.folder)}
    driver = subprocess.run(
        [*machines.inside(1), sys.executable, "-c", PROGRAM, machines.address],
        capture_output=True, text=True, timeout=220, env=environment, check=False,
    )  # fmt: skip
    assert driver.stdout.splitlines()[-1:] == ["done"], driver.stdout + driver.stderr
