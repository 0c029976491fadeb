"""`inspect_serializability`: what in a value cannot be sent to another process."""

from __future__ import annotations

from typing import Any, NamedTuple

from skate.core.culprit import find_culprit_parts

__all__ = ["FailureTuple", "inspect_serializability"]


class FailureTuple(NamedTuple):
    """A part that cannot be pickled."""

    obj: Any
    name: str
    """How it is reached."""
    parent: Any
    """What holds it."""

    def __repr__(self) -> str:
        return f"FailTuple({self.name} [obj={self.obj!r}, parent={self.parent!r}])"

    def __hash__(self) -> int:
        return hash((self.name, id(self.obj)))


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: Any = None
) -> tuple[bool, set[FailureTuple]]:
    """Whether `base_obj` can be pickled, and the part of it that cannot; prints both.

    Args:
        base_obj: the value to look at.
        name: how to call it in what is printed.
        depth: has no effect: the search goes down until it finds the culprit.
        print_file: where to print; the standard output if None.
    """
    shown = name or repr(base_obj)
    steps = find_culprit_parts(base_obj)
    if steps is None:
        print(f"{shown} can be pickled.", file=print_file)
        return True, set()
    path, culprit, parent = steps
    where = " -> ".join([shown, *path])
    print(f"{shown} cannot be pickled because of {where}: {culprit!r}", file=print_file)
    return False, {FailureTuple(culprit, path[-1] if path else shown, parent)}
