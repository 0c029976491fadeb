"""A plugin of several replicas: its cache, its metrics, its limits; and a gateway that dies."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")


TWINS = """
import asyncio, os

@on_register(num_replicas=2)
class P(BasePlugin):
    @on_request("/twin/pid", methods=["GET"])
    async def pid(self) -> int: return os.getpid()

    @on_request("/twin/kept", methods=["GET"], cache={"ttl": 600})
    async def kept(self, n: int) -> int: return os.getpid()

    @on_request("/twin/request", methods=["GET"])
    async def request(self, request: "Request") -> str: return request.url.path
"""
BROKEN = """
@on_register()
class B(BasePlugin):
    async def on_start(self): raise OSError("no disk")
    @on_request("/broken", methods=["GET"])
    async def broken(self) -> str: return ""
"""


def until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A service on the local engine; its URL and its log."""
    place = tmp_path
    head = "from skate.plugin import *\nfrom fastapi import Request\n"
    meta = "__plugin_meta__ = PluginMetadata(name={!r}, version='1', description='')\n"
    for name, text in (("p", TWINS), ("b", BROKEN)):
        (place / f"{name}.py").write_text(head + meta.format(name) + text)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--load-plugins", "p", "--load-plugins", "b", "--set", "cache.enabled=true", "--num-cpus", "2"]
    command = [sys.executable, "-m", "skate", "plugin", "run", "--engine", "local", "--port", str(port), *options]
    with (place / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=place, stderr=log, stdout=log)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is None and answers(f"{url}/ready"))
        yield url, place / "log"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=60).close()
    except OSError:
        return False
    return True


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.headers, json.load(answer)


def counted(url: str, route: str) -> dict[str, float]:
    """Requests of a route that were answered with 200, by replica."""
    text = urllib.request.urlopen(f"{url}/metrics", timeout=60).read().decode()
    rows = re.findall(r'skate_plugin_requests_total\{.*replica="(.*?)",route="(.*?)",status="200"\} (\S+)', text)
    return {replica: float(value) for replica, found, value in rows if found == route}


def test_answers_are_kept_for_all_replicas_together(service: tuple[str, Path]) -> None:
    url = service[0]
    with ThreadPoolExecutor(8) as threads:
        pids = list(threads.map(lambda _: get(f"{url}/api/v1/twin/pid")[1]["data"], range(60)))
    assert len(set(pids)) == 2
    first, body = get(f"{url}/api/v1/twin/kept?n=1")
    assert first["x-skate-cache-status"] == "MISS"
    for _ in range(10):  # each on a connection of its own
        headers, again = get(f"{url}/api/v1/twin/kept?n=1")
        assert headers["x-skate-cache-status"] == "HIT" and again == body
    assert get(f"{url}/api/v1/twin/request")[1]["data"] == "/api/v1/twin/request"


def test_metrics_are_those_of_all_replicas_and_outlive_the_gateway(service: tuple[str, Path]) -> None:
    url, log = service
    before = sum(counted(url, "/api/v1/twin/pid").values())
    pids = set()
    with ThreadPoolExecutor(8) as threads:
        pids.update(threads.map(lambda _: get(f"{url}/api/v1/twin/pid")[1]["data"], range(60)))
    assert len(pids) == 2
    rows = counted(url, "/api/v1/twin/pid")
    assert sum(rows.values()) - before == 60 and len(rows) == 2
    assert all(name.startswith("p.P#") for name in rows)
    ready = get(f"{url}/ready")[1]
    assert (ready["plugins"], ready["failed"]) == (["p"], ["b"])

    (gateway,) = set(re.findall(r"pid=(\d+)\).*path=/ready", log.read_text()))
    os.kill(int(gateway), signal.SIGKILL)
    until(lambda: answers(f"{url}/ready"))
    assert counted(url, "/api/v1/twin/pid") == rows
    assert get(f"{url}/ready")[1] == ready
    with pytest.raises(urllib.error.HTTPError, match="503"):
        get(f"{url}/api/v1/broken")
