"""Starting, finding and ending hubs that have a process of their own."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from skate.core.folder import root, sweep
from skate.core.nodes import NodeSpec
from skate.core.settings import Settings
from skate.engines.local.attached import AttachedEngine, attach
from skate.engines.local.boot import search_path
from skate.engines.local.dial import Session, look_at, sessions
from skate.engines.local.hub_process import SESSION, Order

UP_WITHIN = 60.0
"""Seconds that a hub may take to be up."""
GONE_WITHIN = 30.0
"""Seconds that a hub may take to end, with all of its processes."""
AGAIN = 0.01
"""Seconds between two looks whether the processes of a removed node have ended."""
_BOOT = "import sys; sys.path[:] = sys.argv.pop().split('\\n'); from skate.engines.local.hub_process import main; "
_RUN = "main(int(sys.argv[1]), int(sys.argv[2]))"


class AlreadyRunning(RuntimeError):
    """There is a standing hub of that name."""


def start(settings: Settings, *, bound: bool = False) -> Session:
    """Start a standing hub; it takes connections when this returns. `bound`: it ends when this process does.

    AlreadyRunning: there is one of that name. RuntimeError: it did not come up, with the reason.
    """
    with _one_at_a_time():
        running = find(settings.name)
        if running is not None:
            called = f"standing hub called {settings.name!r}" if settings.name else "standing hub"
            raise AlreadyRunning(f"A {called} runs already: process {running.pid}, in {running.folder}.")
        process, folder = _launch(settings, daemon=True, bound=bound)
        process.wait()  # it has forked the hub and gone
        session = look_at(folder)
        if session is None:
            raise RuntimeError("The hub has ended right after its start.")
        return session


def find(name: str) -> Session | None:
    """The standing hub of that name, if one runs."""
    return next((session for session in running() if session.name == name), None)


def running() -> list[Session]:
    """The standing hubs of this user, the newest first."""
    sweep()
    return [session for session in sessions() if session.standing]


def end(session: Session, *, force: bool = False, patience: float = GONE_WITHIN) -> None:
    """End a standing hub, and wait until its processes are gone. Submitted jobs get SIGTERM first, unless `force`.

    Raises TimeoutError when something of it is still there after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    with contextlib.suppress(ProcessLookupError):
        hub = os.pidfd_open(session.pid)
        try:
            if look_at(session.folder) is not None:  # or the number may be another's already
                signal.pidfd_send_signal(hub, signal.SIGKILL if force else signal.SIGTERM)
            if not _wait([hub], deadline):
                raise TimeoutError(f"The hub (process {session.pid}) has not ended within {patience:g} seconds.")
        finally:
            os.close(hub)
    _wait_for_the_rest(session.folder, force, deadline)
    sweep()


def _wait_for_the_rest(folder: str, force: bool, deadline: float) -> None:
    """Until no process is left that the hub or its workers started."""
    while left := _marked(folder):
        fds = []
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                fds.append(os.pidfd_open(pid))
        try:
            for fd in fds if force else ():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            if not _wait(fds, deadline):
                raise TimeoutError(f"The hub has ended, but not what it started: {', '.join(map(str, left))}.")
        finally:
            for fd in fds:
                os.close(fd)


def _marked(folder: str) -> list[int]:
    """The processes with this session's mark in their environment."""
    mark = f"{SESSION}={folder}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    found.append(int(entry))
    return found


def _wait(fds: list[int], deadline: float) -> bool:
    """Wait for all of these processes; False: time is up."""
    left = set(fds)
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    while left:
        ended = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        for fd, _ in ended:
            poll.unregister(fd)
            left.discard(fd)
        if not ended:
            return False
    return True


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two that start at once shall not both find that none runs."""
    place = os.open(root(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + UP_WITHIN
        while True:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK or time.monotonic() > deadline:
                    raise RuntimeError(f"Somebody else holds a lock on {root()}: {error.strerror}") from error
            time.sleep(0.02)
        yield
    finally:
        os.close(place)


def _launch(settings: Settings, *, daemon: bool, bound: bool) -> tuple[subprocess.Popen[bytes], str]:
    """Start a hub's process and wait until it is up: the process that we started, and the hub's folder."""
    ours, theirs = socket.socketpair()
    owner = os.pidfd_open(os.getpid()) if bound else -1
    passed = [theirs.fileno()] + ([owner] if bound else [])
    environment = {name: value for name, value in os.environ.items() if name != SESSION}
    arguments = [str(theirs.fileno()), str(owner), "\n".join(search_path())]
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOT + _RUN, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=passed,
            start_new_session=True,
        )
    finally:
        theirs.close()
        if bound:
            os.close(owner)
    with ours:
        try:
            answer = _introduce(ours, Order(settings, daemon))
        except RuntimeError:
            if not daemon:
                process.kill()
            process.wait()
            raise
    return process, answer["folder"]


def _introduce(ours: socket.socket, order: Order) -> dict[str, Any]:
    ours.settimeout(UP_WITHIN)
    data = b""
    try:
        ours.sendall(msgspec.json.encode(order))
        ours.shutdown(socket.SHUT_WR)
        while piece := ours.recv(65_536):
            data += piece
    except TimeoutError:
        raise RuntimeError(f"The hub was not up within {UP_WITHIN:g} seconds.") from None
    except ConnectionError as error:
        raise RuntimeError(f"The hub ended while it started: {error}") from None
    answer: dict[str, Any] = json.loads(data) if data else {}
    if "folder" not in answer:
        raise RuntimeError(f"The hub did not start: {answer.get('error', 'its process ended')}")
    return answer


# ------------------------------------------------------------------------- a driver's own


class EngineApart(AttachedEngine):
    """The engine of a driver whose hub is a process of its own, and ends with it."""

    process: subprocess.Popen[bytes]

    def add_node(self, spec: NodeSpec) -> str:
        """A virtual node joins; its id in hex."""
        return str(self.ask("add_node", msgspec.to_builtins(spec)))

    def remove_node(self, node: str) -> None:
        """The node of this id goes; ValueError when there is none."""
        self.ask("remove_node", node)
        while self.ask("node_has_workers", node):
            time.sleep(AGAIN)  # they are being ended

    def close(self) -> None:
        """Leave the hub and end it."""
        if not self.closed:
            super().close()
            _dismiss(self.process)


def _dismiss(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GONE_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start_apart(settings: Settings) -> EngineApart:
    """A session whose hub is a child of this process. RuntimeError when it does not come up."""
    process, folder = _launch(msgspec.structs.replace(settings, others={}), daemon=False, bound=True)
    try:
        engine = attach(msgspec.structs.replace(settings, address=folder), EngineApart)
    except BaseException:
        _dismiss(process)
        raise
    engine.process = process
    engine.address = "local"
    return engine
