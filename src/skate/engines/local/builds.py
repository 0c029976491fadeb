"""The driver's end of a process that makes a part of an environment (`builder.py`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from skate.engines.local import boot

if TYPE_CHECKING:
    from skate.engines.local.recipes import Need

TAIL = 30
"""Lines of a tool's output that an error shows."""
_BUILD = "import sys; sys.path[:] = sys.argv[1].split('\\n'); from skate.engines.local.builder import main; main()"


class Build:
    """A builder at work."""

    def __init__(self, need: Need, driver_path: list[str], tries: int = 1) -> None:
        from skate.core.env_cache import root

        self.need = need
        self.tries = tries
        self.said = os.memfd_create("skate-build-result", os.MFD_CLOEXEC)
        self.log = os.memfd_create("skate-build-log", os.MFD_CLOEXEC)
        request = json.dumps({"driver": os.getpid(), "folder": root(), "key": need.key, **need.request})
        command = [sys.executable, "-c", _BUILD, "\n".join(driver_path), request]
        try:
            self.pid = boot.spawn(command, dict(os.environ), {1: self.log, 2: self.log, 3: self.said})
            self.ended = os.pidfd_open(self.pid)
        except BaseException:
            os.close(self.said)
            os.close(self.log)
            raise

    def close(self) -> dict[str, Any]:
        """End it, with all that it has started; what it said."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # somebody waited for all children
            os.waitpid(self.pid, 0)
        try:
            said = json.loads(os.pread(self.said, os.fstat(self.said).st_size, 0))
        except ValueError:
            said = {"error": "the process that makes it was ended"}
        if "error" in said:
            said["error"] += self.output()
        for fd in (self.ended, self.said, self.log):
            os.close(fd)
        return dict(said)

    def output(self) -> str:
        """The end of what its tools wrote."""
        size = os.fstat(self.log).st_size
        lines = os.pread(self.log, 16384, max(0, size - 16384)).decode(errors="replace").splitlines()[-TAIL:]
        return "\nThe last lines of its output:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""
