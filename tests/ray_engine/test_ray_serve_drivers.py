"""Serve on a standing cluster: it goes on when its driver goes, and other drivers find and change what runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import Machines, rays_own

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")
pytest.importorskip("uvicorn", reason="needs the extra skate-ray[serve]")
pytest.importorskip("grpc", reason="Ray Client is not installed: pip install 'ray[client]'")
pytestmark = pytest.mark.slow

FIRST = """
import os, sys, skate
from skate import serve
from part import Part  # a module of this driver's working_dir

skate.init(engine="ray", address=sys.argv[1], log_to_driver=False, runtime_env={"working_dir": os.getcwd()})
serve.start(http_options={"port": 0})
print(serve.run(Part.bind("first")).remote().result(timeout_s=60), serve.get_http_address())
skate.shutdown()
"""
SECOND = """
import json, os, sys, urllib.request, skate
from skate import serve
from part import Part

skate.init(engine="ray", address=sys.argv[1], log_to_driver=False, runtime_env={"working_dir": os.getcwd()})
told = [serve.get_app_handle("default").remote().result(timeout_s=60)]
handle = serve.run(Part.bind("second"), name="other", route_prefix="/other")
told.append(handle.remote().result(timeout_s=60))
for path in ("/", "/other"):
    with urllib.request.urlopen(serve.get_http_address() + path, timeout=60) as answer:
        told.append(answer.read().decode())
told.append(sorted(serve.status().applications))
print(json.dumps(told))
skate.shutdown()
"""
LAST = """
import sys, time, skate
from skate import serve
from skate.serve import context

skate.init(engine="ray", address=sys.argv[1], log_to_driver=False)
assert serve.get_app_handle("configured").remote().result(timeout_s=60) == {"from": "a file"}
serve.shutdown()
print(context.names())
skate.shutdown()
"""


@pytest.fixture
def machines() -> Iterator[Machines]:
    made = Machines(rays_own())
    try:
        made.head()
        yield made
    finally:
        made.close()


def driver(text: str, address: str, folder: Path) -> str:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", text, address]
    for _ in range(3):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
        if "could not begin to act for this program" not in done.stderr:
            break  # Ray's server for clients takes ports that another Ray of this machine may have
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def put_part(folder: Path, says: str) -> Path:
    folder.mkdir()
    (folder / "part.py").write_text(
        "from skate import serve\n"
        "@serve.deployment\n"
        "class Part:\n"
        "    def __init__(self, name):\n"
        "        self.name = name\n"
        f"    def __call__(self, *request):\n        return f'{{self.name}} {says}'\n"
    )
    return folder


@pytest.mark.timeout(280)
@pytest.mark.parametrize("way", ["direct", "client"])
def test_drivers_come_and_go(machines: Machines, tmp_path: Path, way: str) -> None:
    one, two = put_part(tmp_path / "one", "one"), put_part(tmp_path / "two", "two")
    address = machines.address if way == "direct" else f"ray://127.0.0.11:{machines.client_port}"
    said, url = driver(FIRST, address, one).rsplit(" ", 1)
    assert said == "first one" and url.startswith("http://127.0.0.1:")
    told = json.loads(driver(SECOND, address, two))
    assert told == ["first one", "second two", "first one", "second two", ["default", "other"]], "each its own module"
    (tmp_path / "app.py").write_text(
        "from skate import serve\n"
        "@serve.deployment\n"
        "def answer():\n    return {'from': 'a file'}\n"
        "app = answer.bind()\n"
    )
    config = {"applications": [{"name": "configured", "import_path": "app:app", "route_prefix": "/configured",
               "runtime_env": {"env_vars": {"PYTHONPATH": str(tmp_path)}}}]}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "skate", "serve", "deploy", "config.json", "--address", address]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "SKATE_ENGINE": "ray"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert driver(LAST, address, tmp_path) == "[]"
