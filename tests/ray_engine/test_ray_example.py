"""The examples for three engines print the same on all of them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def output(name: str, engine: str) -> str:
    environment = {
        **os.environ, "SKATE_ENGINE": engine, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=100, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("name", "tells"),
    [
        ("harvest.py", "2 bundles, created"),
        ("serve_composition.py", "streamed: a and replica"),
        pytest.param("mcp_server.py", "['copies', 'take_stock']", marks=needs("mcp")),
    ],
)
def test_the_example_prints_the_same_on_all_engines(name, tells):
    text = output(name, "ray")
    assert text == output(name, "local") == output(name, "inline")
    assert tells in text and text.splitlines()[-1].startswith(name.removesuffix(".py") + ": ")
