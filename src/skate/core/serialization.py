"""Values to bytes and back, with their large buffers kept apart and their references listed.

The C pickler (protocol 5) goes first; cloudpickle takes over for what only it can do: functions and classes of
``__main__``, lambdas, local classes. A packed value is one run of bytes in one of two forms:

* a bare pickle (its first byte is pickle's own ``0x80``), when no buffer was split off;
* ``0x01``, 3 spare bytes, u32 number of buffers, u64 length of the pickle, then u64 offset and u64 length of each
  buffer, the pickle, and the buffers, each at a multiple of 64 bytes.

Unpacking never copies a buffer: arrays are views of the bytes given, read-only where those are.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from skate.core.refs import collector

ALIGN = 64
LARGE = 64 * 1024
"""Packed values of at least this many bytes live in shared memory rather than in a message."""

_ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex})
_HEAD = struct.Struct("<B3xIQ")
_SPAN = struct.Struct("<QQ")
_dumps = pickle.dumps


class _Apart:
    """Large bytes, which the pickler would copy into the pickle: kept apart as arrays are."""

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type[bytes], tuple[pickle.PickleBuffer]]:
        return bytes, (pickle.PickleBuffer(self.value),)


class Packed(NamedTuple):
    """A value ready to be laid down somewhere."""

    pickled: bytes
    buffers: list[memoryview]
    refs: tuple[int, ...]
    """Keys of the references inside the value."""
    size: int
    """Bytes that the packed form takes."""

    def to_bytes(self) -> bytes:
        """The packed form as one `bytes`."""
        if not self.buffers:
            return self.pickled
        target = bytearray(self.size)
        self.write_into(memoryview(target))
        return bytes(target)

    def write_into(self, target: memoryview) -> None:
        """Lay the packed form down in `target`, which has `size` bytes."""
        pickled, buffers = self.pickled, self.buffers
        if not buffers:
            target[: len(pickled)] = pickled
            return
        _HEAD.pack_into(target, 0, 1, len(buffers), len(pickled))
        start = _HEAD.size + _SPAN.size * len(buffers)
        target[start : start + len(pickled)] = pickled
        place, table = start + len(pickled), _HEAD.size
        for buffer in buffers:
            place = -(-place // ALIGN) * ALIGN
            _SPAN.pack_into(target, table, place, buffer.nbytes)
            target[place : place + buffer.nbytes] = buffer
            place += buffer.nbytes
            table += _SPAN.size


def pack(value: Any) -> Packed:
    """Pack `value`; TypeError names the path to a part that cannot be pickled."""
    if type(value) in _ATOMS:
        pickled = _dumps(value, 5)
        return Packed(pickled, [], (), len(pickled))
    if type(value) is bytes and len(value) >= LARGE:
        value = _Apart(value)
    outer, collector.found = collector.found, []
    try:
        pickled, buffers = _pickle(value, collector.found)
        refs = tuple(collector.found)
    finally:
        collector.found = outer
    if not buffers:
        return Packed(pickled, [], refs, len(pickled))
    size = _HEAD.size + _SPAN.size * len(buffers) + len(pickled)
    views = []
    for buffer in buffers:
        view = buffer.raw()
        views.append(view)
        size = -(-size // ALIGN) * ALIGN + view.nbytes
    return Packed(pickled, views, refs, size)


def unpack(data: bytes | memoryview, loads: Callable[..., Any] = pickle.loads) -> Any:
    """The value of a packed form, read with `loads`. Arrays in it are views of `data`."""
    if data[0] == 0x80:
        return loads(data)
    _, count, length = _HEAD.unpack_from(data, 0)
    view = memoryview(data).toreadonly()
    table, start = _HEAD.size, _HEAD.size + _SPAN.size * count
    buffers = []
    for _ in range(count):
        place, size = _SPAN.unpack_from(view, table)
        buffers.append(view[place : place + size])
        table += _SPAN.size
    return loads(view[start : start + length], buffers=buffers)


def unpack_value(data: bytes | memoryview, loads: Callable[..., Any] = pickle.loads) -> Any:
    """As `unpack`, for a user's value: what its classes raise while it is rebuilt becomes RaySystemError, as in Ray."""
    try:
        return unpack(data, loads)
    except Exception as error:
        import traceback

        from skate.exceptions import RaySystemError

        what = f"a value could not be rebuilt here: {type(error).__name__}: {error}"
        raise RaySystemError(what, "".join(traceback.format_exception(error))) from error


def dump_definition(target: Callable[..., Any]) -> bytes:
    """Pickle a function or class, by value where it cannot be imported; TypeError names the culprit.

    References that the function holds in its closure stay alive as long as the session.
    """
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(target, protocol=5))
    except Exception as error:
        raise _explained(target, error) from error


def _pickle(value: Any, found: list[int]) -> tuple[bytes, list[pickle.PickleBuffer]]:
    buffers: list[pickle.PickleBuffer] = []
    try:
        pickled = _dumps(value, 5, buffer_callback=buffers.append)
        # Names in __main__ pickle here by reference, but mean another module in a worker.
        if b"__main__" not in pickled:
            return pickled, buffers
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError, NotImplementedError):
        pass  # cloudpickle may know how; if not, its error is the one to show
    import cloudpickle

    found.clear()
    buffers.clear()
    try:
        return cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append), buffers
    except Exception as error:
        raise _explained(value, error) from error


def _explained(value: Any, error: Exception) -> TypeError:
    from skate.core.culprit import find_culprit, is_call

    what = "the arguments of a call" if is_call(value) else describe(value)
    path = find_culprit(value)
    place = f" The part that cannot be pickled: {path}." if path else ""
    return TypeError(f"Could not serialize {what}: {type(error).__name__}: {error}.{place}")


def describe(value: Any) -> str:
    """A short name of a value for messages."""
    name = getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return f"the {'class' if isinstance(value, type) else 'function'} {name}"
    return f"a value of type {type(value).__qualname__}"
