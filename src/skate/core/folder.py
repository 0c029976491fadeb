"""A session's folder: made when the session starts, gone when it ends, swept by the next if its process was killed.

The folder's owner holds a lock on a file in it. The kernel drops the lock with the process, however that dies, so a
folder whose lock can be taken belongs to nobody; a pid that was given to another process fools nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile

_PREFIX = f"skate-{os.getuid()}-"
_LOCK = "lock"


class SessionFolder:
    """A folder in the system's place for temporary files, readable by its owner only."""

    def __init__(self) -> None:
        sweep()
        self.path = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
        self._lock = os.open(os.path.join(self.path, _LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Delete the folder and all in it; harmless the second time."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def sweep() -> list[str]:
    """Delete the folders of sessions whose process died, and return their paths."""
    root = tempfile.gettempdir()
    swept = []
    for name in os.listdir(root):
        if name.startswith(_PREFIX) and _abandoned(os.path.join(root, name)):
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)
            swept.append(os.path.join(root, name))
    return swept


def _abandoned(path: str) -> bool:
    try:
        lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False  # just being made, or just going
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False
    finally:
        os.close(lock)
