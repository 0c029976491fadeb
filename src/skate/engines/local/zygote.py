"""The zygote: a small single-threaded process that forks workers and reaps them.

It is a fresh interpreter, not a fork of the driver: a driver may have threads, and a fork of a threaded process can
hang on any lock that another thread held. It imports what every worker needs once, so that a worker costs a fork.

Requests and reports are msgpack arrays over a socket that keeps message boundaries:

* ``["fork", client]`` with four descriptors (the worker's reading and writing pipe, its stdout, its stderr);
* ``["import", [module, ...]]``: import these at once, for the workers that follow;
* ``["preload", [module, ...]]``: import these when there is nothing else to do; later workers are spared it;
* ``["signal", pid, number]``: only the parent can be sure that a pid is still its child's;
* ``["forked", client, pid, 0]`` and ``["ended", client, status, peak]`` back; a negative status is a signal, the peak
  is the most memory in bytes that the worker had.

When the driver is gone, however it went, the zygote ends its children and itself; should the zygote be killed, the
kernel kills each worker with it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import array
import gc
import importlib
import os
import select
import signal
import socket
import sys
from typing import Any

import msgspec

CONTROL_FD = 3
ARENA_FD = 4
QUIET_MS = 20
"""Without a request for so long, the zygote has time to import something."""
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


def main(driver: int, capacity: int) -> None:
    """Serve the driver with pid `driver` until it goes."""
    import ctypes

    import cloudpickle  # noqa: F401  most functions need it, and each worker would import it again

    from skate.core import stack_dump
    from skate.engines.local import worker_start  # noqa: F401  as above

    os.closerange(ARENA_FD + 1, 4096)
    stack_dump.arm()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_NAME, b"skate:zygote", 0, 0, 0)
    try:
        gone = os.pidfd_open(driver)
    except ProcessLookupError:
        return
    gc.collect()
    gc.disable()
    gc.freeze()
    zygote = Zygote(gone, capacity, prctl)
    try:
        zygote.serve()
    finally:
        zygote.end()


class Zygote:
    """The loop of the zygote, and its children: client number by pid."""

    def __init__(self, gone: int, capacity: int, prctl: Any) -> None:
        self.gone = gone
        self.capacity = capacity
        self.prctl = prctl
        self.control = socket.socket(fileno=CONTROL_FD)
        self.wake, self.waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.children: dict[int, int] = {}
        self.preload: list[str] = []

    def serve(self) -> None:
        """Fork, signal and reap until the driver is gone."""
        watch = select.poll()
        for fd in (self.control.fileno(), self.gone, self.wake):
            watch.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in watch.poll(QUIET_MS if self.preload else None)}
            if not ready:
                self._preload(self.preload.pop(0))
            if self.gone in ready:
                return
            if self.wake in ready:
                os.read(self.wake, 4096)
                self._reap()
            if self.control.fileno() in ready:
                message, fds = _receive(self.control)
                if not message:
                    return
                self._act(understood(message, len(fds)), fds)

    def _act(self, request: list[Any], fds: list[int]) -> None:
        kind, *rest = request
        if kind == "fork":
            self._fork(rest[0], fds)
            return
        for fd in fds:
            os.close(fd)
        if kind == "import":
            for module in rest[0]:
                self._preload(module)
        elif kind == "preload":
            self.preload += rest[0]
        elif kind == "signal" and rest[0] in self.children:
            os.kill(rest[0], rest[1])
        elif not kind:
            print("skate: the process that starts workers was sent what is no request", file=sys.stderr)

    def _preload(self, module: str) -> None:
        """Import a module for all later workers, unless it starts threads: they would not survive a fork."""
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001  a worker that needs it will say the same to its caller
            print(f"skate: could not preload {module}: {error}", file=sys.stderr)
        gc.collect()
        gc.freeze()

    def _fork(self, client: int, fds: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                self._become_worker(fds)
            finally:
                os._exit(70)  # whatever happened, a worker never runs the zygote's code on
        self.children[pid] = client
        for fd in fds:
            os.close(fd)
        self._report("forked", client, pid, 0)

    def _report(self, *what: object) -> None:
        try:
            self.control.send(_encode(what))
        except (BrokenPipeError, ConnectionResetError):
            return  # the driver has closed: the next look at the socket ends us

    def _become_worker(self, fds: list[int]) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        self.prctl(PR_SET_NAME, b"skate:worker", 0, 0, 0)
        for fd in (self.control.detach(), self.gone, self.wake, self.waker):
            os.close(fd)
        os.dup2(fds[2], 1)
        os.dup2(fds[3], 2)
        os.close(fds[2])
        os.close(fds[3])
        gc.enable()
        from skate.engines.local import worker_start

        worker_start.main(fds[0], fds[1], ARENA_FD, self.capacity)

    def _reap(self) -> None:
        while self.children:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            client = self.children.pop(pid, None)
            if client is not None:
                self._report("ended", client, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024)

    def end(self) -> None:
        """Leave no child behind, not even dying, nor what they have started."""
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        for pid in self.children:
            os.waitpid(pid, 0)
        os.killpg(0, signal.SIGKILL)  # processes that tasks forked are in this group; and we with them


def understood(message: bytes, descriptors: int) -> list[Any]:
    """A request and its arguments; ``[""]`` for what is none."""
    try:
        request = _decode(message)
    except (ValueError, RecursionError):
        return [""]
    match request:
        case ["fork", int()] if descriptors == 4:
            return list(request)
        case ["preload" | "import", [*modules]] if all(isinstance(module, str) for module in modules):
            return list(request)
        case ["signal", int(), int(number)] if 0 < number < signal.NSIG:
            return list(request)
    return [""]


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    try:
        message, ancillary, _, _ = control.recvmsg(4096, socket.CMSG_SPACE(4 * fds.itemsize))
    except ConnectionResetError:
        return b"", []  # the driver closed with reports unread
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
    return message, list(fds)
