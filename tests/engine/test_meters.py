"""What is read from the kernel about memory, in each of its layouts."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from skate.engines.local.meters import Reading, in_words, kernel_kills, machine_meter, own_memory

MB = 1 << 20


def files(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of 1000 MB of which 300 are in use."""
    files(tmp_path, proc__meminfo=f"MemTotal: {1000 * 1024} kB\nMemFree: 1 kB\nMemAvailable: {700 * 1024} kB\n")
    return tmp_path


def test_machine_without_limits_is_what_counts(root: Path) -> None:
    files(root, proc__self__cgroup="0::/\n")
    assert machine_meter(root)() == Reading(300 * MB, 1000 * MB, "this machine")


def test_control_group_that_is_fuller_counts_without_its_file_caches(root: Path) -> None:
    files(
        root,
        proc__self__cgroup="0::/pod/own\n",
        sys__fs__cgroup__pod__memory_dot_max=f"{400 * MB}\n",
        sys__fs__cgroup__pod__memory_dot_current=f"{390 * MB}\n",
        sys__fs__cgroup__pod__memory_dot_stat=f"anon 1\ninactive_file {100 * MB}\nactive_file {90 * MB}\n",
        sys__fs__cgroup__pod__own__memory_dot_max="max\n",
    )
    assert machine_meter(root)() == Reading(200 * MB, 400 * MB, "this control group")


def test_first_version_of_control_groups_is_read_too(root: Path) -> None:
    place = "sys__fs__cgroup__memory__pod"
    files(
        root,
        proc__self__cgroup="5:cpu:/pod\n4:memory:/pod\n0::/\n",
        **{f"{place}__memory_dot_limit_in_bytes": f"{400 * MB}\n"},
        **{f"{place}__memory_dot_usage_in_bytes": f"{390 * MB}\n"},
        **{f"{place}__memory_dot_stat": f"cache 1\ntotal_inactive_file {10 * MB}\ntotal_active_file 0\n"},
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes="9223372036854771712\n",
    )
    assert machine_meter(root)() == Reading(380 * MB, 400 * MB, "this control group")


def test_limit_that_is_raised_later_is_seen(root: Path) -> None:
    place = root / "sys/fs/cgroup"
    files(root, proc__self__cgroup="0::/\n", sys__fs__cgroup__memory_dot_max="100\n")
    files(root, sys__fs__cgroup__memory_dot_current="50\n", sys__fs__cgroup__memory_dot_stat="anon 50\n")
    meter = machine_meter(root)
    assert meter().total == 100
    (place / "memory.max").write_text("120\n")
    assert meter().total == 120
    (place / "memory.max").write_text("max\n")
    assert meter().where == "this machine"


def test_own_memory_counts_what_a_process_has_for_itself_and_no_shared_memory() -> None:
    before = own_memory(os.getpid())
    block = bytearray(64 * MB)
    with mmap.mmap(-1, 64 * MB, flags=mmap.MAP_SHARED) as shared:
        shared.write(b"x" * (64 * MB))
        grown = own_memory(os.getpid()) - before
    assert 60 * MB < grown < 80 * MB
    assert len(block) == 64 * MB


def test_process_that_is_gone_has_none() -> None:
    assert own_memory(1 << 22) == 0


def test_this_machine_can_be_read() -> None:
    reading = machine_meter()()
    assert 0 < reading.used < reading.total
    assert kernel_kills() >= -1


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (3 << 30, "3.2 GB")],
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert in_words(size) == words
