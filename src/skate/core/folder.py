"""A session's folder: made when the session starts, gone when it ends, swept by the next if its process was killed.

The folder's owner holds a lock on a file in it. The kernel drops the lock with the process, however that dies, so a
folder whose lock can be taken belongs to nobody; a pid that was given to another process fools nobody. Only one that
has no lock yet, or no more, goes by the pid in its name: its process died in the middle of making or deleting it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

_PREFIX = f"skate-{os.getuid()}-"
_LOCK = "lock"


class SessionFolder:
    """A folder in `parent`, by default the system's place for temporary files, readable by its owner only."""

    def __init__(self, parent: str = "") -> None:
        parent = parent or root()
        sweep(parent)
        name = f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        self.path = os.path.join(parent, name)
        unlocked = os.path.join(parent, f".{name}")  # not swept while we live, though nobody holds the lock yet
        os.mkdir(unlocked, 0o700)
        self._lock = os.open(os.path.join(unlocked, _LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.rename(unlocked, self.path)

    def remove(self) -> None:
        """Delete the folder and all in it; harmless the second time."""
        if self._lock >= 0:
            _delete(self.path)
            os.close(self._lock)
            self._lock = -1


def prefix() -> str:
    """How the names of this user's session folders begin."""
    return _PREFIX


def root() -> str:
    """The system's place for temporary files."""
    # What `tempfile.gettempdir` would find; that module takes longer to import than a session to start.
    for name in ("TMPDIR", "TEMP", "TMP"):
        folder = os.environ.get(name)
        if folder and os.path.isdir(folder):
            return os.path.abspath(folder)
    return "/tmp"


def _delete(path: str) -> None:
    """Delete a session's folder; one that holds no more than its lock needs no more than two calls."""
    try:
        os.unlink(os.path.join(path, _LOCK))
        os.rmdir(path)
    except OSError:
        import shutil

        shutil.rmtree(path, ignore_errors=True)


def sweep(parent: str = "") -> list[str]:
    """Delete the folders of sessions whose process died, and return their paths."""
    parent = parent or root()
    swept = []
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        half_made = name.startswith(f".{_PREFIX}")
        if (half_made and _is_dead(name)) or (name.startswith(_PREFIX) and _abandoned(path)):
            _delete(path)
            swept.append(path)
    return swept


def living(parent: str = "") -> list[str]:
    """The folders of this user's sessions that run now, oldest first; of those only that nobody else could have made.

    Whoever talks to what lies in one of them talks to a process of the same user.
    """
    parent = parent or root()
    found = []
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        if not name.startswith(_PREFIX):
            continue
        with contextlib.suppress(OSError):  # it ends at this moment
            status = os.lstat(path)
            private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
            if private and not _abandoned(path):
                found.append((status.st_ctime, path))
    return [path for _, path in sorted(found)]


def _abandoned(path: str) -> bool:
    try:
        lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return _is_dead(os.path.basename(path))  # just going
    except OSError:
        return False
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False
    finally:
        os.close(lock)


def _is_dead(name: str) -> bool:
    """Whether the process in a folder's name is gone."""
    pid = name.lstrip(".").split("-")[2]
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
