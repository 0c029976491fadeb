"""Facts about this machine, read from the kernel; `doctor` judges them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def own_cgroups(kind: str) -> Iterator[Path]:
    """The directories of this process's cgroup and of those around it, innermost first.

    `kind` names the controller in cgroup v1's layout; v2 has one tree for all.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and kind not in controllers.split(","):
            continue
        root = CGROUPS / kind if controllers else CGROUPS
        inner = root / path.lstrip("/")
        # In a container the path may be the host's; then only the root is there to read.
        yield from (place for place in [inner, *inner.parents] if place.is_relative_to(root))


def lowest(kind: str, *files: str) -> int | None:
    """The least number in the first line of any of `files` in the own cgroups; "max" is none."""
    found = []
    for place in own_cgroups(kind):
        for file in files:
            try:
                word = (place / file).read_text().split()[0]
            except (OSError, IndexError):
                continue
            if word.isdigit():
                found.append(int(word))
    return min(found, default=None)


def cpu_quota() -> float | None:
    """How many cores' worth of time the cgroups allow; None without a limit."""
    quotas = []
    for place in own_cgroups("cpu"):
        try:
            if (place / "cpu.max").exists():
                quota, period = (place / "cpu.max").read_text().split()
            else:
                quota = (place / "cpu.cfs_quota_us").read_text().strip()
                period = (place / "cpu.cfs_period_us").read_text().strip()
        except (OSError, ValueError):
            continue
        if quota not in ("max", "-1"):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit() -> int | None:
    """Bytes that the cgroups allow; None without a limit."""
    limit = lowest("memory", "memory.max", "memory.limit_in_bytes")
    # v1 says "no limit" with a number near 2**63
    return None if limit is None or limit >= 1 << 60 else limit


def process_limit() -> int | None:
    """How many processes and threads the cgroups allow; None without a limit."""
    return lowest("pids", "pids.max")


def memfd_error() -> str | None:
    """What goes wrong when 1 MiB of anonymous shared memory is made and written, if anything."""
    import mmap

    try:
        descriptor = os.memfd_create("skate-doctor")
    except (OSError, AttributeError) as error:
        return str(error)
    try:
        os.posix_fallocate(descriptor, 0, 1 << 20)
        with mmap.mmap(descriptor, 1 << 20) as memory:
            memory[:5] = b"skate"
    except OSError as error:
        return str(error)
    finally:
        os.close(descriptor)
    return None


def fork_seconds(times: int = 5) -> float:
    """How long a fork, an empty child and the wait for it take; the best of `times`."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        best = min(best, time.perf_counter() - start)
    return best
