"""Having a worker write down what each of its threads is doing, without its help: it may hang in native code.

The process that forks workers registers a signal with `faulthandler`, whose handler needs no interpreter; its children
inherit that, and the file it writes to: memory without a name, which anybody who may debug the worker finds in /proc.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time

DUMP = signal.SIGRTMIN + 7
"""The signal; one that nobody else is likely to use."""
_NAME = "skate-stacks"
_WAIT = 5.0
"""Seconds that a worker may take until it has begun to write."""
_QUIET = 0.15
"""Seconds without another line after which it has ended."""


def arm() -> None:
    """Have this process, and those that it forks, write their stacks down when they get the signal."""
    import faulthandler

    file = os.memfd_create(_NAME, os.MFD_CLOEXEC)
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
    faulthandler.register(DUMP, file=file, all_threads=True)


def stack_of(pid: int) -> str:
    """What the threads of a worker are doing, the innermost frame first; empty when it does not say.

    Raises ProcessLookupError when there is no such process, PermissionError when it is somebody else's.
    """
    file = _open(pid)
    if file is None:
        return ""
    try:
        os.ftruncate(file, 0)
        os.kill(pid, DUMP)
        return _collect(file)
    finally:
        os.ftruncate(file, 0)
        os.close(file)


def _open(pid: int) -> int | None:
    folder = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(folder)
    except FileNotFoundError:
        raise ProcessLookupError(f"There is no process {pid}.") from None
    for number in numbers:
        path = f"{folder}/{number}"
        try:
            if os.readlink(path).startswith(f"/memfd:{_NAME}"):
                return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # it was closed meanwhile
    return None


def _collect(file: int) -> str:
    """Wait until something was written and nothing more comes."""
    size, since = 0, time.monotonic()
    while time.monotonic() - since < (_QUIET if size else _WAIT):
        time.sleep(0.005)
        now = os.fstat(file).st_size
        if now != size:
            size, since = now, time.monotonic()
    return os.pread(file, size, 0).decode("utf-8", "backslashreplace")
