"""Small runs of chaos, each of another seed: every result right or its exact error, nothing hung, nothing left."""

from __future__ import annotations

import os
import time

import pytest

import skate
from skate.core import engine as engines
from skate.testing import chaos
from skate.testing.faults import FaultPlan


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_chaos(seed: int) -> None:
    done = chaos.run(
        seed, 300, 6, chaos.plan_for(seed, 40), limit=150, room=4_000_000, num_cpus=2, object_store_memory=chaos.STORE
    )
    assert sum(done.ended.values()) == 300
    assert sum(fault.kind == "kill" for fault in done.log) >= 3


def test_without_faults_all_is_right() -> None:
    done = chaos.run(1, 200, 2, FaultPlan(), limit=150, num_cpus=2, object_store_memory=chaos.STORE)
    assert sum(done.ended.values()) == 200 and done.log == []
    assert not any("WorkerCrashed" in end or "Unavailable" in end for end in done.ended)


def test_a_wrong_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos.work, "number", lambda i: i * 7 + 2)  # what the driver expects
    with pytest.raises(AssertionError, match=r"plain: got \d+, expected \d+"):
        chaos.run(1, 100, 0, FaultPlan(), limit=150, num_cpus=2, object_store_memory=chaos.STORE)


def test_what_is_left_behind_is_found(session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = skate.put(b"x" * 100_000)
    began = time.monotonic()
    real = time.monotonic
    monkeypatch.setattr(chaos.time, "monotonic", lambda: began + 100 * (real() - began))  # its patience is 30 s
    found = chaos.leftovers(engines.running())
    assert any("1 rows" in what for what in found)
    del kept
    monkeypatch.undo()
    assert chaos.leftovers(engines.running()) == []


def test_a_run_that_hangs_says_where(tmp_path: object) -> None:
    import subprocess
    import sys

    program = (
        "import skate, time\n"
        "from skate.testing import chaos, chaos_work as work\n"
        "from skate.testing.faults import FaultPlan\n"
        "chaos.jobs = lambda *_: iter([chaos.Job('sleeps', work.slow.remote(1, 600), 8)])\n"
        "chaos.run(1, 1, 0, FaultPlan(), limit=4, num_cpus=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=dict(os.environ), capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 2
    for said in ("did not end in time", "row 0x", "thread MainThread", "--- worker", "in slow"):
        assert said in done.stderr, done.stderr
