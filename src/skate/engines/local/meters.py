"""How much memory is in use: by the machine, by the control groups that this process is in, by one process.

Only Linux's own files are read: ``/proc/meminfo``, ``/proc/<pid>/statm``, ``memory.*`` of control groups (version 1
and 2). File caches do not count, for the kernel takes them back by itself; shared memory does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

PAGE = os.sysconf("SC_PAGE_SIZE")
CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60
"""Version 1 says "no limit" with a number near 2**63."""
_V1_LIMIT = "memory.limit_in_bytes"
_V2_LIMIT = "memory.max"


class Reading(NamedTuple):
    """Bytes in use, of how many, of what."""

    used: int
    total: int
    where: str

    @property
    def share(self) -> float:
        """The part in use."""
        return self.used / self.total


Meter = Callable[[], Reading]


def machine_meter(root: Path = Path("/")) -> Meter:
    """Reads what is closest to its limit: the machine, or one of the control groups around this process."""
    meters = [_meminfo(root / "proc/meminfo"), *(_group(place) for place in _limited_groups(root))]

    def fullest() -> Reading:
        return max((meter() for meter in meters), key=lambda reading: reading.share)

    return fullest


def _meminfo(path: Path) -> Meter:
    def read() -> Reading:
        numbers = _numbers(path)
        total = numbers["MemTotal:"] * 1024
        return Reading(total - numbers["MemAvailable:"] * 1024, total, "this machine")

    return read


def _group(place: Path) -> Meter:
    second = (place / _V2_LIMIT).exists()
    limit, current = (_V2_LIMIT, "memory.current") if second else (_V1_LIMIT, "memory.usage_in_bytes")
    caches = ("inactive_file", "active_file") if second else ("total_inactive_file", "total_active_file")

    def read() -> Reading:
        numbers = _numbers(place / "memory.stat")
        used = int((place / current).read_text()) - sum(numbers.get(cache, 0) for cache in caches)
        return Reading(max(0, used), _limit(place / limit) or UNLIMITED, "this control group")

    return read


def _numbers(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    found = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) > 1:
            found[words[0]] = int(words[1])
    return found


def _limited_groups(root: Path) -> Iterator[Path]:
    """The control groups around this process that set a limit on memory."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        inner = top / path.lstrip("/")
        # In a container the path may be the host's; then only the top is there to read.
        for place in [inner, *inner.parents]:
            if place.is_relative_to(top) and _limit(place / (_V1_LIMIT if controllers else _V2_LIMIT)):
                yield place


def _limit(path: Path) -> int:
    """The number of bytes in a file; 0: there is no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() and int(text) < UNLIMITED else 0


def own_memory(pid: int) -> int:
    """Bytes of memory that a process has for itself: without files and without shared memory. 0: it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb", 0) as file:
            _, resident, shared = file.read(200).split()[:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * PAGE


def kernel_kills() -> int:
    """Processes that the kernel has ended for want of memory since the machine started; -1: it does not tell."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except OSError:
        return -1
    return -1


def in_words(size: int) -> str:
    """Bytes as people read them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"
