"""The fixture that users get: it puts plans in force, and a failed test shows them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = 'pytest_plugins = ["skate.testing.faults_plugin"]\n'
TESTS = """
import pytest, skate
from skate.testing.faults import FaultPlan, Kill

@pytest.fixture(autouse=True)
def session():
    skate.init(engine="local", num_cpus=1)
    yield
    skate.shutdown()

@skate.remote(max_retries=-1)
def f(i):
    return i

def test_survives(skate_faults):
    with skate_faults(seed=7, kill_every=5) as log:
        assert skate.get([f.remote(i) for i in range(30)], timeout=60) == list(range(30))
    assert log

def test_fails(skate_faults):
    with skate_faults(FaultPlan(seed=123, kills=(Kill(1, 1, "exit"),))):
        assert skate.get(f.remote(1), timeout=60) == 2
"""


def test_the_fixture_injects_and_a_failure_shows_plan_and_log(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=."]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=150)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "Skate's faults" in done.stdout and "FaultPlan(seed=123" in done.stdout
    assert "kill at 1: exit (begin) at call 1 of worker 1, f" in done.stdout
