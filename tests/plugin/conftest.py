"""Services for tests: what a test loads is forgotten after it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")

from skate.plugin import loading, settings

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "plugin_service"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, whose modules can be imported until the test ends."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    before = set(sys.modules)
    yield tmp_path
    forget(before)


def forget(before: set[str]) -> None:
    """Forget the modules that were imported since, and their plugins."""
    for name in set(sys.modules) - before:
        if not name.startswith("skate.") and (getattr(sys.modules[name], "__plugin_meta__", None) or "plugin" in name):
            del sys.modules[name]
    loading.REGISTRY = loading.Registry()
    settings.use(None)


Write = Callable[..., None]


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
    process.wait(10)


def data(response: Any) -> Any:
    """What is in the envelope of an answer that went well."""
    assert response.status_code == 200, response.text
    return response.json()["data"]
