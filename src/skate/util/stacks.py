"""What the processes of a session are doing at this moment: their Python stacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterable

from skate.core.stack_dump import stack_of
from skate.util.state.api import list_workers
from skate.util.state.common import RAY_MAX_LIMIT_FROM_API_SERVER


def stacks(pids: Iterable[int] | None = None, *, py_spy: bool = True) -> dict[int, str]:
    """The stack of each thread of workers, by pid, as text.

    They are taken from outside, so that a worker that hangs shows where. With ``py-spy`` on the path its dump is taken,
    which also knows native frames; otherwise, or where it may not look, the worker's own `faulthandler` writes.

    Args:
        pids: which processes; the session's living workers and drivers when None.
        py_spy: whether to use ``py-spy`` if it is there.

    Raises ServerUnavailable without `pids` and a session. A process that is gone, or does not answer, says so in words.
    """
    if pids is None:
        rows = list_workers(filters=[("is_alive", "=", True)], limit=RAY_MAX_LIMIT_FROM_API_SERVER)
        pids = [row.pid for row in rows if row.pid]
    tool = shutil.which("py-spy") if py_spy else None
    return {pid: _stack(pid, tool) for pid in pids}


def _stack(pid: int, tool: str | None) -> str:
    if pid == os.getpid():
        return _own()
    found = _spied(tool, pid) if tool is not None else ""
    if found:
        return found
    try:
        found = stack_of(pid)
    except ProcessLookupError:
        return "It has ended."
    except PermissionError as error:
        return f"It may not be looked at: {error.strerror}."
    return found or "It does not answer; py-spy, if it were installed, might see more."


def _spied(tool: str, pid: int) -> str:
    try:
        done = subprocess.run([tool, "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _own() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        head = f"Thread {names.get(ident, ident)} (most recent call last):\n"
        parts.append(head + "".join(traceback.format_stack(frame)))
    return "\n".join(parts)
