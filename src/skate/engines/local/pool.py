"""The driver's side of the zygote: start worker processes, signal them, hear of their ends."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Callable
from typing import NamedTuple

import msgspec

_BOOT = "import sys; sys.path[:] = sys.argv.pop().split('\\n'); from skate.engines.local.zygote import main; "
_RUN = "main(int(sys.argv[1]), int(sys.argv[2]))"


class Pipes(NamedTuple):
    """The hub's ends of a worker's pipes, all non-blocking."""

    read_fd: int
    write_fd: int
    stdout_fd: int
    stderr_fd: int


class Pool:
    """One zygote and its workers."""

    def __init__(self, arena_fd: int, capacity: int, environment: dict[str, str]) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with theirs:
            self.pid = self._launch(theirs.fileno(), arena_fd, capacity, environment)
        self.closed = False

    def _launch(self, control_fd: int, arena_fd: int, capacity: int, environment: dict[str, str]) -> int:
        path = "\n".join(os.path.abspath(entry) for entry in sys.path)
        # Through copies above both targets, so that placing one cannot overwrite the other.
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (control_fd, arena_fd)]
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.posix_spawn(
                sys.executable,
                [sys.executable, "-c", _BOOT + _RUN, str(os.getpid()), str(capacity), path],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, copies[0], 3),
                    (os.POSIX_SPAWN_DUP2, copies[1], 4),
                ],
                setsid=True,
            )
        finally:
            for fd in (*copies, null):
                os.close(fd)

    def fork(self, client: int) -> Pipes:
        """Ask for a worker; a "forked" report follows."""
        to_worker, from_worker, stdout, stderr = (os.pipe2(os.O_CLOEXEC) for _ in range(4))
        given = [to_worker[0], from_worker[1], stdout[1], stderr[1]]
        kept = Pipes(from_worker[0], to_worker[1], stdout[0], stderr[0])
        try:
            socket.send_fds(self.control, [msgspec.msgpack.encode(["fork", client])], given)
        finally:
            for fd in given:
                os.close(fd)
        for fd in kept:
            os.set_blocking(fd, False)
        return kept

    def signal(self, pid: int, number: int) -> None:
        """Have the zygote signal a worker, if it still lives."""
        if not self.closed:
            try:
                self.control.send(msgspec.msgpack.encode(["signal", pid, number]))
            except (BrokenPipeError, ConnectionResetError):
                return  # the zygote is gone, and all workers with it

    def reports(self, handle: Callable[[str, int, int], None]) -> bool:
        """Hand on what the zygote has reported: ``(kind, client, pid or status)``. False when it is gone."""
        while True:
            try:
                message = self.control.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                return False
            if not message:
                return False
            kind, client, number = msgspec.msgpack.decode(message)
            handle(kind, client, number)

    def close(self) -> None:
        """End the zygote, and with it every worker; returns when it is reaped."""
        if self.closed:
            return
        self.closed = True
        self.control.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            return  # somebody waited for all children
