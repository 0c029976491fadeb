"""Nodes inside of values: finding them, and putting other values in their places.

Lists, tuples, sets and dicts are walked as they are. Any other object is looked through by pickling it, which finds
what its attributes hold; one without nodes stays the very object, and one that cannot be pickled counts as having none.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from skate.actor_handle import ActorHandle
from skate.core.refs import ObjectRef
from skate.dag.base import DAGNodeBase

_ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex, bytearray, range, slice})
_WHOLE = (ObjectRef, ActorHandle, type, FunctionType, BuiltinFunctionType, ModuleType)
"""Not looked into: references, and code."""

Choose = Callable[[Any], Any]


def find_nodes(value: Any) -> list[Any]:
    """The nodes in `value` in the order in which they are met, each once; not those that only other nodes hold."""
    found: dict[int, Any] = {}

    def note(node: Any) -> Any:
        found.setdefault(id(node), node)
        return node

    replace_nodes(value, note)
    return list(found.values())


def replace_nodes(value: Any, choose: Choose) -> Any:
    """`value` with ``choose(node)`` in the place of each node; the same object if it holds none that changes."""
    if isinstance(value, DAGNodeBase):
        return choose(value)
    kind = type(value)
    if kind in _ATOMS or isinstance(value, _WHOLE):
        return value
    if kind is list or kind is set or kind is frozenset:
        items = [replace_nodes(item, choose) for item in value]
        return value if _same(items, value) else kind(items)
    if isinstance(value, tuple):
        items = [replace_nodes(item, choose) for item in value]
        if _same(items, value):
            return value
        return kind(items) if kind is tuple else kind(*items)  # one with names for its places
    if kind is dict:
        keys = [replace_nodes(key, choose) for key in value]
        items = [replace_nodes(item, choose) for item in value.values()]
        if _same(keys, value) and _same(items, value.values()):
            return value
        return dict(zip(keys, items, strict=True))
    return _replace_inside(value, choose)


def _same(items: list[Any], old: Iterable[Any]) -> bool:
    return all(new is was for new, was in zip(items, old, strict=True))


def _replace_inside(value: Any, choose: Choose) -> Any:
    """`replace_nodes` for an object of which only pickling knows the parts."""
    import cloudpickle

    apart: list[Any] = []

    class Looker(cloudpickle.Pickler):  # type: ignore[misc]
        def persistent_id(self, part: Any) -> int | None:
            if not isinstance(part, DAGNodeBase | ObjectRef | ActorHandle):
                return None
            apart.append(part)
            return len(apart) - 1

    buffers: list[pickle.PickleBuffer] = []
    written = io.BytesIO()
    try:
        Looker(written, protocol=5, buffer_callback=buffers.append).dump(value)
    except Exception:  # noqa: BLE001  whatever a class raises here, the call that takes the value explains it
        return value
    if not any(isinstance(part, DAGNodeBase) for part in apart):
        return value

    class Builder(pickle.Unpickler):
        def persistent_load(self, number: Any) -> Any:
            part = apart[number]
            return choose(part) if isinstance(part, DAGNodeBase) else part

    return Builder(io.BytesIO(written.getvalue()), buffers=buffers).load()
