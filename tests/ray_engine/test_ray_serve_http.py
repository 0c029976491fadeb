"""Serve's HTTP on real Ray: connections are handed to the replicas' processes, as on the engine `local`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

import skate
from skate import serve
from skate.serve import context

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")
pytest.importorskip("uvicorn", reason="needs the extra skate-ray[serve]")
pytestmark = pytest.mark.usefixtures("session")


@serve.deployment(max_ongoing_requests=50, graceful_shutdown_wait_loop_s=0.05)
class Worker:
    def __init__(self, version: int = 1) -> None:
        self.version = version
        self.gone = 0

    async def __call__(self, request: Any) -> Any:
        path = request.url.path
        if path == "/stream":
            from starlette.responses import StreamingResponse

            return StreamingResponse(self.numbers())
        if path == "/slow":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.gone += 1
                raise
        if path == "/die":
            os.kill(os.getpid(), signal.SIGKILL)
        if path == "/fail":
            raise KeyError("secret")
        return {"pid": os.getpid(), "version": self.version, "gone": self.gone, "body": len(await request.body())}

    async def numbers(self) -> AsyncIterator[str]:
        for number in range(3):
            yield f"{number};"
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def address(session: None) -> Iterator[str]:
    serve.start(http_options={"port": 0})
    serve.run(Worker.bind())
    yield serve.get_http_address()
    serve.shutdown()
    assert [name for name in context.names() if name != "SERVE_REST"] == [], "actors were left"


def get(address: str, path: str = "/", data: bytes | None = None) -> Any:
    with urllib.request.urlopen(address + path, data, timeout=40) as answer:
        return json.load(answer)


def until(what: Any, seconds: float = 40.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found


def test_a_connection_goes_to_the_replicas_process(address: str) -> None:
    first = get(address)
    assert get(address, "/", b"x" * 300_000) == {**first, "body": 300_000}
    front = skate.get_actor(context.PROXY, namespace=context.NAMESPACE)
    assert skate.get(front.figures.remote())["pid"] != first["pid"]
    held = HTTPConnection(address.removeprefix("http://"), timeout=40)
    held.request("GET", "/")
    assert json.load(held.getresponse())["pid"] == first["pid"]
    assert descriptors(first["pid"], held.sock.getsockname()[1]), "the replica has the connection itself"
    held.close()


def descriptors(pid: int, port: int) -> bool:
    """Whether a process has a connection with a client's port."""
    import psutil

    return any(each.raddr and each.raddr.port == port for each in psutil.Process(pid).net_connections("tcp"))


def test_streams_and_errors(address: str) -> None:
    with urllib.request.urlopen(address + "/stream", timeout=40) as answer:
        assert answer.read() == b"0;1;2;"
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(address, "/fail")
    assert caught.value.code == 500 and caught.value.headers["x-request-id"]
    assert b"secret" not in caught.value.read()


def test_a_client_that_goes_ends_its_request(address: str) -> None:
    before = get(address)["gone"]
    client = HTTPConnection(address.removeprefix("http://"), timeout=40)
    client.request("GET", "/slow")
    time.sleep(0.5)
    client.close()
    until(lambda: get(address)["gone"] == before + 1)


def test_a_request_by_handle_and_one_from_another_driver(address: str) -> None:
    handle = serve.get_app_handle("default")
    assert "default" in repr(handle)
    program = (
        "import sys, skate\nfrom skate import serve\n"
        "skate.init(engine='ray', address=sys.argv[1], log_to_driver=False)\n"
        "part = serve.get_deployment_handle('Worker', 'default').options(method_name='numbers', stream=True)\n"
        "print(list(part.remote()), serve.status().applications['default'].status)\n"
        "skate.shutdown()\n"
    )
    where = skate.init(ignore_reinit_error=True).address_info["address"]
    done = subprocess.run([sys.executable, "-c", program, where], capture_output=True, text=True, timeout=55)
    assert done.stdout == "['0;', '1;', '2;'] RUNNING\n", done.stderr
    assert get(address)["version"] == 1, "what runs stays when a driver goes"


def test_the_death_of_the_replica_of_the_proxy_and_of_the_controller(address: str) -> None:
    before = get(address)["pid"]
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(address, "/die")
    assert caught.value.code == 502
    pid = get(address)["pid"]
    assert pid != before
    front = skate.get_actor(context.PROXY, namespace=context.NAMESPACE)
    os.kill(skate.get(front.figures.remote())["pid"], signal.SIGKILL)
    assert get(address)["pid"] == pid
    skate.kill(context.controller(), no_restart=False)
    assert get(address)["pid"] == pid
    until(lambda: serve.status().applications["default"].status == "RUNNING")
    assert get(address)["pid"] == pid, "the replica was found again"


def test_an_update_under_load_is_not_noticed(address: str) -> None:
    seen: set[int] = set()
    failures: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                seen.add(get(address)["version"])
            except OSError as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: seen)
        serve.run(Worker.bind(2))
        until(lambda: 2 in seen)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_a_deployment_at_zero_starts_for_a_request_and_grows_by_what_waits(address: str) -> None:
    scaling = {
        "min_replicas": 0, "initial_replicas": 0, "max_replicas": 2, "target_ongoing_requests": 1,
        "upscale_delay_s": 0.1, "metrics_interval_s": 0.1, "look_back_period_s": 0.5,
    }  # fmt: skip

    @serve.deployment(autoscaling_config=scaling, max_ongoing_requests=2)
    async def busy() -> int:
        await asyncio.sleep(0.5)
        return os.getpid()

    handle = serve.run(busy.bind(), name="busy", route_prefix=None)
    pids: set[int] = set()
    until(lambda: pids.update(each.result() for each in [handle.remote() for _ in range(6)]) or len(pids) == 2)
    serve.delete("busy")
