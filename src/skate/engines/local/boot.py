"""The first thing a session does: start the zygote, which makes itself ready while the driver imports the rest.

Imports as little as it can, for nothing overlaps with it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from typing import NamedTuple

PAGE = 4096
OWN_THREADS = "SKATE_SETS_OMP_NUM_THREADS"
"""Set in workers when the user has not chosen OMP_NUM_THREADS."""
_BOOT = "import sys; sys.path[:] = sys.argv.pop().split('\\n'); from skate.engines.local.zygote import main; "
_RUN = "main(int(sys.argv[1]), int(sys.argv[2]))"


POKE = signal.SIGURG
"""The signal by which a worker is told to look at its link; one that nobody uses, and that is ignored by default."""


class Boot(NamedTuple):
    """A zygote on its way up, and the memory that all its workers share."""

    pid: int
    control: socket.socket
    arena_fd: int
    capacity: int
    """Bytes that the arena may take."""


def launch(store: int | None) -> Boot:
    """Start a zygote for a store of `store` bytes (None: 30% of memory)."""
    capacity = max(PAGE, (store or int(memory() * 0.3)) // PAGE * PAGE)
    arena_fd = os.memfd_create("skate-arena", os.MFD_CLOEXEC)
    os.ftruncate(arena_fd, capacity)
    control, theirs = sockets()
    path = "\n".join(search_path())
    with theirs:
        command = [sys.executable, "-c", _BOOT + _RUN, str(os.getpid()), str(capacity), path]
        pid = spawn(command, variables(), {3: theirs.fileno(), 4: arena_fd})
    return Boot(pid, control, arena_fd, capacity)


def sockets() -> tuple[socket.socket, socket.socket]:
    """The two ends between the driver and a zygote."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return control, theirs


def memory() -> int:
    """Bytes of memory that this process may use."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/sys/fs/cgroup/memory.max") as limit:
            text = limit.read().strip()
    except OSError:
        return total
    return min(total, int(text)) if text.isdigit() else total


def search_path() -> list[str]:
    """`sys.path`, so that it means the same in a process elsewhere, after what import hooks want in workers."""
    entries = [path for finder in sys.meta_path if (path := getattr(finder, "worker_path", None))] + sys.path
    try:
        return [os.path.abspath(entry) for entry in entries]
    except FileNotFoundError:  # the working directory is gone, and with it what it stood for
        return [entry for entry in entries if os.path.isabs(entry)]


def variables() -> dict[str, str]:
    """The environment variables of a zygote."""
    environment = dict(os.environ)
    if "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = environment[OWN_THREADS] = "1"
    return environment


def spawn(command: list[str], environment: dict[str, str], descriptors: dict[int, int]) -> int:
    """Start a process in a session of its own; `descriptors` are ours by the number that they have there."""
    # Through copies above all targets, so that placing one cannot overwrite another.
    copies = {target: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for target, fd in descriptors.items()}
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), *((os.POSIX_SPAWN_DUP2, copy, to) for to, copy in copies.items())]
    try:
        return os.posix_spawnp(command[0], command, environment, file_actions=actions, setsid=True)
    finally:
        for fd in (*copies.values(), null):
            os.close(fd)
