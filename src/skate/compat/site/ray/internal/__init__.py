"""What Ray keeps for its own libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skate.core.refs import ObjectRef

__all__ = ["free"]


def free(object_refs: ObjectRef[Any] | Sequence[ObjectRef[Any]], local_only: bool = False) -> None:
    """Nothing is to be done: an object goes with its last reference. TypeError for what is not a reference.

    Early versions of Ray dropped the values at once.
    """
    given = [object_refs] if isinstance(object_refs, ObjectRef) else object_refs
    for ref in given:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"free takes references, not {ref!r} ({type(ref).__name__})")
