"""Values as messages of a compiled graph's channels, and back."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from skate.core import engine as engines
from skate.core import refs
from skate.core.serialization import _ATOMS, Packed, pack, unpack_value

Bytes = bytes | memoryview
Data = Bytes | Packed
_PICKLE = 0x80
"""How a pickle without buffers apart begins."""
_dumps, _loads = pickle.dumps, pickle.loads


class Kept:
    """References inside of values that went through channels: kept until the graph ends, for their readers' sake."""

    def __init__(self) -> None:
        self._keys: list[int] = []

    def keep(self, keys: Sequence[int]) -> None:
        """Count these once more."""
        for key in keys:
            engines.current().borrow(key)
            self._keys.append(key)

    def drop(self) -> None:
        """Count all of them once less."""
        keys, self._keys = self._keys, []
        refs.released.extend(keys)


def encode(value: Any, kept: Kept) -> Data:
    """A value as a message, with buffers not copied yet; TypeError names the path to a part that cannot be pickled."""
    if type(value) in _ATOMS:
        return _dumps(value, 5)
    packed = pack(value)
    if packed.refs:
        kept.keep(packed.refs)
    return packed if packed.buffers else packed.pickled


def decode(data: Bytes) -> Any:
    """The value of a message; RaySystemError when its class cannot rebuild it."""
    if data[0] == _PICKLE:
        try:
            return _loads(data)
        except Exception:  # noqa: BLE001  a class may raise anything here, and `unpack_value` says so
            return unpack_value(data)
    return unpack_value(data)
