"""Views of mapped memory: read-only, and watched, so that the memory serves others when nobody looks at it any more."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Callable
from typing import Any

PAGE = 4096
_types: dict[int, Any] = {}


def _exporter_type(size: int) -> Any:
    """A ctypes array type, kept because making one costs more than a small copy."""
    kind = _types.get(size)
    if kind is None:
        if len(_types) > 256:
            _types.clear()
        kind = _types[size] = ctypes.c_char * size
    return kind


class Views:
    """A mapping, and the views of it that there are."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self.map = mapped
        self._watched: dict[int, weakref.ref[Any]] = {}

    def read(self, offset: int, size: int, gone: Callable[[], None]) -> memoryview:
        """A read-only view; `gone` is called when it and everything that shares its memory has died."""
        rounded = -(-size // PAGE) * PAGE
        exporter = _exporter_type(rounded).from_buffer(self.map, offset)
        number = id(exporter)

        def died(_: weakref.ref[Any]) -> None:
            self._watched.pop(number, None)
            gone()

        self._watched[number] = weakref.ref(exporter, died)
        return memoryview(exporter).cast("B")[:size].toreadonly()

    def alive(self) -> list[Any]:
        """What the views that are left stand on: objects with the buffer interface."""
        return [exporter for watched in list(self._watched.values()) if (exporter := watched()) is not None]
