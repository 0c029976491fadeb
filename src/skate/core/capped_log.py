"""A log file that cannot fill the disk: past its limit it begins anew, and the part before it is kept once."""

from __future__ import annotations

import os

OLDER = ".1"
"""What the part before is called, after the name of the file."""


class CappedLog:
    """Writes to `path`, and keeps at most twice `limit` bytes in all."""

    def __init__(self, path: str, limit: int) -> None:
        self.path = path
        self.limit = limit
        self.fd = _create(path)
        self.size = os.fstat(self.fd).st_size

    def write(self, data: bytes) -> None:
        """Add to the end; OSError when the disk takes no more."""
        if self.size + len(data) > self.limit and self.size:
            self._begin_anew()
        rest = memoryview(data)[-self.limit :]
        while rest:
            written = os.write(self.fd, rest)
            self.size += written
            rest = rest[written:]

    def _begin_anew(self) -> None:
        os.replace(self.path, self.path + OLDER)
        # In the place of the old descriptor, for others may write to it as well.
        fresh = _create(self.path)
        os.dup2(fresh, self.fd, inheritable=False)
        os.close(fresh)
        self.size = 0

    def close(self) -> None:
        """Write no more."""
        os.close(self.fd)


class Tail:
    """Reads such a file while it grows, from its beginning and across the points where it begins anew."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1

    def read(self) -> bytes:
        """What has come since the last time; empty: nothing."""
        data = b""
        if self.fd < 0:
            data = _whole(self.path + OLDER)
            self.fd = _open(self.path)
        while self.fd >= 0:
            while piece := os.read(self.fd, 1 << 20):
                data += piece
            if not self._moved():
                break
            os.close(self.fd)
            self.fd = _open(self.path)
        return data

    def _moved(self) -> bool:
        """Whether the file that is open is not the newest any more."""
        try:
            newest = os.stat(self.path)
        except FileNotFoundError:
            return False
        own = os.fstat(self.fd)
        return (newest.st_ino, newest.st_dev) != (own.st_ino, own.st_dev)

    def close(self) -> None:
        """Read no more; harmless the second time."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def read_log(path: str) -> str:
    """All that is kept, as text."""
    tail = Tail(path)
    try:
        return tail.read().decode("utf-8", "replace")
    finally:
        tail.close()


def remove_log(path: str) -> None:
    """Delete both parts; harmless when there are none."""
    for part in (path, path + OLDER):
        if os.path.exists(part):
            os.unlink(part)


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def _whole(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
