"""Environments that were built once, by content: a folder of the user, which sessions share.

An entry is a folder of the key's name, with a lock beside it. Who builds holds the lock alone; who uses an entry shares
it, for as long as it is used. An environment knows its own path (its scripts name it), so it is built where it will be
used, and what makes it one is the file ``ready.json``, which is renamed into place last: a folder without it is the
rest of a build that did not end, and is never used.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

READY = "ready.json"
LIMIT = 10 << 30


class Entry(NamedTuple):
    """An environment in the cache."""

    key: str
    """Its name: what built it, and the hash of what was asked for."""
    path: str
    request: str
    """What was asked for, in words."""
    size: int
    """Bytes on disk."""
    used: float
    """When it was last used: seconds since 1970."""
    in_use: bool
    """Whether a session uses it now."""


def root() -> str:
    """Where built environments are kept: SKATE_ENV_CACHE, else a folder in the user's cache."""
    own = os.environ.get("SKATE_ENV_CACHE")
    if own:
        return os.path.abspath(os.path.expanduser(own))
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(os.path.abspath(caches), "skate", "environments")


def limit() -> int:
    """The most bytes that the cache may take: SKATE_ENV_CACHE_LIMIT, else 10 GiB."""
    text = os.environ.get("SKATE_ENV_CACHE_LIMIT", "")
    return int(text) if text.isdigit() else LIMIT


class Lock:
    """The lock of an entry, shared by its users or held alone. Waits are the caller's affair: it may block."""

    def __init__(self, folder: str, key: str) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.file = os.open(os.path.join(folder, f"{key}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def take(self, *, alone: bool, wait: bool) -> bool:
        """Get the lock; False when others hold it and we shall not wait."""
        how = (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(self.file, how)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Give the lock back."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def hold(folder: str, key: str) -> tuple[Lock, dict[str, Any]] | None:
    """Use an entry: its lock, and what its build said; None when it is not there, or not yet."""
    if not os.path.exists(os.path.join(folder, key, READY)):
        return None
    lock = Lock(folder, key)
    if lock.take(alone=False, wait=False):
        said = _said(folder, key)
        if said is not None:
            with contextlib.suppress(OSError):
                os.utime(os.path.join(folder, key, READY))
            return lock, said
    lock.close()
    return None


def finish(folder: str, key: str, said: dict[str, Any]) -> None:
    """Make what was built an entry; the lock is held alone."""
    aside = os.path.join(folder, key, f".{READY}")
    with open(aside, "w", encoding="utf-8") as file:
        json.dump({**said, "size": _size(os.path.join(folder, key))}, file)
    os.rename(aside, os.path.join(folder, key, READY))


def entries(folder: str = "") -> list[Entry]:
    """What is in the cache, the longest unused first; what is being built is left out."""
    folder = folder or root()
    found = []
    for key in _keys(folder):
        said = _said(folder, key)
        if said is not None:
            path = os.path.join(folder, key)
            with contextlib.suppress(OSError):  # it is just being deleted
                used = os.stat(os.path.join(path, READY)).st_mtime
                found.append(
                    Entry(key, path, str(said.get("request")), said.get("size", 0), used, _in_use(folder, key))
                )
    return sorted(found, key=lambda entry: entry.used)


def clear(folder: str = "", keep: int = 0, spare: str = "") -> list[str]:
    """Delete what no session uses, the longest unused first, until `keep` bytes are left; the keys of what went.

    The rests of builds that did not end go in any case; the entry `spare` stays.
    """
    folder = folder or root()
    there = entries(folder)
    known = {entry.key for entry in there}
    gone = [key for key in _keys(folder) if key not in known and _delete(folder, key)]
    left = sum(entry.size for entry in there)
    for entry in there:
        if keep and left <= keep:
            break
        if entry.key != spare and _delete(folder, entry.key):
            left -= entry.size
            gone.append(entry.key)
    return gone


def _keys(folder: str) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder)):
            if not name.endswith(".lock"):
                yield name


def _said(folder: str, key: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(folder, key, READY), encoding="utf-8") as file:
            said = json.load(file)
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _in_use(folder: str, key: str) -> bool:
    lock = Lock(folder, key)
    try:
        return not lock.take(alone=True, wait=False)
    finally:
        lock.close()


def _delete(folder: str, key: str) -> bool:
    import shutil

    lock = Lock(folder, key)
    try:
        if not lock.take(alone=True, wait=False):
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, key, READY))  # first, so that half an environment is never one
        shutil.rmtree(os.path.join(folder, key), ignore_errors=True)
        # The lock's file stays: whoever waits for it has it open, and another file of the name would be another lock.
        return True
    finally:
        lock.close()


def _size(path: str) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
