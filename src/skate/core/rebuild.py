"""Rebuilding an exception without calling its class.

Python unpickles an exception by calling its class with `args`, which fails for every class whose
`__init__` takes anything else. Here an instance is made blank and then filled.
"""

from __future__ import annotations

import copyreg
import types
from typing import Any

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: the class was made at run time, not compiled in
_FIELDS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def recipe(error: BaseException, around: frozenset[int] = frozenset()) -> tuple[Any, ...]:
    """What `__reduce__` is to return for `error`; `around`: ids of the errors it is part of."""
    inside = around | {id(error)}
    seal = _Sealer(inside)
    args = BaseException.args.__get__(error)  # type: ignore[attr-defined]
    state = {name: seal(value) for name, value in vars(error).items()}
    fields = {name: seal(value) for name, value in fields_of(error).items()}
    return _rebuild, (type(error), seal(args), seal(group_of(error)), state, fields)


def blank(cls: type, args: tuple[Any, ...], group: tuple[Any, ...]) -> Any:
    """An instance of the exception class `cls`, made by the compiled class under it."""
    solid = cls
    while solid.__flags__ & _HEAP_TYPE and solid.__base__ is not None:
        solid = solid.__base__
    make: Any = solid.__new__
    error = make(cls, *(group or args))
    BaseException.args.__set__(error, args)  # type: ignore[attr-defined]
    return error


def group_of(error: BaseException) -> tuple[Any, ...]:
    """Message and exceptions of an exception group, which its `__new__` needs; else nothing."""
    return (error.message, error.exceptions) if isinstance(error, BaseExceptionGroup) else ()


def fields_of(error: BaseException) -> dict[str, Any]:
    """What `error` keeps outside its `__dict__`, as an OSError its `errno`, and `__slots__`."""
    kept: dict[str, Any] = {}
    for cls in type(error).__mro__:
        for name, field in vars(cls).items():
            if not isinstance(field, _FIELDS) or name.startswith("__") or name == "args":
                continue
            try:
                value = field.__get__(error, type(error))
            except AttributeError:
                continue  # a slot never set
            # To set a compiled field to None is not the same as to leave it: str() would show it.
            if value is not None or cls.__flags__ & _HEAP_TYPE:
                kept.setdefault(name, value)
    return kept


def fill(error: BaseException, fields: dict[str, Any]) -> None:
    """Set what `fields_of` gave."""
    for name, value in fields.items():
        try:
            BaseException.__setattr__(error, name, value)
        except (AttributeError, TypeError):
            continue  # read-only, as a group's `exceptions`: `blank` has set it


def _rebuild(
    cls: type,
    args: tuple[Any, ...],
    group: tuple[Any, ...],
    state: dict[str, Any],
    fields: dict[str, Any],
) -> BaseException:
    error: BaseException = blank(cls, args, group)
    vars(error).update(state)
    fill(error, fields)
    return error


class _Sealer:
    """Puts `_Sealed` in the place of exceptions; an object, since a function that calls itself would keep them all."""

    def __init__(self, inside: frozenset[int]) -> None:
        self.inside = inside
        self.sealed: dict[int, _Sealed] = {}

    def __call__(self, value: Any) -> Any:
        if type(value) in (list, tuple):
            return type(value)(map(self, value))
        if not isinstance(value, BaseException) or not _has_plain_pickling(type(value)):
            return value
        if id(value) in self.inside:  # a circle: pickle itself can draw it, this module cannot
            return value
        return self.sealed.setdefault(id(value), _Sealed(value, self.inside))


class _Sealed:
    """Stands for a user's exception inside a pickle, and comes back as that exception."""

    def __init__(self, error: BaseException, around: frozenset[int]) -> None:
        self.error = error
        self.around = around

    def __reduce__(self) -> tuple[Any, ...]:
        return recipe(self.error, self.around)


def _has_plain_pickling(cls: type) -> bool:
    """Whether nobody has said how: Python would then call `cls(*args)`, which often cannot work."""
    usual: Any = BaseException.__reduce_ex__
    if cls.__reduce_ex__ is not usual:
        return False
    if any(cls is known for known in copyreg.dispatch_table):  # `in` needs a hashable class
        return False
    owner = next(base for base in cls.__mro__ if "__reduce__" in vars(base))
    return not owner.__flags__ & _HEAP_TYPE
