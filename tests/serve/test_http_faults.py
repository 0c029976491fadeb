"""Deaths, updates and wrong options, as clients of a whole serve see them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request

import skate
from skate import serve
from skate.serve import proxy


@serve.deployment(max_ongoing_requests=50, graceful_shutdown_wait_loop_s=0.05)
class Worker:
    def __init__(self, version: int = 1) -> None:
        self.version = version

    async def __call__(self, request: Request) -> Any:
        if request.url.path.endswith("/die"):
            os.kill(os.getpid(), signal.SIGKILL)
        return {"pid": os.getpid(), "version": self.version}


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    def run(app: Any = None, **options: Any) -> str:
        serve.start(http_options={"port": 0, **options})
        serve.run(app if app is not None else Worker.bind())
        return serve.get_http_address()

    skate.init(num_cpus=2)
    yield run
    serve.shutdown()
    skate.shutdown()


def until(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return found


def test_a_replicas_death_costs_the_request_it_had_and_nothing_else(start: Any) -> None:
    url = start(Worker.options(num_replicas=2).bind())
    with httpx.Client(base_url=url) as idle, httpx.Client(base_url=url, timeout=60) as victim:
        pids = {idle.get("/").json()["pid"], victim.get("/").json()["pid"]}
        answer = victim.get("/die")
        assert (answer.status_code, bool(answer.headers["x-request-id"])) == (502, True)
        assert idle.get("/").status_code == victim.get("/").status_code == 200
        until(lambda: victim.get("/").json()["pid"] and idle.get("/").status_code == 200)
    assert len(pids) >= 1


def test_the_last_replicas_death_makes_requests_wait_for_the_next(start: Any) -> None:
    url = start()
    with httpx.Client(base_url=url, timeout=60) as client:
        before = client.get("/").json()["pid"]
        assert client.get("/die").status_code == 502
        assert client.get("/").json()["pid"] != before


def test_an_update_is_not_noticed(start: Any) -> None:
    url = start()
    versions, failures, stop = set(), [], threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.is_set():
                answer = client.get("/")
                if answer.status_code != 200:
                    failures.append(answer)
                versions.add(answer.json()["version"])

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        until(lambda: versions == {1})
        serve.run(Worker.bind(2))
        until(lambda: versions == {1, 2})
    finally:
        stop.set()
        asking.join()
    assert not failures


def test_the_proxys_death_is_not_noticed(start: Any) -> None:
    url = start()
    with httpx.Client(base_url=url, timeout=60) as kept:
        pid = kept.get("/").json()["pid"]
        front = skate.get_actor(proxy.NAME, namespace="serve")
        os.kill(skate.get(front.figures.remote())["pid"], signal.SIGKILL)
        assert kept.get("/").json()["pid"] == pid, "the connection is the replica's"
        assert httpx.get(url, timeout=60).json()["pid"] == pid, "others wait until there is a proxy again"
        assert serve.get_http_address() == url


def test_a_deployment_at_zero_starts_for_a_request(start: Any) -> None:
    scaling = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1, "upscale_delay_s": 0.0}
    url = start(Worker.options(autoscaling_config=scaling).bind())
    assert httpx.get(url, timeout=60).status_code == 200


def test_a_deleted_application_answers_404(start: Any) -> None:
    url = start()
    serve.run(Worker.bind(7), name="other", route_prefix="/other")
    with httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/other").json()["version"] == 7
        serve.delete("default")
        until(lambda: client.get("/").status_code == 404)
        assert client.get("/other").json()["version"] == 7


def test_a_request_timeout_is_408_by_either_way(start: Any) -> None:
    @serve.deployment
    async def slow(request: Request) -> str:
        import asyncio

        await asyncio.sleep(30)
        return "late"

    url = start(request_timeout_s=0.3)
    serve.run(slow.bind(), name="slow", route_prefix="/slow")
    with httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/slow").status_code == 408
    with httpx.Client(base_url=url, timeout=60) as client:
        client.get("/")
        assert client.get("/slow").status_code == 408


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        try:
            with pytest.raises(OSError, match=f"port {port}: another program does"):
                serve.start(http_options={"port": port})
        finally:
            serve.shutdown()


def test_a_missing_extra_is_named() -> None:
    program = (
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'uvicorn' else find(name, *rest)\n"
        "from skate.serve import proxy\n"
        "from skate.serve.config import HTTPOptions\n"
        "proxy.start_proxy(HTTPOptions())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError: HTTP needs uvicorn: pip install 'skate-ray[serve]'" in done.stderr


@pytest.mark.slow
def test_ten_thousand_idle_connections(start: Any) -> None:
    import resource

    url = start()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 10_500:
        pytest.skip("this machine does not grant the descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    clients: list[socket.socket] = []
    try:
        for _ in range(10_000):
            clients.append(socket.create_connection(address, timeout=60))
        for client in clients[::10]:  # those that the replica has; the others wait with the proxy
            client.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        for client in clients[::10]:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert httpx.get(url, timeout=60).status_code == 200
        assert time.monotonic() - began < 20
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.slow
def test_a_short_soak() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "skate.testing.serve_soak", "--seconds", "8", "--every", "1.5", "--clients", "8"],
        capture_output=True, text=True, timeout=55,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 requests failed" in done.stdout
