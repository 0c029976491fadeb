"""Which part of a value cannot be pickled, for the message of the error."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from skate.core.refs import collector

Part = tuple[str, Any]
"""How a part is reached from its whole, and the part."""

_MOST_TRIED = 5_000
_ATOMS = (int, float, str, bytes, bool, type(None))


def find_culprit(value: Any) -> str:
    """The path from `value` to the part that cannot be pickled; "" when `value` has no such part.

    >>> import threading
    >>> find_culprit({"x": [1, threading.Lock()]})
    "['x'] -> [1] (a _thread.lock)"
    """
    found = find_culprit_parts(value)
    if found is None:
        return ""
    path, culprit, _ = found
    return f"{' -> '.join(path)} ({_name(culprit)})" if path else ""


def find_culprit_parts(value: Any) -> tuple[list[str], Any, Any] | None:
    """The steps from `value` to the culprit, the culprit, and its holder; None if all is fine."""
    outer, collector.found = collector.found, []  # references met here do not travel
    try:
        return _Search().run(value)
    finally:
        collector.found = outer


class _Search:
    """Goes down into the first part that fails, until none of a part's own parts do."""

    def __init__(self) -> None:
        import cloudpickle

        self._dump = cloudpickle.dumps
        self._seen: set[int] = set()
        self._tried = 0

    def run(self, value: Any) -> tuple[list[str], Any, Any] | None:
        if self._is_fine(value):
            return None
        path: list[str] = []
        holder = None
        parts = _call_parts(value) if is_call(value) else _parts(value)
        while True:
            self._seen.add(id(value))
            found = next((p for p in parts if self._fails(p[1])), None)
            if found is None:
                return path, value, holder
            holder = value
            step, value = found
            path.append(step)
            parts = _parts(value)

    def _fails(self, part: Any) -> bool:
        if isinstance(part, _ATOMS) or id(part) in self._seen or self._tried >= _MOST_TRIED:
            return False
        return not self._is_fine(part)

    def _is_fine(self, value: Any) -> bool:
        self._tried += 1
        try:
            self._dump(value)
        except Exception:  # noqa: BLE001  a class's own pickling code may raise anything
            return False
        return True


def is_call(value: Any) -> bool:
    """Whether `value` is what `skate.core.calls` packs: a call's arguments."""
    if type(value) is not tuple or len(value) not in (2, 3):
        return False
    return type(value[0]) is tuple and type(value[1]) is dict


def _call_parts(value: Any) -> Iterator[Part]:
    for i, arg in enumerate(value[0]):
        yield f"argument {i}", arg
    for name, arg in value[1].items():
        yield f"argument {name!r}", arg


def _parts(value: Any) -> Iterator[Part]:
    if isinstance(value, FunctionType):
        return _function_parts(value)
    if isinstance(value, MethodType):
        return iter([("the object it is bound to", value.__self__)])
    if isinstance(value, type):
        return _class_parts(value)
    if isinstance(value, partial):
        return _partial_parts(value)
    if type(value) in (list, tuple):
        return ((f"[{i}]", part) for i, part in enumerate(value))
    if type(value) in (set, frozenset):
        return (("an element", part) for part in value)
    if type(value) is dict:
        return _dict_parts(value)
    return _object_parts(value)


def _dict_parts(value: dict[Any, Any]) -> Iterator[Part]:
    for key, part in value.items():
        yield f"[{key!r}]", part
        yield "a key", key


def _function_parts(function: FunctionType) -> Iterator[Part]:
    code = function.__code__
    where = f"of {function.__qualname__}, defined at {code.co_filename}:{code.co_firstlineno}"
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty cell
            yield f"closure variable {name!r} {where}", cell.cell_contents
    for name in _names_used(code):
        if name in function.__globals__:
            yield f"global variable {name!r} {where}", function.__globals__[name]
    for part in function.__defaults__ or ():
        yield f"a default {where}", part
    for name, part in (function.__kwdefaults__ or {}).items():
        yield f"the default of {name!r} {where}", part
    for name, part in vars(function).items():
        yield f".{name}", part


def _names_used(code: Any) -> list[str]:
    names = list(code.co_names)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            names += _names_used(constant)
    return list(dict.fromkeys(names))


def _class_parts(value: type[Any]) -> Iterator[Part]:
    for name, part in vars(value).items():
        if isinstance(part, staticmethod | classmethod):
            part = part.__func__
        if name not in ("__dict__", "__weakref__"):
            yield f".{name}", part


def _partial_parts(value: partial[Any]) -> Iterator[Part]:
    yield ".func", value.func
    for i, part in enumerate(value.args):
        yield f".args[{i}]", part
    for name, part in value.keywords.items():
        yield f".keywords[{name!r}]", part


def _object_parts(value: Any) -> Iterator[Part]:
    """What an object says it consists of, when asked as pickle asks."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001  this is the culprit itself: it refuses
        return
    if not isinstance(reduced, tuple):
        return
    _, made_from, state, items, pairs = (*reduced, None, None, None)[:5]
    yield from _state_parts(state)
    for i, part in enumerate(items or ()):
        yield f"[{i}]", part
    for key, part in pairs or ():
        yield f"[{key!r}]", part
    for part in made_from or ():
        yield f"what {type(value).__name__} is rebuilt from", part


def _state_parts(state: Any) -> Iterator[Part]:
    if isinstance(state, tuple) and len(state) == 2:
        yield from _state_parts(state[0])
        yield from _state_parts(state[1])
    elif isinstance(state, dict):
        for name, part in state.items():
            yield f".{name}", part
    elif state is not None:
        yield "its state", state


def _name(value: Any) -> str:
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"a {module}{kind.__qualname__}"
