"""Reading packed values in the process that wrote them.

A class that cannot be imported travels as its definition. Where it is known already, cloudpickle gives back the class
that exists, but writes the definition over it: class attributes would fall back to what they were when the value was
packed, and methods would lose sight of their module. Here, where reader and writer are one process, a class that exists
is left alone.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from skate.core.serialization import unpack_value

Data = bytes | memoryview

_BY_DEFINITION = b"_class_setstate"
_TRACKER_ID = {"_make_skeleton_class": 4, "_make_skeleton_enum": 5}
"""Which argument of cloudpickle's makers of classes tells whether the class is known."""


def read(data: Data) -> Any:
    """The value of a packed form."""
    if _BY_DEFINITION not in bytes(data[: _head(data)]):
        return unpack_value(data)
    return unpack_value(data, load)


def _head(data: Data) -> int:
    """How much of a packed form may be a pickle rather than buffers."""
    if data[0] == 0x80:
        return len(data)
    count, length = int.from_bytes(data[4:8], "little"), int.from_bytes(data[8:16], "little")
    return 16 + 16 * count + length


def load(data: Any, *, buffers: Any = None) -> Any:
    """As `pickle.loads`, but leaving classes alone that exist already."""
    return _Reader(io.BytesIO(data), buffers=buffers).load()


class _Reader(pickle.Unpickler):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._existing: set[int] = set()

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if module != "cloudpickle.cloudpickle":
            return found
        if name in _TRACKER_ID:
            return self._watched(found, _TRACKER_ID[name])
        if name == "_class_setstate":
            return self._sparing(found)
        return found

    def _watched(self, make: Any, place: int) -> Any:
        from cloudpickle import cloudpickle

        known = getattr(cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_ID", {})

        def make_or_find(*args: Any) -> Any:
            exists = len(args) > place and known.get(args[place]) is not None
            made = make(*args)
            if exists:
                self._existing.add(id(made))
            return made

        return make_or_find

    def _sparing(self, fill: Any) -> Any:
        def fill_if_new(made: Any, state: Any) -> Any:
            return made if id(made) in self._existing else fill(made, state)

        return fill_if_new
