"""`skate serve`: in the foreground, and against a standing hub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from skate import standing

MODULE = """
from skate import serve


@serve.deployment(num_replicas=2, max_ongoing_requests=7)
class Model:
    def __init__(self, size):
        self.size = size

    def reconfigure(self, config):
        pass

    def __call__(self):
        return "one", self.size


app = Model.bind(1)


def build(args):
    return Model.options(num_replicas=1).bind(args["size"])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(MODULE)
    return tmp_path


def skate(folder: Path, *words: str, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "skate", "serve", *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def hub(folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("hubs")))
    for name in ("SKATE_ADDRESS", "RAY_ADDRESS", "RAY_DASHBOARD_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    hub = standing.start(num_cpus=2)
    yield
    standing.stop(hub, force=True)


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
def test_a_life_in_a_standing_hub(folder: Path) -> None:
    assert "no applications" in skate(folder, "status")
    assert "Serve runs" in skate(folder, "start", "--http-port", "0")
    written = skate(folder, "build", "shop:app", "-o", "serve.yaml")
    assert "serve.yaml is written" in written
    text = (folder / "serve.yaml").read_text()
    assert "max_ongoing_requests: 7" in text and "num_replicas: 2" in text
    (folder / "serve.yaml").write_text(text.replace("route_prefix: /", "route_prefix: null"))

    assert "Application app1 run" in skate(folder, "deploy", "serve.yaml", "--wait")
    shown = skate(folder, "status")
    assert "app1" in shown and "2 RUNNING of 2" in shown and "0 / 0" in shown
    assert "replica_states:\n          RUNNING: 2" in skate(folder, "status", "--yaml")
    details = json.loads(skate(folder, "status", "--json", "--name", "app1"))
    assert details["status"] == "RUNNING"
    assert "import_path: shop:app" in skate(folder, "config")
    assert "No config" in skate(folder, "config", "--name", "other")
    assert "does not exist" in skate(folder, "status", "--name", "other", code=1)

    url = skate(folder, "start", "--rest-port", "0").split()[-1].rstrip(".")
    assert "2 RUNNING of 2" in skate(folder, "status", "--address", url)
    assert "Application app1 run" in skate(folder, "deploy", "serve.yaml", "--address", url, "--wait")
    failed = skate(folder, "deploy", "nothing:app", "--name", "app1", "--address", url, "--wait", code=1)
    assert "There is no module 'nothing'" in failed

    assert "shut down" in skate(folder, "shutdown", "-y")
    assert "does not run" in skate(folder, "shutdown", "-y")


@contextmanager
def running(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], None]]]:
    """`skate serve run` in the background; the function waits for a text in what it prints."""
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "skate", "serve", "run", *words],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in log.read_text():
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.05)

    try:
        yield process, wait_for
    finally:
        process.kill()
        process.wait()


def test_run_stays_until_ctrl_c_and_sees_changed_files(folder: Path) -> None:
    with running(folder, "shop:build", "size=3", "--http-port", "0", "--reload") as (process, wait_for):
        wait_for("Application default runs at http://127.0.0.1:")
        url = (folder / "log").read_text().split()[-1].rstrip(".")
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert json.loads(answer.read()) == ["one", "3"]
        (folder / "shop.py").write_text(MODULE.replace('"one"', "1/0/"))
        wait_for("could not be deployed")
        wait_for("SyntaxError")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "shop:nothing", "--http-port", "0"), "has no 'nothing'"),
        (("run", "shop:build", "size"), "must be of the form '<key>=<val>'"),
        (("run", "wrong.yaml"), "wrong.yaml: applications[0].import_path: is required"),
        (("build", "shop:Model"), "shop:Model.bind()"),
        (("deploy", "shop:app", "--address", "http://127.0.0.1:9/"), "cannot be reached"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line_with_exit_code_1(folder: Path, words: Any, said: str) -> None:
    (folder / "wrong.yaml").write_text("applications: [{}]")
    told = skate(folder, *words, code=1)
    assert said in told and "Traceback" not in told


def test_build_prints_a_configuration_that_can_be_read(folder: Path) -> None:
    import yaml

    from skate.serve.config_file import ServeDeploySchema

    found = ServeDeploySchema.model_validate(yaml.safe_load(skate(folder, "build", "shop:app", "shop:app")))
    assert [app.route_prefix for app in found.applications] == ["/app1", "/app2"]
    assert found.applications[0].deployments[0].options() == {
        "name": "Model",
        "num_replicas": 2,
        "max_ongoing_requests": 7,
    }
