"""A worker's part of shared memory: blocks that it fills, values that it reads, views that it keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from skate import exceptions
from skate.core import refs
from skate.core.ids import object_binary
from skate.core.serialization import unpack_value
from skate.engines.local import spills
from skate.engines.local.arena import Mapping
from skate.engines.local.boot import PAGE
from skate.engines.local.link import BlockingLink
from skate.engines.local.mailbox import Mailbox
from skate.engines.local.messages import Outcome, Stored, Unused, Value, Welcome, decode_any, encode_any

LARGEST_SPARE = 4 << 20
MOST_SPARES = 4


class LostValue(exceptions.ObjectLostError):
    """A spilled value whose file is gone, or is not what was written."""

    def __init__(self, key: int) -> None:
        super().__init__(object_binary(key, 0).hex(), message="The file that it was spilled to cannot be read.")
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return LostValue, (self.key,)


class Blocks(Mailbox):
    """Lays values down in the arena, or in files, and reads them."""

    def __init__(self, link: BlockingLink, welcome: Welcome, open_arena: Callable[[], Mapping]) -> None:
        super().__init__(link, welcome)
        self.open_arena = open_arena
        self._mapping: Mapping | None = None
        self._spills = ""
        self.taken: dict[int, int] = {}
        """Blocks allocated, and not yet in a message: size by offset."""

    @property
    def mapping(self) -> Mapping:
        """This process's view of the arena."""
        if self._mapping is None:
            self._mapping = self.open_arena()
        return self._mapping

    def _allocate(self, key: int, size: int) -> int:
        pages = -(-size // PAGE)
        for grant in self.grants:
            if -(-grant[1] // PAGE) == pages:
                self.grants.remove(grant)
                self.taken[grant[0]] = grant[1]
                return grant[0]
        if refs.released:
            self.settle()  # so that what was dropped before makes room for this
        offset: int = decode_any(self._ask("allocate", encode_any((key, size))))
        if offset >= 0:
            self.taken[offset] = size
        self.heed_cancel()
        return offset

    def _free(self, value: Stored) -> None:
        if self.taken.pop(value.offset, None) is not None:
            self._spare(value.offset, value.size)

    def _spare(self, offset: int, size: int) -> None:
        """Keep a block for the next result, or give it back."""
        if size <= LARGEST_SPARE and len(self.grants) < MOST_SPARES:
            self.grants.append((offset, size))
        else:
            with self.lock:
                self.link.out.append(Unused([offset]))

    def sent(self, value: Value) -> None:
        """A value has gone into a message: its block is the hub's."""
        if type(value) is Stored:
            self.taken.pop(value.offset, None)

    def reclaim(self) -> None:
        """A call has ended: what it allocated and did not send serves the next."""
        while self.taken:
            self._spare(*self.taken.popitem())

    def _block(self, offset: int, size: int) -> memoryview:
        return self.mapping.slice(offset, size)

    def load(self, value: Value) -> Any:
        """Unpack a value; arrays in shared memory are views, and count as references while they live.

        Raises `LostValue` when it was spilled and its file cannot be read.
        """
        if type(value) is bytes:
            return unpack_value(value)
        assert isinstance(value, Stored)
        if value.offset < 0:
            data = spills.read(self._spill_folder(), value.key, value.size, ~value.offset)
            if data is None:
                raise LostValue(value.key)
            return unpack_value(memoryview(data).toreadonly())
        view = ~value.key
        self.borrow(view)
        return unpack_value(self.mapping.read(value.offset, value.size, lambda: refs.released.append(view)))

    def _spill_folder(self) -> str:
        if not self._spills:
            self._spills = self.ask("spill_folder")
        return self._spills

    def unseen(self, outcomes: Sequence[Outcome]) -> None:
        """Values that came for a `get` have been read, or will not be: what views were left is known to the hub."""
        for outcome in outcomes:
            if type(outcome.value) is Stored:
                self.seen.append(outcome.value.key)

    def borrow(self, key: int) -> None:
        """One more reference lives in this process."""
        with self.lock:
            count = self.counts.get(key, 0)
            self.counts[key] = count + 1
            if count == 0:
                self.fresh.add(key)
