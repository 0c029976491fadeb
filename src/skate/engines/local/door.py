"""The door of a session: a Unix socket in its folder, by which other programs of the same user become its drivers.

Who knocks is nobody until the kernel has said that it runs as our own user and it has sent an `Attach` that makes
sense, in time. Then it is a `Peer`: to the hub a worker that is never given a call, whose messages are checked like any
worker's. Whoever is refused is told why; the user hears of the first of a kind, and the rest is kept for the table
``refusals``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from skate._version import __version__
from skate.core import ids
from skate.core.sockets import listening, peer
from skate.engines.local import departures
from skate.engines.local.jobs import Job, environment_of
from skate.engines.local.link import READ_SIZE, BrokenFrame, Frames, Link, framed
from skate.engines.local.messages import Accepted, Attach, Refused, Welcome, to_door, to_hub
from skate.engines.local.rows import Node, Worker
from skate.engines.local.timers import Timer

if TYPE_CHECKING:
    from skate.engines.local.host import Host

SOCKET = "door"
PATIENCE = 5.0
"""Seconds within which a guest must have said what it wants."""
LARGEST_HELLO = 1 << 20
MOST_GUESTS = 32
"""Connections that have not said yet what they want."""
MOST_PEERS = 512
KEPT = 100
"""Refusals that are remembered."""
PAUSE = 1.0
"""Seconds without new connections when there are no descriptors left."""


class Peer(Worker):
    """A driver that has attached."""

    __slots__ = ("gone",)

    def __init__(self, client: int, job: Job, link: Link, node: Node, pid: int, gone: int) -> None:
        super().__init__(client, "", link, node)
        self.job = job
        self.pid = pid
        self.gone = gone
        """A descriptor that tells of the end of its process; -1: there is none."""
        self.up = True
        self.leaving = ("it is a driver", False)  # the memory monitor lets alone who is about to go


class Guest:
    """A connection that has not said yet what it wants."""

    __slots__ = ("connection", "frames", "pid", "read", "timer")

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection = connection
        self.pid = pid
        self.frames = Frames(to_door.decode)
        self.read = 0
        self.timer: Timer | None = None


class Door:
    """Lets drivers in. Every method is called with the hub's lock held."""

    def __init__(self, host: Host, folder: str) -> None:
        self.host = host
        self.folder = folder
        self.guests: dict[int, Guest] = {}
        self.peers = 0
        self.refusals: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.told: set[str] = set()
        self.socket = listening(folder, SOCKET, MOST_GUESTS)
        self.socket.setblocking(False)
        host.pump.watch(self.socket.fileno(), self._knock)

    # -------------------------------------------------------------------- guests

    def _knock(self, _: int) -> None:
        for _ in range(MOST_GUESTS):
            try:
                connection, _ = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._rest(error)
                    return
                continue  # it has gone again
            self._receive(connection)

    def _rest(self, error: OSError) -> None:
        """Out of descriptors: do not look at the door for a moment, or it would be looked at without end."""
        self.note("resources", f"a connection could not be taken: {error.strerror}", 0, -1)
        pump, timers = self.host.pump, self.host.hub.timers
        pump.unwatch(self.socket.fileno())
        timers.at(timers.clock() + PAUSE, self._open_again)

    def _open_again(self) -> None:
        if self.socket.fileno() >= 0:
            self.host.pump.watch(self.socket.fileno(), self._knock)

    def _receive(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        pid, uid = peer(connection)
        guest = Guest(connection, pid)
        if uid != os.getuid():
            self._refuse(guest, "uid", f"it runs as user {uid}, and this session is of user {os.getuid()}", uid)
        elif len(self.guests) >= MOST_GUESTS:
            self._refuse(guest, "crowd", f"{MOST_GUESTS} others have connected and not said what they want")
        elif self.peers >= MOST_PEERS:
            self._refuse(guest, "full", f"{MOST_PEERS} drivers are attached already")
        else:
            self.guests[connection.fileno()] = guest
            timers = self.host.hub.timers
            guest.timer = timers.at(timers.clock() + PATIENCE, partial(self._too_slow, guest))
            self.host.pump.watch(connection.fileno(), partial(self._hear, guest))

    def _too_slow(self, guest: Guest) -> None:
        guest.timer = None
        self._refuse(guest, "slow", f"it has not said what it wants within {PATIENCE:g} seconds")

    def _hear(self, guest: Guest, _: int) -> None:
        try:
            data = guest.connection.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        guest.read += len(data)
        if not data:
            self._show_out(guest)
            return
        try:
            messages = guest.frames.feed(data)
        except BrokenFrame as problem:
            self._refuse(guest, "nonsense", f"it sent what is no message of ours ({problem})")
            return
        if not messages and guest.read <= LARGEST_HELLO:
            return
        if len(messages) != 1 or guest.frames.wanting():
            self._refuse(guest, "nonsense", "it sent something else than what it wants")
        else:
            self._admit(guest, messages[0])

    def _refuse(self, guest: Guest, kind: str, why: str, uid: int | None = None) -> None:
        self.note(kind, f"a connection from process {guest.pid} was refused: {why}", guest.pid, uid)
        with contextlib.suppress(OSError):  # it has gone, or does not listen
            guest.connection.send(b"".join(framed([Refused(why)])))
        self._show_out(guest)

    def _show_out(self, guest: Guest) -> None:
        self._forget(guest)
        guest.connection.close()

    def _forget(self, guest: Guest) -> None:
        fd = guest.connection.fileno()
        if self.guests.pop(fd, None) is not None:
            self.host.pump.unwatch(fd)
        if guest.timer is not None:
            self.host.hub.timers.cancel(guest.timer)

    def note(self, kind: str, what: str, pid: int, uid: int | None) -> None:
        """Keep a refusal, and tell the user of the first of its kind."""
        own = os.getuid() if uid is None else uid
        self.refusals.append({"time": time.time(), "kind": kind, "what": what, "pid": pid, "uid": own})
        if kind not in self.told:
            self.told.add(kind)
            self.host.warn(f"{what} (told once; all are in the table 'refusals')")

    # --------------------------------------------------------------------- peers

    def _admit(self, guest: Guest, asked: Attach) -> None:
        ours = (__version__, python_version())
        if (asked.version, asked.python) != ours:
            theirs = f"Skate {asked.version} on Python {asked.python}"
            self._refuse(guest, "version", f"it is {theirs}, and this session is Skate {ours[0]} on Python {ours[1]}")
            return
        try:
            gone = os.pidfd_open(guest.pid) if guest.pid else -1
        except ProcessLookupError:
            self._show_out(guest)
            return
        except OSError:
            gone = -1  # the end of the connection tells as well, unless somebody inherited it
        self._forget(guest)
        peer = self._make_peer(guest, asked, gone)
        self.host.hub.workers[peer.client] = peer
        self.peers += 1
        self.host.pump.watch(peer.link.read_fd, partial(self._readable, peer))
        if gone >= 0:
            self.host.pump.watch(gone, partial(self._ended, peer))

    def _make_peer(self, guest: Guest, asked: Attach, gone: int) -> Peer:
        host, job = self.host, self.host.jobs.join(asked, guest.pid)
        client = host.new_client()
        node = host.hub.scheduler.head
        where, environment = ids.node_hex(node.key), asked.environment
        mark = environment_of(job)
        sites = host.settings.keeping.sites
        welcome = Welcome(
            client, ids.salt(), asked.namespace, where, [], "", environment, mark, self.folder, job.number, sites=sites
        )
        accepted = Accepted(welcome, host.arena.capacity, host.settings.name)
        with contextlib.suppress(OSError):  # it has gone: the end of the connection will tell
            socket.send_fds(guest.connection, [b"".join(framed([accepted]))], [host.arena.fd])
        # Two descriptors, for one epoll takes each once, and watches the one for reading, the other for writing.
        write_fd = os.dup(guest.connection.fileno())
        link = Link(guest.connection.detach(), write_fd, to_hub.decode, host.pump.dirty)
        peer = Peer(client, job, link, node, guest.pid, gone)
        job.peer = peer
        card = peer.card
        card.driver, card.job, card.pid, card.up = True, job.number, guest.pid, time.monotonic()
        return peer

    def _readable(self, peer: Peer, _: int) -> bool:
        """Take in what one read brings; False when there is nothing more."""
        try:
            messages = peer.link.read()
        except BrokenFrame as problem:
            self.host.hub.expel(peer, f"sent what is no message: {problem}")
            messages = None
        if messages is None:
            self.hang_up(peer, "it has detached")
            return False
        self.host.hub.receive(peer, messages)
        return bool(messages)

    def _ended(self, peer: Peer, _: int) -> None:
        """The process of a driver is gone: take in what it said last."""
        while not peer.outlaw and self._readable(peer, 0):
            pass
        self.hang_up(peer, "its process ended")

    def hang_up(self, peer: Peer, how: str) -> None:
        """A driver has gone, or has to go: end what was its own."""
        host, hub, job = self.host, self.host.hub, peer.job
        if peer.client not in hub.workers or job is None:
            return
        self.peers -= 1
        link = peer.link
        for fd in (link.read_fd, link.write_fd, peer.gone):
            host.pump.unwatch(fd)
        if link in host.pump.dirty:
            host.pump.dirty.remove(link)
        link.close()
        if peer.gone >= 0:
            os.close(peer.gone)
        if peer.outlaw:
            self.note("expelled", f"the driver in process {peer.pid} was shut out: it {peer.outlaw}", peer.pid, None)
        departures.end_job(hub, host.jobs, job)
        host.jobs.leave(job, peer.outlaw or how)
        hub.died(peer, how)
        departures.tidy(hub, host.jobs)

    def close(self) -> None:
        """Nobody comes in any more; the hub closes the links of those inside."""
        for guest in list(self.guests.values()):
            guest.connection.close()
        self.guests.clear()
        for worker in self.host.hub.workers.values():
            if type(worker) is Peer and worker.gone >= 0:
                os.close(worker.gone)
        self.socket.close()
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.folder, SOCKET))


def python_version() -> str:
    """The part of Python's version on which pickled functions depend."""
    return "{}.{}".format(*sys.version_info)
