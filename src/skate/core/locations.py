"""Where objects lie, found in an engine's table of objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from skate.core import ids

if TYPE_CHECKING:
    from skate.core.refs import ObjectRef

Location = dict[str, Any]
"""``node_ids``: nodes with a copy, in hex; ``object_size``: bytes, None while there is no value; ``did_spill``."""


def of_rows(rows: Iterable[dict[str, Any]], refs: Sequence[ObjectRef[Any]]) -> list[Location | None]:
    """The location of each object, None for one that is not known."""
    known = {row["object_id"]: row for row in rows}
    return [_of(known.get(ids.object_binary(ref._key, 0).hex())) for ref in refs]


def _of(row: dict[str, Any] | None) -> Location | None:
    if row is None:
        return None
    size = row["object_size"]
    return {"node_ids": list(row["nodes"]), "object_size": size if size >= 0 else None, "did_spill": row["spilled"]}
