"""Services for tests: what a test loads is forgotten after it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")

from plugin_services import EXAMPLE, Write, forget


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, whose modules can be imported until the test ends."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    yield tmp_path
    forget(tmp_path)


@pytest.fixture
def write(place: Path) -> Write:
    """Writes modules of plugins: their names, and their text without what all of them begin with."""

    def put(required: list[str] | None = None, **modules: str) -> None:
        for name, text in modules.items():
            path = place / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            short = path.stem
            path.write_text(
                "from skate.plugin import *\n"
                "from pydantic import BaseModel\n"
                f"__plugin_meta__ = PluginMetadata(name={short!r}, version='1', description='', "
                f"required_remote_apis={required or []!r})\n" + textwrap.dedent(text)
            )

    return put


@pytest.fixture(scope="module")
def warehouse() -> Iterator[str]:
    """The upstream service of the example, in a process of its own; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, EXAMPLE / "warehouse.py", str(port)])
    deadline = time.monotonic() + 30
    while True:
        assert process.poll() is None and time.monotonic() < deadline, "the warehouse does not start"
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(60)
