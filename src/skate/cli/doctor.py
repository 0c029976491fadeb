"""`skate doctor`: is this machine fit, and if not, what to do.

Each `judge_...` function is a decision about plain numbers; `examine` reads the numbers.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from typing import Literal, NamedTuple

from skate.cli import machine

MB = 1 << 20
GB = 1 << 30

ENGINE_LIMIT_S = 60  # how long the engine may take before it counts as hung
FIRST_TASK = """
import time
start = time.perf_counter()
import skate
imported = time.perf_counter()
skate.init(log_to_driver=False)
assert skate.get(skate.remote(lambda: 42).remote()) == 42
print(imported - start, time.perf_counter() - imported)
skate.shutdown()
"""
REPORT_IT = "mend what else failed here; if nothing did, report this"
OPTIONAL = ("numpy", "pyarrow", "torch", "ray", "tqdm")


class Finding(NamedTuple):
    """One line of the doctor's report."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""
    """What to do; empty when all is well."""


def examine() -> list[Finding]:
    """All findings about this machine, in the order in which they matter."""
    import psutil

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory = psutil.virtual_memory()
    temporary = tempfile.gettempdir()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        judge_python(sys.version_info[:3], platform.python_implementation(), sys.platform),
        judge_cores(cores or 1, machine.cpu_quota()),
        judge_memory(memory.total, memory.available, machine.memory_limit()),
        judge_shared_memory(machine.memfd_error(), disk_total("/dev/shm")),
        judge_fork(machine.fork_seconds()),
        judge_processes(process_room(), cores or 1),
        judge_files(soft, hard),
        judge_temporary(temporary, os.access(temporary, os.W_OK), disk_free(temporary)),
        examine_engine(),
        list_packages(OPTIONAL),
    ]


def judge_python(version: tuple[int, ...], implementation: str, system: str) -> Finding:
    """Is this interpreter one that Skate runs on?"""
    found = f"{implementation} {'.'.join(map(str, version))} on {system}"
    if version < (3, 11):
        return Finding("Python", "fail", found, "install Python 3.11 or newer")
    if implementation != "CPython":
        return Finding("Python", "warn", found, "Skate is tested on CPython only")
    if system != "linux":
        advice = "worker processes need Linux; elsewhere use the inline engine: SKATE_ENGINE=inline"
        return Finding("Python", "fail", found, advice)
    return Finding("Python", "ok", found)


def judge_cores(usable: int, quota: float | None) -> Finding:
    """`quota` is how many cores' time a container gets; None without a limit."""
    found = f"{usable} usable"
    if quota is not None and quota < usable:
        found += f", of which this container gets the time of {quota:g}"
        whole = max(1, int(quota))
        advice = f"more workers than that wait for each other; try skate.init(num_cpus={whole})"
        return Finding("Cores", "warn", found, advice)
    if usable == 1:
        advice = "tasks will run one after the other; give the machine or container more cores"
        return Finding("Cores", "warn", found, advice)
    return Finding("Cores", "ok", found)


def judge_memory(total: int, available: int, limit: int | None) -> Finding:
    """In bytes; `limit` is the container's, None without one."""
    usable = available if limit is None else min(available, limit)
    found = f"{total / GB:.1f} GB, {available / GB:.1f} GB available"
    if limit is not None and limit < total:
        found += f", this container gets {limit / GB:.1f} GB"
    if usable < 256 * MB:
        advice = "too little to work with: end other programs, or raise the container's limit"
        return Finding("Memory", "fail", found, advice)
    if usable < GB:
        advice = "keep objects small, or set skate.init(object_store_memory=...) to what can be spared"
        return Finding("Memory", "warn", found, advice)
    return Finding("Memory", "ok", found)


def judge_shared_memory(error: str | None, dev_shm: int | None) -> Finding:
    """`error` is why memfd failed, None if it works; `dev_shm` the bytes of /dev/shm, None where there is none."""
    size = "no /dev/shm" if dev_shm is None else f"/dev/shm has {dev_shm / MB:,.0f} MB"
    if error is not None:
        advice = "the kernel or a sandbox forbids memfd_create; allow it (seccomp profile), or use SKATE_ENGINE=inline"
        return Finding("Shared memory", "fail", f"memfd_create: {error}", advice)
    # Skate takes memory from memfd, whose only limit is the machine's memory.
    return Finding("Shared memory", "ok", f"memfd works; {size} (Skate does not need it)")


def judge_fork(seconds: float) -> Finding:
    """`seconds` is what it takes to start and end a process."""
    found = f"{seconds * 1000:.1f} ms for a process"
    if seconds > 0.02:
        advice = "workers start slowly here (a sandbox or a virtual machine?): reuse actors"
        return Finding("Fork", "warn", found, advice)
    return Finding("Fork", "ok", found)


def judge_processes(room: int | None, cores: int) -> Finding:
    """`room` is how many processes may exist at once; None without a limit."""
    if room is None:
        return Finding("Processes", "ok", "no limit")
    found = f"at most {room:,}"
    if room < 4 * cores + 16:
        advice = "raise it (ulimit -u, or the container's pids limit): every actor is a process"
        return Finding("Processes", "fail", found, advice)
    if room < 512:
        advice = "enough for tasks; raise it for hundreds of actors (ulimit -u, pids limit)"
        return Finding("Processes", "warn", found, advice)
    return Finding("Processes", "ok", found)


def judge_files(soft: int, hard: int) -> Finding:
    """The soft and the hard limit on open files."""
    if soft == resource.RLIM_INFINITY:
        return Finding("Open files", "ok", "no limit")
    highest = "no limit" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    found = f"at most {soft:,} (may be raised to {highest})"
    if soft < 256:
        return Finding("Open files", "fail", found, "run `ulimit -n 4096` before your program")
    if soft < 1024:
        advice = "enough for tasks; run `ulimit -n 4096` for hundreds of actors"
        return Finding("Open files", "warn", found, advice)
    return Finding("Open files", "ok", found)


def judge_temporary(path: str, writable: bool, free: int | None) -> Finding:
    """`free` is in bytes; None when the disk could not be asked."""
    if not writable or free is None:
        advice = "session folders go there; set TMPDIR to a directory you may write to"
        return Finding("Temporary files", "fail", f"{path} cannot be written", advice)
    found = f"{path} has {free / GB:.1f} GB free"
    if free < GB:
        advice = "session folders go there; free some space, or set TMPDIR"
        return Finding("Temporary files", "warn", found, advice)
    return Finding("Temporary files", "ok", found)


def judge_engine(import_seconds: float, first_task_seconds: float) -> Finding:
    """How long the import took, and from `init` to the first task's result."""
    found = f"first task after {first_task_seconds * 1000:.0f} ms (and {import_seconds * 1000:.0f} ms for the import)"
    if first_task_seconds > 0.5:
        advice = "slow; the machine may be busy: look again later, or see `skate bench`"
        return Finding("Engine", "warn", found, advice)
    return Finding("Engine", "ok", found)


def examine_engine() -> Finding:
    """Start the engine and run one task, in an interpreter of its own: doctor must not hang."""
    command = [sys.executable, "-c", FIRST_TASK]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ENGINE_LIMIT_S)
    except subprocess.TimeoutExpired:
        found = f"no task came back within {ENGINE_LIMIT_S} s"
        return Finding("Engine", "fail", found, REPORT_IT)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Finding("Engine", "fail", last, REPORT_IT)
    imported, first_task = map(float, done.stdout.split())
    return judge_engine(imported, first_task)


def list_packages(names: Iterable[str]) -> Finding:
    """Versions of packages that Skate can use and does not need."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return Finding("Optional packages", "ok", ", ".join(found))


def process_room() -> int | None:
    """How many processes may exist at once; None without a limit."""
    limits = [resource.getrlimit(resource.RLIMIT_NPROC)[0], machine.process_limit()]
    return min((n for n in limits if n not in (None, resource.RLIM_INFINITY)), default=None)


def disk_total(path: str) -> int | None:
    """The bytes of the disk that holds `path`; None when there is none."""
    try:
        return shutil.disk_usage(path).total
    except OSError:
        return None


def disk_free(path: str) -> int | None:
    """The bytes free on the disk that holds `path`; None when there is none."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None
