"""What the hub needs done with the files of spilled values: between blocks of the arena and `spills.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skate.engines.local.messages import Stored

if TYPE_CHECKING:
    from skate.engines.local.arena import Arena
    from skate.engines.local.requests import Requests
    from skate.engines.local.spills import Spills


class SpillPorts:
    """The hub's ports for files. Its methods are called with the engine's lock."""

    hub: Requests

    def __init__(self, arena: Arena, spills: Spills) -> None:
        self.arena = arena
        self.spills = spills
        self.spills_told = 0
        """Bytes of spilled objects that the last event told of."""

    def spill(self, key: int, offset: int, size: int) -> int | None:
        """Write a block to the file of `key`; its checksum, or None when that failed."""
        check = self.spills.write(key, self.arena.map().slice(offset, size))
        if check is None:
            self.hub.history.event("WARNING", "STORE", f"an object could not be spilled: {self.spills.problem}")
        elif self.spills.used > 2 * self.spills_told:  # each one would drown all other events
            self.spills_told = self.spills.used
            text = f"spilled objects take {self.spills.used:,} bytes in {self.spills.path}"
            self.hub.history.event("INFO", "STORE", text, bytes=self.spills.used)
        return check

    def reserve_spill(self, key: int, size: int) -> bool:
        """Count the file of `key`, which somebody is about to write; False when there is no room for it."""
        return self.spills.reserve(key, size)

    def spilled(self, key: int, check: int) -> None:
        """The file of `key` was written, with this checksum."""
        if key in self.spills.checks:
            self.spills.checks[key] = check

    def restore(self, value: Stored, offset: int) -> bool:
        """Read a file into a block; False when it is gone, or not what was written."""
        return self.spills.read_into(value.key, ~value.offset, self.arena.map().slice(offset, value.size))

    def unspill(self, key: int, size: int) -> None:
        """Delete the file of `key`, if there is one."""
        if self.spills.checks:
            self.spills.remove(key, size)

    def rename_spill(self, key: int, name: int) -> None:
        """The object of that file has another key from now on."""
        self.spills.rename(key, name)

    def spill_folder(self) -> str:
        """Where the files lie."""
        return self.spills.path

    def why_not_spilled(self) -> str:
        """Why the last spill failed, in words; empty when none has failed."""
        return self.spills.problem
