"""What `skate doctor` makes of a machine's numbers."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from skate.cli import doctor, machine
from skate.cli.doctor import GB, MB, Finding


@pytest.mark.parametrize(
    ("finding", "status"),
    [
        (doctor.judge_python((3, 11, 7), "CPython", "linux"), "ok"),
        (doctor.judge_python((3, 10, 1), "CPython", "linux"), "fail"),
        (doctor.judge_python((3, 11, 7), "PyPy", "linux"), "warn"),
        (doctor.judge_python((3, 11, 7), "CPython", "darwin"), "fail"),
        (doctor.judge_cores(4, None), "ok"),
        (doctor.judge_cores(4, 4.0), "ok"),
        (doctor.judge_cores(4, 1.5), "warn"),
        (doctor.judge_cores(1, None), "warn"),
        (doctor.judge_memory(16 * GB, 8 * GB, None), "ok"),
        (doctor.judge_memory(16 * GB, 8 * GB, 512 * MB), "warn"),
        (doctor.judge_memory(16 * GB, 100 * MB, None), "fail"),
        (doctor.judge_shared_memory(None, 64 * MB), "ok"),
        (doctor.judge_shared_memory(None, None), "ok"),
        (doctor.judge_shared_memory("Operation not permitted", 64 * MB), "fail"),
        (doctor.judge_fork(0.002), "ok"),
        (doctor.judge_fork(0.2), "warn"),
        (doctor.judge_processes(None, 2), "ok"),
        (doctor.judge_processes(4096, 2), "ok"),
        (doctor.judge_processes(100, 2), "warn"),
        (doctor.judge_processes(10, 2), "fail"),
        (doctor.judge_files(1024, 4096), "ok"),
        (doctor.judge_files(resource.RLIM_INFINITY, resource.RLIM_INFINITY), "ok"),
        (doctor.judge_files(512, resource.RLIM_INFINITY), "warn"),
        (doctor.judge_files(64, 64), "fail"),
        (doctor.judge_temporary("/tmp", True, 10 * GB), "ok"),
        (doctor.judge_temporary("/tmp", True, 10 * MB), "warn"),
        (doctor.judge_temporary("/tmp", False, 10 * GB), "fail"),
        (doctor.judge_engine(0.02, 0.01), "ok"),
        (doctor.judge_engine(0.02, 2.0), "warn"),
    ],
)
def test_judgement(finding: Finding, status: str) -> None:
    assert finding.status == status
    assert bool(finding.advice) == (status != "ok"), "what is not ok comes with what to do"


def test_engine_that_fails_is_reported_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FIRST_TASK", "raise OSError('no room')")
    assert doctor.examine_engine()[1:3] == ("fail", "OSError: no room")


def test_engine_that_hangs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FIRST_TASK", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "ENGINE_LIMIT_S", 0.2)
    assert doctor.examine_engine().status == "fail"


def test_package_that_is_not_there() -> None:
    finding = doctor.list_packages(["click", "no-such-package"])
    assert finding.found.startswith("click 8")
    assert finding.found.endswith("no no-such-package")


def test_tightest_cgroup_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (inner / "memory.max").write_text("max\n")
    (inner / "pids.max").write_text("500\n")
    (tmp_path / "outer" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "outer" / "memory.max").write_text("1000000\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "own_cgroups", lambda kind: [inner, inner.parent, tmp_path])
    assert machine.cpu_quota() == 1.5
    assert machine.memory_limit() == 1_000_000
    assert machine.process_limit() == 500


def test_old_cgroups_without_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "memory.limit_in_bytes").write_text(str(0x7FFFFFFFFFFFF000))
    monkeypatch.setattr(machine, "own_cgroups", lambda kind: [tmp_path])
    assert machine.cpu_quota() is None
    assert machine.memory_limit() is None
    assert machine.process_limit() is None


def test_shared_memory_and_fork_work_here() -> None:
    assert machine.memfd_error() is None
    assert 0 < machine.fork_seconds() < 1
