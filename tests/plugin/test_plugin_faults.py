"""Clients that go away, plugins whose process dies, plugins that fail on the local engine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")

from fastapi.testclient import TestClient
from plugin_services import Write, data

from skate.plugin import run

ENDLESS = """
import asyncio, os
@on_register()
class P(BasePlugin):
    @on_request("/endless", methods=["GET"], stream=True)
    async def endless(self):
        try:
            while True:
                yield 1
                await asyncio.sleep(0.01)
        finally:
            open("closed", "w").close()

    @on_request("/pid", methods=["GET"])
    async def pid(self) -> int:
        return os.getpid()
"""
READER = """
@on_register()
class R(BasePlugin):
    @on_request("/some", methods=["GET"])
    async def some(self) -> object:
        stream = await call_plugin_api("/api/v1/endless")
        found = []
        async for item in stream:
            found.append(item)
            if len(found) == 3:
                await stream.aclose()
                return found

    @on_request("/relayed", methods=["GET"], stream=True)
    async def relayed(self):
        async for item in await call_plugin_api("/api/v1/endless"):
            yield item

    @on_request("/same", methods=["GET"])
    async def same(self) -> bool:
        import os
        return await call_plugin_api("/api/v1/pid") == os.getpid()
"""


def until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


@pytest.fixture(params=["inline", "local"])
def url(request: pytest.FixtureRequest, write: Write, place: Path) -> Iterator[str]:
    """A service with both plugins, in a process of its own."""
    write(p=ENDLESS)
    write(["/api/v1/endless", "/api/v1/pid"], r=READER)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["--engine", request.param, "--load-plugins", "p", "--load-plugins", "r", "--strict", "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "skate", "plugin", "run", *command], cwd=place)

    def answers() -> bool:
        assert process.poll() is None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0 and b"200 OK" in ask(port, "/ready")

    try:
        until(answers, 120)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def ask(port: int, path: str, most: int = 100_000) -> bytes:
    """What is answered to a GET; at most about so many bytes of it, and then the client goes away."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        found = b""
        while len(found) < most:
            part = connection.recv(4096)
            if not part:
                break
            found += part
        return found


def test_a_client_that_goes_away_ends_the_stream(url: str, place: Path) -> None:
    port = int(url.rpartition(":")[2])
    for path in ("/api/v1/endless", "/api/v1/relayed"):
        assert b"data: 1" in ask(port, path, most=600)
        until((place / "closed").exists)
        (place / "closed").unlink()
    assert b'"data":[1,1,1]' in ask(port, "/api/v1/some")
    until((place / "closed").exists)


def test_a_plugin_whose_process_dies_comes_back(write: Write) -> None:
    write(p=ENDLESS)
    write(["/api/v1/endless", "/api/v1/pid"], r=READER)
    app = run(test_mode=True, engine="local", num_cpus=2, load_plugins=["p", "r"], strict=True)
    with TestClient(app) as client:
        assert data(client.get("/api/v1/same")) is False
        pid = data(client.get("/api/v1/pid"))
        assert pid != os.getpid()
        os.kill(pid, signal.SIGKILL)

        def is_back() -> bool:
            answer = client.get("/api/v1/pid")
            assert answer.status_code in (200, 503)
            return answer.status_code == 200 and answer.json()["data"] != pid

        until(is_back)
        assert data(client.get("/api/v1/same")) is False


def test_a_plugin_that_does_not_start_leaves_the_others_alone(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    write(p=ENDLESS)
    write(
        bad="""
        @on_register()
        class Bad(BasePlugin):
            async def on_start(self):
                raise OSError("no disk")
            @on_request("/bad", methods=["GET"])
            async def bad(self) -> str: return "bad"
        """
    )
    with TestClient(run(test_mode=True, engine="local", num_cpus=2, load_plugins=["p", "bad"])) as client:
        assert data(client.get("/api/v1/pid")) > 0
        assert client.get("/api/v1/bad").status_code == 503
        assert client.get("/ready").json()["failed"] == ["bad"]
    assert "plugin bad does not run: OSError: no disk" in caplog.text
    assert "in on_start" in caplog.text  # where it happened, over there
