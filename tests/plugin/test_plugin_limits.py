"""Limits of requests hold for connections of clients, on each level; and plugins that hang are told of."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")

from fastapi.testclient import TestClient
from plugin_services import Write, data

from skate.configuration import ConfigError
from skate.plugin import PluginLoadError, run, starting

COUNTS = """
import asyncio
@on_register({options})
class P(BasePlugin):
    now = most = 0
    @on_request("/{name}", methods=["GET"])
    async def one(self) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.1)
        self.now -= 1
        return self.most
    @on_request("/{name}/lines", methods=["GET"], stream=True)
    async def lines(self):
        yield str(await self.one())
"""


@contextmanager
def served(place: Path, *words: str) -> Iterator[str]:
    command = [sys.executable, "-m", "skate", "plugin", "run", "--port", "0", "--strict", "--num-cpus", "2", *words]
    process = subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process.stderr, ThreadPoolExecutor(1) as reader:
        try:
            found = next(filter(None, (re.search(r"listening at (\S+?),? ", line) for line in process.stderr)))
            reader.submit(process.stderr.read)
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0


def ask(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            text = answer.read().decode()
            return answer.status, int(text[6:]) if text.startswith("data: ") else json.loads(text)["data"]
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, None


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_limits_hold_for_clients_on_each_level(write: Write, place: Path, engine: str) -> None:
    write(
        base=COUNTS.format(name="base", options=""),
        own=COUNTS.format(name="own", options="max_ongoing_requests=2"),
        table=COUNTS.format(name="table", options="max_ongoing_requests=9, max_queued_requests=9"),
    )
    (place / "config.toml").write_text(
        "load_plugins = ['base', 'own', 'table']\nbase_ingress_config = {max_ongoing_requests = 3}\n"
        "[plugins.table]\ningress_config = {max_ongoing_requests = 1, max_queued_requests = 1}\n"
    )
    with served(place, "--engine", engine) as url, ThreadPoolExecutor(8) as threads:
        for path, most in (("base", 3), ("own", 2), ("base/lines", 3)):
            answers = list(threads.map(ask, [f"{url}/api/v1/{path}"] * 8))
            assert {status for status, _ in answers} == {200} and max(found for _, found in answers) == most
        answers = list(threads.map(ask, [f"{url}/api/v1/table"] * 8))
        statuses = Counter(status for status, _ in answers)
        assert statuses.keys() == {200, 503} and statuses[200] >= 2
        assert {found for status, found in answers if status == 200} == {1}


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_the_limit_of_all_requests_holds_for_clients(write: Write, place: Path, engine: str) -> None:
    write(one=COUNTS.format(name="one", options=""))
    ingress = 'server.ingress_config={"max_ongoing_requests": 2, "max_queued_requests": 1}'
    with (
        served(place, "--engine", engine, "--load-plugins", "one", "--set", ingress) as url,
        ThreadPoolExecutor(8) as threads,
    ):
        answers = list(threads.map(ask, [f"{url}/api/v1/one"] * 8))
        assert {status for status, _ in answers} == {200, 503}
        assert max(found for status, found in answers if status == 200) <= 2
        assert ask(f"{url}/api/v1/one")[0] == 200


ITSELF = """
@on_register(max_ongoing_requests=1)
class P(BasePlugin):
    @on_request("/outer", methods=["GET"])
    async def outer(self) -> list:
        lines = [line async for line in await call_plugin_api("/api/v1/lines")]
        return [await call_plugin_api("/api/v1/inner"), *lines]
    @on_request("/inner", methods=["GET"])
    async def inner(self) -> str: return "inner"
    @on_request("/lines", methods=["GET"], stream=True)
    async def lines(self): yield await call_plugin_api("/api/v1/inner")
    @on_request("/ends", methods=["GET"])
    async def ends(self) -> str: raise SystemExit(3)
    @on_request("/ends/plainly", methods=["GET"])
    def ends_plainly(self) -> str: raise SystemExit(3)
"""


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_a_plugin_that_calls_itself_has_its_turn_already(
    write: Write, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(["/api/v1/inner", "/api/v1/lines"], p=ITSELF)
    with TestClient(run(test_mode=True, engine=engine, num_cpus=2, load_plugins=["p"], strict=True)) as client:
        assert data(client.get("/api/v1/outer")) == ["inner", "inner"]
        for path in ("ends", "ends/plainly"):  # that a plugin ends the process is its own error
            assert client.get(f"/api/v1/{path}").status_code == 500
        assert data(client.get("/api/v1/outer")) == ["inner", "inner"]
    caplog.clear()  # tracebacks hold on to the session


HANGS = """
import asyncio
@on_register()
class P(BasePlugin):
    async def on_start(self): {start}
    @on_request("/{name}", methods=["GET"])
    async def it(self) -> str: return "it"
"""


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_plugins_that_hang_or_exit_at_the_start_leave_the_others_alone(
    write: Write, engine: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "NOTICE_S", 0.4)
    write(
        good=HANGS.format(name="good", start="pass"),
        hangs=HANGS.format(name="hangs", start="await asyncio.sleep(1000)"),
        exits=HANGS.format(name="exits", start="raise SystemExit(3)"),
    )
    names = ["hangs", "exits", "good"]
    flags = {"server.start_timeout_s": 1.0}
    with (
        caplog.at_level(logging.INFO),
        TestClient(run(test_mode=True, engine=engine, num_cpus=2, load_plugins=names, flags=flags)) as client,
    ):
        assert data(client.get("/api/v1/good")) == "it"
        assert client.get("/api/v1/hangs").status_code == client.get("/api/v1/exits").status_code == 503
    assert "plugin hangs.P is still starting after 0.4 s" in caplog.text
    assert "plugin hangs does not run: PluginError: it has not started within 1 s" in caplog.text
    assert "plugin exits does not run: PluginError: exits.P.on_start called sys.exit(3)" in caplog.text


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_plugins_that_hang_or_fail_at_the_end_leave_the_others_alone(
    write: Write, place: Path, engine: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "STOP_S", 0.3)
    ends = HANGS + "    async def on_stop(self): {stop}\n"
    write(
        first=ends.format(name="first", start="pass", stop="open('ended', 'w').close()"),
        hangs=ends.format(name="hangs", start="pass", stop="await asyncio.sleep(1000)"),
        fails=ends.format(name="fails", start="pass", stop="1 / 0"),
    )
    names = ["first", "fails", *(["hangs"] if engine == "inline" else [])]  # elsewhere it is left after 10 s
    with TestClient(run(test_mode=True, engine=engine, num_cpus=2, load_plugins=names, strict=True)) as client:
        assert data(client.get("/api/v1/first")) == data(client.get("/api/v1/fails")) == "it"
    assert (place / "ended").exists()
    if engine == "inline":  # elsewhere the log is another process's
        assert "hangs.P has not ended within 0.3 s" in caplog.text and "fails.P did not end cleanly" in caplog.text


CHECKED = """
import os
@on_register(health_check_period_s=0.2, health_check_timeout_s=5)
class P(BasePlugin):
    ill = False
    {check}
        if self.ill: raise RuntimeError("ill")
    @on_request("/pid", methods=["GET"])
    async def pid(self, ill: bool = False) -> int:
        self.ill = self.ill or ill
        return os.getpid()
"""


@pytest.mark.parametrize("check", ["def check_health(self):", "async def check_health(self):"])
def test_a_plugin_that_is_ill_is_replaced(write: Write, check: str) -> None:
    write(p=CHECKED.format(check=check))
    with TestClient(run(test_mode=True, engine="local", num_cpus=2, load_plugins=["p"], strict=True)) as client:
        pid = data(client.get("/api/v1/pid?ill=true"))
        deadline = time.monotonic() + 50
        while (answer := client.get("/api/v1/pid")).status_code != 200 or data(answer) == pid:
            assert time.monotonic() < deadline and answer.status_code in (200, 503)
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"base_ingress_config": {"max_ongoing_request": 5}}, "no deployment option 'max_ongoing_request'. Is 'max_on"),
        ({"base_ingress_config": {"max_ongoing_requests": 0}}, "base_ingress_config: max_ongoing_requests must be"),
        ({"server.ingress_config": {"max_ongoing_requests": "5"}}, "server.ingress_config.: max_ongoing_requests must"),
        ({"server.ingress_config": {"num_replicas": 5}}, "server.ingress_config. has no setting 'num_replicas'"),
    ],
)
def test_limits_that_are_none_are_refused(place: Path, flags: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(test_mode=True, flags=flags)


def test_a_plugins_wrong_limits_or_metadata_are_its_own_trouble(
    write: Write, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(good=HANGS.format(name="good", start="pass"))
    write(many="@on_register(max_ongoing_requests='many')\nclass P(BasePlugin): pass")
    write(table="@on_register()\nclass P(BasePlugin): pass")
    (place / "meta.py").write_text("from skate.plugin import *\n__plugin_meta__ = PluginMetadata(name='m', autor='me')")
    flags = {"plugins.table.ingress_config": {"max_queued_request": 1}}
    names = ["good", "many", "table", "meta"]
    with TestClient(run(test_mode=True, load_plugins=names, flags=flags)) as client:
        assert data(client.get("/api/v1/good")) == "it"
    assert "plugin many is left out: ValueError: many.P: max_ongoing_requests must be a whole number" in caplog.text
    assert "plugin table is left out: TypeError: There is no deployment option 'max_queued_request'" in caplog.text
    told = "PluginMetadata: version: Field required; description: Field required; autor: Extra inputs are not permitted"
    assert f"plugin meta is left out: {told}" in caplog.text


def test_who_requires_what_does_not_work_is_left_out_too(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    write(broken="1 / 0", good=HANGS.format(name="good", start="pass"))
    write(["/api/v1/broken"], needs=HANGS.format(name="needs", start="pass"))
    write(["/api/v1/needs", "/api/v1/good"], needs_that=HANGS.format(name="needs_that", start="pass"))
    names = ["broken", "good", "needs", "needs_that"]
    with TestClient(run(test_mode=True, load_plugins=names)) as client:
        assert data(client.get("/api/v1/good")) == "it"
        assert client.get("/ready").json()["failed"] == ["broken", "needs", "needs_that"]
    assert "plugin needs is left out: it requires '/api/v1/broken', which no plugin that works offers" in caplog.text
    with pytest.raises(PluginLoadError, match=r"\(3\)"):
        run(test_mode=True, load_plugins=names, strict=True)
