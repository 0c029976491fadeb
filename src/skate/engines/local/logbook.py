"""What workers have written, kept in files of the session's folder; and the file of events, where one is asked for.

Each file is bounded: when it is half full it becomes the older half, ``NAME.1``, in place of the one before. A file is
open only while something is written, so that a thousand workers need no thousand descriptors.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import msgspec

from skate.core import ids
from skate.core.keeping import Keeping

if TYPE_CHECKING:
    from skate.engines.local.history import Card, Event
    from skate.engines.local.rows import Worker

EVENTS = "events.jsonl"


class Logbook:
    """Writes the files of one session."""

    def __init__(self, folder: str, keeping: Keeping) -> None:
        self.folder = os.path.join(folder, "logs") if folder else ""
        self.half = keeping.log_bytes // 2
        self.most = max(1, keeping.log_files)
        self.sizes: dict[str, int] = {}
        """Bytes in each file, the one written to last at the end."""
        if not self.half:
            self.folder = ""

    def keep(self, worker: Worker, suffix: str, data: bytes) -> None:
        """Keep what a worker wrote to its output ``out`` or ``err``."""
        if self.folder:
            self._write(file_name(worker.card, worker.pid, suffix), data)

    def event(self, event: Event) -> None:
        """Write an event down."""
        if self.folder:
            self._write(EVENTS, msgspec.json.encode(event) + b"\n")

    def _write(self, name: str, data: bytes) -> None:
        path = os.path.join(self.folder, name)
        size = self.sizes.pop(name, -1)
        try:
            if size < 0:
                self._make_room()
                size = 0
            if size and size + len(data) > self.half:
                os.replace(path, f"{path}.1")
                size = 0
            if len(data) > self.half:  # and nothing that was before it
                data = data[-self.half :]
                _forget(f"{path}.1")
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, data)
            finally:
                os.close(file)
        except OSError:
            self.folder = ""  # the disk is full, or the folder gone: the session goes on without
            return
        self.sizes[name] = size + len(data)

    def _make_room(self) -> None:
        if not self.sizes:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
        while len(self.sizes) >= self.most:
            oldest = next(iter(self.sizes))
            del self.sizes[oldest]
            for name in (oldest, f"{oldest}.1"):
                _forget(os.path.join(self.folder, name))


def file_name(card: Card, pid: int, suffix: str) -> str:
    """The file of a worker's output, as Ray calls it."""
    return f"worker-{ids.worker_hex(card.client)}-{card.job.to_bytes(4, 'little').hex()}-{pid}.{suffix}"


def _forget(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
