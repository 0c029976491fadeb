"""Files of values that had to leave shared memory: one for each, named by its key, with a checksum that the hub keeps.

They lie in a folder of their own, made when the first value comes, deleted with the session, and swept by the next
session if this one is killed. Writing goes on until the folder holds as much as it may, or its disk is nearly full.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import zlib

from skate.core.folder import SessionFolder, root, sweep
from skate.core.serialization import Packed
from skate.exceptions import OutOfDiskError

FULL = 0.95
"""Part of the disk in use at which nothing more is written; Ray's `local_fs_capacity_threshold`."""
CHUNK = 8 << 20


class Spills:
    """The files, as the driver has them.

    Args:
        parent: where to make the folder; empty: the system's place for temporary files.
        limit: bytes that all files together may take; None: no limit but the disk's.
        full: part of the disk in use at which nothing more is written.
    """

    def __init__(self, parent: str = "", limit: int | None = None, full: float = FULL) -> None:
        self.parent = parent or root()
        self.limit = limit
        self.full = full
        self.used = 0
        self.checks: dict[int, int] = {}
        """Checksums by key."""
        self.spare: dict[int, int] = {}
        """Sizes of files whose value is in memory as well, oldest first."""
        self.problem = ""
        """Why the last value could not be written."""
        self.folder: SessionFolder | None = None
        if parent:
            sweep(parent)

    @property
    def path(self) -> str:
        """The folder, made on first use."""
        if self.folder is None:
            self.folder = SessionFolder(self.parent)
        return self.folder.path

    def write(self, key: int, block: memoryview) -> int | None:
        """Write a value; its checksum, or None when that failed, for a reason that `problem` tells."""
        known = self.checks.get(key)
        if known is not None:
            self.spare.pop(key, None)
            return known
        try:
            if not self._has_room(len(block)):
                return None
            check = _write(file_of(self.path, key), block)
        except OSError as error:
            self.problem = f"writing to {self.parent} failed: {error.strerror or error}."
            if self.folder is not None:
                _unlink(file_of(self.folder.path, key))
            return None
        self.used += len(block)
        self.checks[key] = check
        self.problem = ""
        return check

    def _has_room(self, size: int) -> bool:
        while self.limit is not None and self.used + size > self.limit:
            if not self.spare:
                self.problem = f"spilled objects take {self.used:,} of the {self.limit:,} bytes that they may."
                return False
            oldest = next(iter(self.spare))
            self.remove(oldest, self.spare[oldest])
        disk = shutil.disk_usage(self.path)
        if disk.used + size > disk.total * self.full:
            self.problem = f"the disk of {self.parent} is {disk.used / disk.total:.0%} full."
            return False
        return True

    def reserve(self, key: int, size: int) -> bool:
        """Count a file that another process is about to write; False when there is no room for it."""
        if key in self.checks or not self._has_room(size):
            return False
        self.used += size
        self.checks[key] = 0
        return True

    def read_into(self, key: int, check: int, block: memoryview) -> bool:
        """Read a value back; False when its file is gone, or is not what was written."""
        if not _read(file_of(self.path, key), block, check):
            return False
        self.spare[key] = len(block)
        return True

    def remove(self, key: int, size: int) -> None:
        """Delete the file of `key`, if there is one."""
        if self.checks.pop(key, None) is not None:
            self.spare.pop(key, None)
            self.used -= size
            _unlink(file_of(self.path, key))

    def rename(self, key: int, name: int) -> None:
        """The object has another key from now on."""
        with contextlib.suppress(FileNotFoundError):  # lost: who reads it will find out
            os.rename(file_of(self.path, key), file_of(self.path, name))
        self.checks[name] = self.checks.pop(key)

    def close(self) -> None:
        """Delete them all."""
        if self.folder is not None:
            self.folder.remove()
            self.folder = None


def lay_down(folder: str, key: int, packed: Packed) -> int:
    """Write a packed value to the file of `key`; its checksum."""
    path = file_of(folder, key)
    try:
        with open(path, "xb+", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, packed.size)
            with mmap.mmap(file.fileno(), packed.size) as block, memoryview(block) as view:
                packed.write_into(view)
                return zlib.crc32(view)
    except BaseException as error:
        _unlink(path)
        if isinstance(error, OSError):
            text = f"An object of {packed.size:,} bytes could not be written to {folder}: {error.strerror or error}."
            raise OutOfDiskError(text) from error
        raise


def file_of(folder: str, key: int) -> str:
    """Where the value of `key` lies."""
    return os.path.join(folder, f"{key:x}")


def read(folder: str, key: int, size: int, check: int) -> bytearray | None:
    """A spilled value in memory of this process; None when its file is gone, or is not what was written."""
    data = bytearray(size)
    return data if _read(file_of(folder, key), memoryview(data), check) else None


def _write(path: str, block: memoryview) -> int:
    check = 0
    with open(path, "xb", buffering=0) as file:
        for start in range(0, len(block), CHUNK):
            part = block[start : start + CHUNK]
            check = zlib.crc32(part, check)
            while part:
                part = part[file.write(part) :]
    return check


def _read(path: str, block: memoryview, check: int) -> bool:
    """Fill a block from a file of its size; False when that is gone, or is not what was written."""
    try:
        with open(path, "rb", buffering=0) as file:
            return _fill(file.fileno(), block) and zlib.crc32(block) == check
    except OSError:
        return False


def _fill(fd: int, block: memoryview) -> bool:
    """Read a whole file into a block of its size."""
    if os.fstat(fd).st_size != len(block):
        return False
    place = 0
    while place < len(block):
        count = os.readv(fd, [block[place : place + CHUNK]])
        if not count:
            return False
        place += count
    return True


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
