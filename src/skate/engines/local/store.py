"""Where stored values lie: in the arena, or, past its limit, in files.

A value is *resident* while it lies in the arena. When there is no room for another, the residents that were used
longest ago go to disk, except those that somebody reads: a process with a view of the memory, an answer on its way, a
call that runs. A spilled value that is asked for comes back into the arena if there is room for it, at the cost of
others if need be; if there is none, who asked reads the file. In the same way a new value for which there is no room,
since all that is there is being read, is written to a file at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from skate.engines.local import errors
from skate.engines.local.arena import Arena
from skate.engines.local.messages import Feed, Stored, TaskSpec
from skate.engines.local.rows import FAILED, PENDING, READY, Row
from skate.engines.local.scheduler import Scheduler
from skate.engines.local.table import Table


class Files(Protocol):
    """What the store needs done by others."""

    def spill(self, key: int, offset: int, size: int) -> int | None:
        """Write a block to the file of `key`; its checksum, or None when that failed."""

    def reserve_spill(self, key: int, size: int) -> bool:
        """Count the file of `key`, which somebody is about to write; False when there is no room for it."""

    def spilled(self, key: int, check: int) -> None:
        """The file of `key` was written, with this checksum."""

    def restore(self, value: Stored, offset: int) -> bool:
        """Read a file into a block; False when it is gone, or not what was written."""

    def unspill(self, key: int, size: int) -> None:
        """Delete the file of `key`, if there is one."""

    def rename_spill(self, key: int, name: int) -> None:
        """The object of that file has another key from now on."""

    def spill_folder(self) -> str:
        """Where the files lie."""

    def why_not_spilled(self) -> str:
        """Why the last spill failed, in words; empty when none has failed."""

    def collect(self) -> None:
        """Count the references that the driver has dropped."""


class Store(Table):
    """The table's values that are not in messages."""

    ports: Files
    scheduler: Scheduler

    def __init__(self, arena: Arena) -> None:
        super().__init__()
        self.arena = arena
        self.resident: dict[int, Row] = {}
        """Rows whose value lies in the arena, those used last at the end."""
        self.views: dict[int, int] = {}
        """How many views of a block there are; each counts as a reference as well."""

    # -------------------------------------------------------------------- values

    def store(self, key: int, row: Row, value: Stored) -> None:
        """A row takes a stored value."""
        if value.key != key:  # a stream's item is made before it has a key of its own
            self.resident.pop(value.key, None)
            self.scheduler.copies.pop(value.key, None)
            if value.offset < 0:
                self.ports.rename_spill(value.key, key)
            value = row.value = Stored(key, value.offset, value.size)
        if value.offset >= 0:
            self.resident[key] = row
        else:
            self.ports.spilled(key, ~value.offset)  # its maker wrote the file; only now is the checksum known here

    def free(self, key: int, row: Row, value: Stored) -> None:
        """A row has lost its stored value: nobody needs it any more."""
        if value.offset >= 0:
            del self.resident[key]
            self.arena.free(value.offset, value.size)
        self.ports.unspill(key, value.size)  # also one that came back has its file still
        if self.scheduler.copies:
            self.scheduler.copies.pop(key, None)

    def discard(self, value: Any) -> None:
        """Free a value that came for nobody."""
        if type(value) is not Stored:
            return
        if self.scheduler.copies:
            self.scheduler.copies.pop(value.key, None)
        if value.offset >= 0:
            self.arena.free(value.offset, value.size)
        else:
            self.ports.unspill(value.key, value.size)

    def hold_view(self, key: int) -> None:
        """Count a view of an object's memory, which keeps it where it is."""
        row = self.rows.get(key)
        if row is not None:
            row.count += 1
            self.views[key] = self.views.get(key, 0) + 1

    def release_view(self, key: int) -> None:
        """A view is gone."""
        left = self.views.get(key, 0) - 1
        if left > 0:
            self.views[key] = left
        else:
            self.views.pop(key, None)
        self.release(key)

    # ---------------------------------------------------------------------- room

    def allocate(self, key: int, size: int) -> int:
        """Room in the arena for the value of `key`; -1 when there is none, and it is to go to its file at once.

        Raises ObjectStoreFullError or OutOfDiskError when it can go nowhere.
        """
        offset = self.room(size)
        if offset is not None:
            return offset
        if size > self.arena.capacity:
            raise errors.too_large(size, self.arena.capacity)
        if not self.ports.reserve_spill(key, size):
            problem = self.ports.why_not_spilled()
            raise errors.disk_full(size, self.arena.used, self.arena.capacity, problem)
        return -1

    def room(self, size: int) -> int | None:
        """The offset of a block; others go to disk for it if need be."""
        offset = self.arena.allocate(size)
        if offset is not None:
            return offset
        self.ports.collect()
        offset = self.arena.allocate(size)
        if offset is not None or size > self.arena.capacity:
            return offset
        used = self.in_use()
        for key in list(self.resident):  # a copy, for what is spilled leaves it
            row = self.resident[key]
            if key in self.views or key in used or row.state != READY:
                continue
            if not self._spill(key, row):
                return None
            offset = self.arena.allocate(size)
            if offset is not None:
                return offset
        return None

    def in_use(self) -> set[int]:
        """Keys of values that calls under way read."""
        raise NotImplementedError

    def _spill(self, key: int, row: Row) -> bool:
        value = row.value
        check = self.ports.spill(key, value.offset, value.size)
        if check is None:
            return False
        del self.resident[key]
        self.arena.free(value.offset, value.size)
        row.value = Stored(key, ~check, value.size)
        return True

    # ------------------------------------------------------------------- reading

    def read(self, key: int, row: Row, node: int = 1) -> Any:
        """A ready row's value for somebody who is about to read it; PENDING or FAILED afterwards when it was lost.

        A stored value is the reader's for as long as he counts a view of it. `node`: the number of the reader's.
        """
        value = row.value
        if type(value) is not Stored:
            return value
        if self.scheduler.copies:
            self.scheduler.copied(key, node)
        if value.offset >= 0:
            self.resident[key] = self.resident.pop(key)
            return value
        offset = self.room(value.size)
        if offset is None:
            return value
        if not self.ports.restore(value, offset):
            self.arena.free(offset, value.size)
            self.lose(key)
            return row.value
        row.value = value = Stored(key, offset, value.size)
        self.resident[key] = row
        return value

    def supply(self, row: Row, spec: TaskSpec) -> tuple[TaskSpec, Feed | None] | None:
        """A call and the values of its inputs as they are to be sent; None when one was lost."""
        rows = self.rows
        for key in self.inputs(spec):
            source = rows[key]
            if type(source.value) is Stored:
                assert row.worker is not None
                self.read(key, source, row.worker.node.key)
            if source.state == PENDING or source.state == FAILED:
                return None
        args = spec.args
        if type(args) is Stored and rows[args.key].value is not args:
            spec = msgspec.structs.replace(spec, args=rows[args.key].value)
        return spec, Feed([rows[key].value for key in spec.deps]) if spec.deps else None

    def wait_again(self, row: Row, spec: TaskSpec, ready: Callable[[Row], None]) -> None:
        """A call that was about to begin waits for the inputs that were lost meanwhile; or it fails with them."""
        row.worker = None
        self.await_inputs(row, spec, ready)
        if not row.missing:
            ready(row)

    def lose(self, key: int, removed: bool = False) -> None:
        """The value of a ready object is gone: have it made again, or fail it."""
        raise NotImplementedError
