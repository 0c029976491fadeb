"""The process of a hub that lives in no driver: a standing hub's, or that of a driver that wants its hub apart.

It does nothing but pump. Its main thread leads all the time, so there is no background thread. A standing hub runs
until it is told to end; one that belongs to a driver ends with that driver as well, however the driver ends.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any

import msgspec
from msgspec.structs import replace

from skate.core.capped_log import CappedLog
from skate.core.folder import SessionFolder
from skate.core.settings import Settings
from skate.engines.local.boot import launch
from skate.engines.local.dial import CARD
from skate.engines.local.engine import LocalEngine, start
from skate.engines.local.submissions import Submissions

LOG = "hub.log"
LOG_LIMIT = 8 << 20
"""Bytes of the hub's own log after which it begins anew."""
SESSION = "SKATE_SESSION"
"""Names the session's folder in the environment of every process that such a hub starts."""
NOT_OURS = ("SKATE_ADDRESS", "RAY_ADDRESS", "SKATE_HUB", "SKATE_TRACE", "SKATE_JOB_SUBMISSION_ID", "SKATE_JOB_ENV")
"""Of whoever starts the hub, not to be handed on."""
LOOK_EVERY = 10.0
"""Seconds between two looks whether the session's folder is still there; SKATE_HUB_LOOKS_EVERY is another."""
FAREWELL = 5.0
"""Seconds that submitted jobs have to end when the hub is told to end."""


class Order(msgspec.Struct, frozen=True):
    """What the process is to be; the first thing that it reads."""

    settings: Settings
    daemon: bool
    """A standing hub: not a child of whoever started it, with a log of its own."""


def main(fd: int, owner: int) -> None:
    """Be the hub that the order on socket `fd` asks for; `owner`: a pidfd of the driver that it belongs to, or -1."""
    for inherited in (fd, owner):
        if inherited >= 0:
            os.set_inheritable(inherited, False)
    starter = socket.socket(fileno=fd)
    order = _read_order(starter)
    if order.daemon and os.fork():
        os._exit(0)  # nobody's child: whoever started it need not live on, nor wait for it
    try:
        hub = HubProcess(order, owner)
    except (OSError, ValueError, RuntimeError) as error:
        starter.sendall(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        sys.exit(1)
    starter.sendall(json.dumps({"folder": hub.folder.path, "pid": os.getpid()}).encode())
    starter.close()
    hub.run()


def _read_order(starter: socket.socket) -> Order:
    data = b""
    while piece := starter.recv(65_536):
        data += piece
    return msgspec.json.decode(data, type=Order)


class LogStream(io.TextIOBase):
    """Standard output and error of a standing hub."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, log: CappedLog) -> None:
        self.log = log

    def write(self, text: str) -> int:
        """Add to the log."""
        self.log.write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writable(self) -> bool:
        """It is there to be written to."""
        return True


def _log_to(log: CappedLog) -> None:
    """Write there from now on, also what the processes write that are started from here."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for number in (1, 2):
        os.dup2(log.fd, number)
    sys.stdout = sys.stderr = LogStream(log)


class HubProcess:
    """The hub, and what ends it."""

    def __init__(self, order: Order, owner: int) -> None:
        self.stopping = False
        self.owner = owner
        for name in NOT_OURS:
            os.environ.pop(name, None)
        self.folder = SessionFolder()
        try:
            self.engine = self._begin(order)
        except BaseException:
            self.folder.remove()
            raise
        pump = self.engine.pump
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)  # a function, for what is ignored stays so in children
        if owner >= 0:
            pump.watch(owner, self._stop)
        self.look_every = float(os.environ.get("SKATE_HUB_LOOKS_EVERY", "") or LOOK_EVERY)
        # Whatever cleans up the place for temporary files leaves alone what is locked.
        self.lock = os.open(self.folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self.lock, fcntl.LOCK_SH)
        self._look()

    def _begin(self, order: Order) -> LocalEngine:
        path, settings = self.folder.path, order.settings
        os.environ[SESSION] = path
        if order.daemon:
            card = {"name": settings.name, "pid": os.getpid(), "since": time.time()}
            with open(os.path.join(path, CARD), "w") as file:
                json.dump(card, file)
            _log_to(CappedLog(os.path.join(path, LOG), LOG_LIMIT))
        boot = launch(settings.object_store_memory)
        engine = start(replace(settings, folder=path, alone=True), boot)
        engine.host.jobs.submitted = Submissions(engine, os.path.join(path, "jobs"))
        return engine

    def _stop(self, number: int, frame: FrameType | None = None) -> Any:
        self.stopping = True
        os.eventfd_write(self.engine.pump.bell, 1)

    def _look(self) -> None:
        """Without its folder nobody could find the hub any more, not even to end it."""
        if os.path.exists(self.folder.path):
            timers = self.engine.hub.timers
            timers.at(timers.clock() + self.look_every, self._look)
        else:
            self.stopping = True

    def run(self) -> None:
        """Pump until told to end; then end everything."""
        pump, submitted = self.engine.pump, self.engine.host.jobs.submitted
        while not self.stopping:
            pump.work(None)
        if self.owner >= 0:
            pump.unwatch(self.owner)
        if submitted is not None:
            deadline = time.monotonic() + FAREWELL
            submitted.stop_all()
            while submitted.running() and (left := deadline - time.monotonic()) > 0:
                pump.work(left)
        self.engine.close()
        self.folder.remove()
        os.close(self.lock)
