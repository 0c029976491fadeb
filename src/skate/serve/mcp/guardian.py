"""Ends what servers have started when the process that bridges them is killed.

A server itself is ended by the kernel then, but not its children, and many commands (`npx`, `uvx`, shells) only start
the real server. So a small process of its own is told of each group of processes that begins and ends. It learns of a
death by the end of its input, and kills the groups that are left.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading

logger = logging.getLogger("skate.serve.mcp")

_PROGRAM = """
import os, signal, sys
groups = set()
for line in sys.stdin.buffer:
    sign, number = line[:1], int(line[1:])
    (groups.add if sign == b"+" else groups.discard)(number)
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class Guardian:
    """The process that watches, started with the first group; it ends with the last one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._groups: set[int] = set()
        self._lock = threading.Lock()

    def add(self, group: int) -> None:
        """This group of processes has begun."""
        with self._lock:
            if self._owner != os.getpid():  # a fork is not the one whose groups these are
                self._process, self._groups, self._owner = None, set(), os.getpid()
            self._groups.add(group)
            if self._process is None or self._process.poll() is not None:
                self._start()
            else:
                self._tell(b"+%d\n" % group)

    def remove(self, group: int) -> None:
        """It has ended."""
        with self._lock:
            if self._owner != os.getpid():
                return
            self._groups.discard(group)
            self._tell(b"-%d\n" % group)
            if not self._groups and (process := self._process) is not None:
                self._process = None
                assert process.stdin is not None
                with contextlib.suppress(OSError):
                    process.stdin.close()
                threading.Thread(target=process.wait, name="skate-mcp-guardian", daemon=True).start()

    def _start(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()  # it was killed
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # what ends this process's group must not end it too soon
            )
        except OSError as error:
            logger.warning("nobody watches over what MCP servers start: %s", error)
            return
        for group in self._groups:
            self._tell(b"+%d\n" % group)

    def _tell(self, line: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it has been killed: the next one that begins starts another
                self._process.stdin.write(line)


GUARDIAN = Guardian()
