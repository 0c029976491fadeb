"""The arguments of a call as they travel.

References given as arguments of their own are *dependencies*: the call waits for them and sees their values. References
inside other arguments stay references.
"""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

from skate.core.refs import ObjectRef
from skate.core.serialization import _ATOMS, Packed, pack

NO_ARGUMENTS = pickle.dumps(((), {}), 5)
_NOTHING = Packed(NO_ARGUMENTS, [], (), len(NO_ARGUMENTS))


class PackedCall(NamedTuple):
    """Packed ``(args, kwargs)``, or ``(args, kwargs, slots)`` when there are dependencies."""

    packed: Packed
    dependencies: tuple[int, ...]
    """Keys of the dependencies, one for each slot."""


def pack_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> PackedCall:
    """Pack the arguments of a call; TypeError when one cannot be pickled."""
    if not kwargs:
        if not args:
            return PackedCall(_NOTHING, ())
        for arg in args:
            if type(arg) not in _ATOMS:
                break
        else:
            pickled = pickle.dumps((args, kwargs), 5)
            return PackedCall(Packed(pickled, [], (), len(pickled)), ())
    slots: list[int | str] = [i for i, arg in enumerate(args) if isinstance(arg, ObjectRef)]
    slots += [name for name, arg in kwargs.items() if isinstance(arg, ObjectRef)]
    if not slots:
        return PackedCall(pack((args, kwargs)), ())
    plain, named, keys = list(args), dict(kwargs), []
    for slot in slots:
        if isinstance(slot, int):
            keys.append(plain[slot]._key)
            plain[slot] = None
        else:
            keys.append(named[slot]._key)
            named[slot] = None
    return PackedCall(pack((tuple(plain), named, slots)), tuple(keys))


def fill_call(call: tuple[Any, ...], values: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``(args, kwargs)`` of an unpacked call, its slots filled with the dependencies' values."""
    if len(call) == 2:
        return call[0], call[1]
    args, kwargs, slots = call
    plain = list(args)
    for slot, value in zip(slots, values, strict=True):
        if isinstance(slot, int):
            plain[slot] = value
        else:
            kwargs[slot] = value
    return tuple(plain), kwargs
