"""Memory and CPU time of processes, from /proc.

It needs the standard library alone, so that every contestant can use it.
"""

from __future__ import annotations

import os
from pathlib import Path


def _kilobytes(path: str, wanted: tuple[str, ...]) -> int:
    total = 0
    for line in Path(path).read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in wanted:
            total += int(rest.split()[0])
    return total


def resident(pid: int) -> int:
    """Bytes of `pid` in memory, those it shares with others included."""
    return 1024 * _kilobytes(f"/proc/{pid}/status", ("VmRSS",))


def private(pid: int) -> int:
    """Bytes that would be free again if `pid` ended (often called USS)."""
    return 1024 * _kilobytes(f"/proc/{pid}/smaps_rollup", ("Private_Clean", "Private_Dirty"))


def proportional(pid: int) -> int:
    """Bytes of `pid` with each shared page split among its users (PSS)."""
    return 1024 * _kilobytes(f"/proc/{pid}/smaps_rollup", ("Pss",))


def _parents_and_sessions() -> dict[int, tuple[int, int]]:
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
        except OSError:  # ended while we were reading
            continue
        # The name, in parentheses, may hold blanks: count fields from its end.
        fields = stat.rpartition(")")[2].split()
        found[int(entry)] = int(fields[1]), int(fields[3])
    return found


def tree(root: int) -> list[int]:
    """`root` and all processes below it, parents first."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in _parents_and_sessions().items():
        children.setdefault(parent, []).append(pid)
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def session(leader: int) -> list[int]:
    """The processes of the session of `leader`: found even when their parents have gone."""
    return [pid for pid, (_, its_session) in _parents_and_sessions().items() if its_session == leader]


def tree_proportional(root: int) -> int:
    """PSS of `root` and all processes below it."""
    total = 0
    for pid in tree(root):
        try:
            total += proportional(pid)
        except OSError:  # ended meanwhile
            continue
    return total


def footprint() -> tuple[int, int]:
    """Bytes resident in this process, and the PSS of it and all processes below it."""
    return resident(os.getpid()), tree_proportional(os.getpid())


def growth(before: tuple[int, int]) -> tuple[int, int]:
    """What `footprint()` has gained since `before`."""
    now = footprint()
    return now[0] - before[0], now[1] - before[1]


def cpu_seconds(pids: list[int]) -> dict[int, float]:
    """CPU time, user and system, that each of the living among `pids` has used so far."""
    used = {}
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        used[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def in_shared_mapping(address: int) -> bool:
    """Whether `address` of this process lies in a mapping that is shared with other processes."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions = line.split()[:2]
        low, high = (int(part, 16) for part in span.split("-"))
        if low <= address < high:
            return permissions.endswith("s")
    return False
