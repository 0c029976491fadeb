"""The actor that runs a submitted job's command and answers for its processes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time

from skate.core.capped_log import CappedLog
from skate.engines.local.boot import OWN_THREADS

_GUARD = 'read ended || kill -9 -"$0"'
"""For a shell that outlives us only if we are killed: its input then ends, and it kills the group in its first word."""
_READ_SIZE = 65_536


class Supervisor:
    """One job. The command runs in a process group of its own, and nothing of that is left when it has ended."""

    def __init__(self, command: str, log: str, limit: int, variables: dict[str, str]) -> None:
        self.log = CappedLog(log, limit)
        self.ended = False
        self.lock = threading.Lock()
        self.process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(variables),
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout.fileno()
        os.set_blocking(self.output, False)
        self.exit = os.pidfd_open(self.process.pid)
        self.guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, str(self.process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def pid(self) -> int:
        """Of the shell that runs the command, which leads the group."""
        return self.process.pid

    def watch(self) -> int:
        """Keep what the command writes, until it has ended; its exit code, or minus the signal that ended it."""
        poll = select.poll()
        poll.register(self.output, select.POLLIN)
        poll.register(self.exit, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self.output in ready and not self._keep():
                poll.unregister(self.output)
            if self.exit in ready:
                break
        with self.lock:
            self._signal(signal.SIGKILL)  # what it has left behind; before its number can be another's
            self.ended = True
        while self._keep():
            continue
        code = self.process.wait()
        self.guard.communicate(b"ended\n")
        os.close(self.exit)
        self.log.close()
        return code

    def stop(self, patience: float) -> None:
        """SIGTERM for the whole group, and SIGKILL after `patience` seconds."""
        deadline = time.monotonic() + patience
        with self.lock:
            if not self.ended:
                self._signal(signal.SIGTERM)
        while time.monotonic() < deadline:
            with self.lock:
                if self.ended:
                    return
            time.sleep(0.02)
        with self.lock:
            if not self.ended:
                self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _keep(self) -> bool:
        """Write down what there is; False when there is nothing (more)."""
        try:
            data = os.read(self.output, _READ_SIZE)
        except BlockingIOError:
            return False
        if data:
            with contextlib.suppress(OSError):  # a full disk shall not hold up the job
                self.log.write(data)
        return bool(data)


def _environment(variables: dict[str, str]) -> dict[str, str]:
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    ours = {**os.environ, "PYTHONUNBUFFERED": "1", "PATH": path, **variables}  # `python` shall be this one
    if ours.pop(OWN_THREADS, None):
        ours.pop("OMP_NUM_THREADS", None)  # set for workers, not by the user
    return ours
