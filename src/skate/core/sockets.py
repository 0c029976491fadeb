"""Unix sockets in a session's folder, for programs of one user: the session's door, and waiting breakpoints."""

from __future__ import annotations

import os
import socket
import struct

_CREDENTIALS = struct.Struct("3i")


class Address:
    """An address for a socket in a folder that fits into the 108 bytes there are, however long the folder's path is."""

    def __init__(self, folder: str, name: str) -> None:
        self.path = os.path.join(folder, name)
        self.folder = folder
        self.name = name
        self.fd = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self.path)) < 108:
            return self.path
        self.fd = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self.fd}/{self.name}"

    def __exit__(self, *error: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def listening(folder: str, name: str, backlog: int) -> socket.socket:
    """A listening socket in a folder, for its owner alone. OSError when there cannot be one.

    It has its name only once it listens: one that has a name and refuses belongs to the dead, and may be swept.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # ahead of `bind`, which makes the file with this mode
        with Address(folder, f".{name}") as address:
            listener.bind(address)
        listener.listen(backlog)
        os.rename(os.path.join(folder, f".{name}"), os.path.join(folder, name))
    except OSError:
        listener.close()
        raise
    return listener


def knock(folder: str, name: str, timeout: float) -> socket.socket:
    """A connection to the socket of that name; `timeout`, in seconds, is of all that is done with it, too.

    Raises ConnectionRefusedError when nobody listens there any more, BlockingIOError when too many others are waiting.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        with Address(folder, name) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def peer(connection: socket.socket) -> tuple[int, int]:
    """The pid and the user id of the process at the other end."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid
