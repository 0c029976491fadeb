"""The example for three engines prints the same on all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "harvest.py"


def output(engine: str) -> str:
    environment = {**os.environ, "SKATE_ENGINE": engine, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(120)
def test_the_example_prints_the_same_on_all_engines():
    text = output("ray")
    assert text == output("local") == output("inline")
    assert "2 bundles, created" in text and text.endswith("harvest: the same on every engine\n")
