"""Where objects lie: `get_object_locations`, `get_local_object_locations`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skate.core import engine as engines
from skate.core.refs import ObjectRef

Locations = dict[ObjectRef[Any], dict[str, Any]]


def get_object_locations(obj_refs: Sequence[ObjectRef[Any]], timeout_ms: int = -1) -> Locations:
    """Where objects lie, by reference; those that nobody knows are left out.

    A location has ``node_ids``, the ids of the nodes with a copy, in hex (none of a small value, which travels in
    messages); ``object_size`` in bytes, None while there is no value; and ``did_spill``.

    Args:
        obj_refs: a list of references.
        timeout_ms: milliseconds to wait for what other processes know; as long as it takes when negative.

    Raises:
        RuntimeError: no session runs.
        TypeError: something else than references.
        GetTimeoutError: others did not answer in time.
    """
    return _locations(obj_refs, None if timeout_ms < 0 else timeout_ms / 1000, True)


def get_local_object_locations(obj_refs: Sequence[ObjectRef[Any]]) -> Locations:
    """The same, as far as it is known without asking other processes."""
    return _locations(obj_refs, None, False)


def _locations(refs: Sequence[ObjectRef[Any]], timeout: float | None, ask: bool) -> Locations:
    engine = engines.running()
    if engine is None:
        raise RuntimeError("No session runs in this process: call skate.init().")
    refs = list(refs)
    wrong = [ref for ref in refs if not isinstance(ref, ObjectRef)]
    if wrong:
        raise TypeError(f"Object references are wanted, not {type(wrong[0]).__name__}: {wrong[0]!r}")
    found = engine.locations(refs, timeout, ask)
    return {ref: location for ref, location in zip(refs, found, strict=True) if location is not None}
