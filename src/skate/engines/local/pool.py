"""The driver's side of the zygote: start worker processes, signal them, hear of their ends."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from skate.engines.local.boot import Boot

_report = msgspec.msgpack.Decoder(tuple[Literal["forked", "ended"], int, int, int])


class Pipes(NamedTuple):
    """The hub's ends of a worker's pipes, all non-blocking."""

    read_fd: int
    write_fd: int
    stdout_fd: int
    stderr_fd: int


def pipes() -> tuple[Pipes, list[int]]:
    """The pipes of a worker: the hub's ends, and its own."""
    to_worker, from_worker, stdout, stderr = (os.pipe2(os.O_CLOEXEC) for _ in range(4))
    kept = Pipes(from_worker[0], to_worker[1], stdout[0], stderr[0])
    for fd in kept:
        os.set_blocking(fd, False)
    return kept, [to_worker[0], from_worker[1], stdout[1], stderr[1]]


class Pool:
    """One zygote and its workers."""

    def __init__(self, boot: Boot) -> None:
        self.pid = boot.pid
        self.control = boot.control
        self.closed = False

    def fork(self, client: int) -> Pipes | None:
        """Ask for a worker; a "forked" report follows. None when the zygote is gone."""
        kept, given = pipes()
        if self.send(client, given):
            return kept
        for fd in kept:
            os.close(fd)
        return None

    def send(self, client: int, given: list[int]) -> bool:
        """As `fork`, with the worker's ends of pipes that are there already, and are closed here."""
        try:
            socket.send_fds(self.control, [msgspec.msgpack.encode(["fork", client])], given)
        except (BrokenPipeError, ConnectionResetError):
            return False
        finally:
            for fd in given:
                os.close(fd)
        return True

    def preload(self, modules: list[str], *, at_once: bool = False) -> None:
        """Have later workers find these modules imported; with `at_once` all of them, which may wait for it."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # reported on its own way
            self.control.send(msgspec.msgpack.encode(["import" if at_once else "preload", modules]))

    def signal(self, pid: int, number: int) -> None:
        """Have the zygote signal a worker, if it still lives."""
        if not self.closed:
            try:
                self.control.send(msgspec.msgpack.encode(["signal", pid, number]))
            except (BrokenPipeError, ConnectionResetError):
                return  # the zygote is gone, and all workers with it

    def reports(self, handle: Callable[[str, int, int, int], None]) -> bool:
        """Hand on what the zygote has reported: ``(kind, client, pid or status, peak)``. False when it is gone."""
        while True:
            try:
                message = self.control.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                return False
            if not message:
                return False
            try:
                report = _report.decode(message)
            except msgspec.MsgspecError:
                continue  # no report of ours
            handle(*report)

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
