"""Values as JSON, as FastAPI and Ray Serve write them.

What consists of text, numbers, dicts and lists is written at once. Anything else is made of such things first: dates in
ISO 8601, durations as seconds, bytes as text, models and dataclasses as dicts, arrays as lists. What only FastAPI
knows is left to it.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import pathlib
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from types import GeneratorType
from typing import Any

import msgspec

_write = msgspec.json.Encoder().encode
_SIMPLE = frozenset({str, int, float, bool, type(None)})
_all_simple = _SIMPLE.issuperset
_SEQUENCES = (list, tuple, set, frozenset, deque, GeneratorType)


def as_json(value: Any) -> bytes:
    """A value as JSON in UTF-8; what is no number (nan, inf) is null. TypeError for what cannot be JSON."""
    if is_plain(value):
        try:
            return _write(value)
        except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
            pass  # keys that JSON has in another form, integers of more than 64 bits
    return _write_any(plain(value))


def is_plain(value: Any) -> bool:
    """Does it consist of dicts, lists and tuples of text, numbers and None, and nothing else?"""
    kind = type(value)
    if kind is dict:
        items: Any = value.values()
    elif kind is list or kind is tuple:
        items = value
    else:
        return kind in _SIMPLE
    if _all_simple(map(type, items)):
        return True
    for item in items:  # noqa: SIM110  a generator expression would cost half as much again
        if type(item) not in _SIMPLE and not is_plain(item):
            return False
    return True


def plain(value: Any) -> Any:
    """The same of dicts, lists, text and numbers."""
    kind = type(value)
    if kind in _SIMPLE:
        return value
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, _SEQUENCES):
        return [plain(item) for item in value]
    for known, convert in _KNOWN:
        if isinstance(value, known):
            return plain(convert(value))
    dump = getattr(value, "model_dump", None)  # pydantic's models
    if dump is not None and not isinstance(value, type):
        return dump(mode="json")
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # NumPy's arrays and numbers, and what is like them
        return plain(value.tolist())
    if isinstance(value, BaseException | type):
        raise TypeError(f"a {type(value).__name__} cannot be answered as JSON")
    if dataclasses.is_dataclass(value):
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return plain(msgspec.structs.asdict(value))
    from fastapi.encoders import jsonable_encoder

    return jsonable_encoder(value)


def _number(value: decimal.Decimal) -> int | float:
    exponent = value.as_tuple().exponent
    return int(value) if isinstance(exponent, int) and exponent >= 0 else float(value)


_KNOWN: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (enum.Enum, lambda value: value.value),
    (str, str.__str__),
    (bool, bool),
    (int, int),
    (float, float),
    (bytes | bytearray | memoryview, lambda value: bytes(value).decode()),
    (datetime.datetime | datetime.date | datetime.time, lambda value: value.isoformat()),
    (datetime.timedelta, datetime.timedelta.total_seconds),
    (decimal.Decimal, _number),
    (uuid.UUID | pathlib.PurePath, str),
)


def _key(key: Any) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, str | int | float):
        return str(key)
    found = plain(key)
    if isinstance(found, str | int | float):
        return str(found)
    raise TypeError(f"{key!r} cannot be a key in JSON")


def _write_any(value: Any) -> bytes:
    """The same as `_write`, with integers of any size."""
    try:
        return _write(value)
    except (OverflowError, ValueError, msgspec.MsgspecError):
        import json

        return json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
