"""The wire between the proxy and a replica's process: messages and open connections over a Unix socket.

Each replica that serves HTTP listens on a socket of mode 0600 in the session's folder, and the proxy connects to it: a
proxy that is made anew finds the replicas where the old one did. Messages keep their boundaries (SOCK_SEQPACKET), and
may bring a file descriptor along. Who is at the other end is asked of the kernel; another user is refused.

Replica and proxy also share the replica's *marks*: a byte for each connection that the replica holds, in which the
replica notes what the connection is in. After the replica's death the proxy reads there whom it must answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

IDLE = 0
"""Between two requests: nothing of the client's is in the replica's memory."""
REQUEST = 1
"""Bytes of a request were taken from the connection, none of an answer were given."""
ANSWERING = 2
"""A part of an answer may be on its way."""
ANSWERED = 3
"""An answer is complete, but may not have left the replica's memory; for a turn of its event loop."""

SLOTS = 65536
"""Connections that one replica can hold."""
_CREDENTIALS = struct.Struct("3i")
_LARGEST = 1 << 18
_AT_ONCE = 64
"""Messages that are read in a row before the loop looks at anything else."""


@dataclass(frozen=True)
class Hello:
    """Replica to proxy, first: who I am; with the descriptor of my marks."""

    replica: str
    app: str


@dataclass(frozen=True)
class Kept:
    """Replica to proxy: the listening socket that an earlier proxy left with me, as descriptor."""


@dataclass(frozen=True)
class Holding:
    """Replica to proxy: a connection that I hold since before you were there, as descriptor."""

    slot: int


@dataclass(frozen=True)
class Told:
    """Replica to proxy: all that I had to say at first has been said."""


@dataclass(frozen=True)
class Closed:
    """Replica to proxy: these connections are over."""

    slots: list[int]


@dataclass(frozen=True)
class Returned:
    """Replica to proxy: these connections are idle, and yours again."""

    slots: list[int]


@dataclass(frozen=True)
class Leaving:
    """Replica to proxy: I am about to go; pass me no more connections."""


@dataclass(frozen=True)
class Pass:
    """Proxy to replica: serve this connection, which comes as descriptor."""

    slot: int


@dataclass(frozen=True)
class Keep:
    """Proxy to replica: hold this listening socket, so that it lives on if I die."""


@dataclass(frozen=True)
class Drop:
    """Proxy to replica: I end on purpose; close the listening socket, give me back nothing."""


@dataclass(frozen=True)
class Settings:
    """Proxy to replica: the applications by their route prefixes, and how to serve."""

    routes: dict[str, tuple[str, str]]
    """Application and ingress deployment, by prefix."""
    root_path: str = ""
    request_timeout_s: float | None = None
    keep_alive_timeout_s: float = 90.0
    max_body_bytes: int | None = None


@dataclass(frozen=True)
class Shed:
    """Proxy to replica: give back so many connections, for there is another replica now."""

    count: int


Message = Hello | Kept | Holding | Told | Closed | Returned | Leaving | Pass | Keep | Drop | Settings | Shed
_KINDS: tuple[type[Any], ...] = (
    *(Pass, Closed, Returned, Hello, Kept, Holding, Told, Leaving, Keep, Drop, Settings, Shed),
)
_CODES = {kind: bytes([code]) for code, kind in enumerate(_KINDS)}
_DECODERS = [msgspec.msgpack.Decoder(kind) for kind in _KINDS]
_encode = msgspec.msgpack.Encoder().encode


def pack(message: Message) -> bytes:
    """A message as it crosses the wire."""
    return _CODES[type(message)] + _encode(message)


def unpack(data: bytes) -> Message:
    """A message that crossed the wire. ValueError for what is none."""
    if not data or data[0] >= len(_DECODERS):
        raise ValueError("not a message between proxy and replica")
    found: Message = _DECODERS[data[0]].decode(memoryview(data)[1:])
    return found


class Marks:
    """A replica's page of shared memory: one byte for each connection."""

    def __init__(self, fd: int = -1) -> None:
        """Make the page; or map that of another process, whose descriptor is taken over."""
        self.fd = fd if fd >= 0 else os.memfd_create("skate-serve-marks", os.MFD_CLOEXEC)
        if fd < 0:
            os.ftruncate(self.fd, SLOTS)
        self.page = mmap.mmap(self.fd, SLOTS)

    def close(self) -> None:
        """Unmap it."""
        self.page.close()
        os.close(self.fd)


class Link:
    """One end of the wire, read and written by an event loop.

    Args:
        connection: the socket; taken over.
        on_message: called with each message and its descriptor (-1: none), which becomes the callee's.
        on_end: called once when the other end is gone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: socket.socket,
        on_message: Callable[[Message, int], None],
        on_end: Callable[[], None],
    ) -> None:
        self.loop = loop
        self.connection = connection
        self.on_message = on_message
        self.on_end = on_end
        self.unsent: deque[tuple[bytes, int]] = deque()
        """Messages that wait for room, each with a descriptor of its own."""
        self.closed = False
        connection.setblocking(False)
        loop.add_reader(connection.fileno(), self._readable)

    def send(self, message: Message, fd: int = -1) -> None:
        """Send a message, and a duplicate of a descriptor. What cannot be sent at once is sent later."""
        if self.closed:
            return
        data = pack(message)
        if self.unsent or not self._write(data, fd):
            if not self.unsent:
                self.loop.add_writer(self.connection.fileno(), self._writable)
            self.unsent.append((data, os.dup(fd) if fd >= 0 else -1))

    def _write(self, data: bytes, fd: int) -> bool:
        try:
            if fd >= 0:
                socket.send_fds(self.connection, [data], [fd])
            else:
                self.connection.send(data)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:  # the other end is gone: the reader learns of it, and says so
            return True
        return True

    def _writable(self) -> None:
        while self.unsent:
            data, fd = self.unsent[0]
            if not self._write(data, fd):
                return
            self.unsent.popleft()
            if fd >= 0:
                os.close(fd)
        self.loop.remove_writer(self.connection.fileno())

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            if self.closed:
                return
            try:
                data, fds, _, _ = socket.recv_fds(self.connection, _LARGEST, 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self.end()
                return
            self.on_message(unpack(data), fds[0] if fds else -1)

    def end(self) -> None:
        """Close this end, and tell so."""
        if not self.closed:
            self.close()
            self.on_end()

    def close(self) -> None:
        """Close this end."""
        if self.closed:
            return
        self.closed = True
        self.loop.remove_reader(self.connection.fileno())
        if self.unsent:
            self.loop.remove_writer(self.connection.fileno())
        for _, fd in self.unsent:
            if fd >= 0:
                os.close(fd)
        self.unsent.clear()
        self.connection.close()


def same_user(connection: socket.socket) -> bool:
    """Is the process at the other end one of this user's?"""
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(uid == os.getuid())


class Address:
    """A path as an address for a Unix socket, which has room for 107 bytes, however long the path is."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.folder = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self.path)) < 108:
            return self.path
        folder, name = os.path.split(self.path)
        self.folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self.folder}/{name}"

    def __exit__(self, *error: object) -> None:
        if self.folder >= 0:
            os.close(self.folder)


def listen(path: str) -> socket.socket:
    """A listening Unix socket for this user alone, which has its name only once it listens. OSError where there can be
    none."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        os.fchmod(listener.fileno(), 0o600)  # ahead of `bind`, which makes the file with this mode
        with Address(f"{path}.new") as address:
            listener.bind(address)
        listener.listen(16)
        os.rename(f"{path}.new", path)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def knock(path: str) -> socket.socket:
    """A connection to a replica's socket. OSError when nobody listens there, PermissionError for another user's."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with Address(path) as address:
            connection.connect(address)
        if not same_user(connection):
            raise PermissionError(f"the socket {path} belongs to another user")
    except OSError:
        connection.close()
        raise
    return connection


def raise_limit() -> int:
    """Let this process open as many descriptors as the system lets it; how many that are."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems name a limit that they do not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return soft if soft > 0 else 1 << 20


def refuse(connection: socket.socket) -> None:
    """Close a connection so that the client sees a failure, not the end of an answer."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def batches(slots: Iterable[int], size: int = 4096) -> Iterable[list[int]]:
    """Slots in parts that fit into a message."""
    found = list(slots)
    return (found[start : start + size] for start in range(0, len(found), size))
