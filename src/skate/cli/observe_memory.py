"""`skate memory`."""

from __future__ import annotations

from collections.abc import Callable

import click

from skate.cli.observe_rows import cell
from skate.cli.observe_session import attached
from skate.cli.table import table
from skate.util.state import list_objects
from skate.util.state.common import RAY_MAX_LIMIT_FROM_API_SERVER, ObjectState

_UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_GROUPS: dict[str, Callable[[ObjectState], str]] = {
    "line": lambda row: row.call_site or "unknown",
    "pid": lambda row: f"{row.type.lower()} {row.pid}",
    "type": lambda row: row.reference_type,
    "node": lambda row: row.ip,
}
_ORDERS: dict[str, Callable[[ObjectState], tuple[object, ...]]] = {
    "size": lambda row: (-row.object_size,),
    "pid": lambda row: (row.pid, -row.object_size),
    "type": lambda row: (row.reference_type, -row.object_size),
}


def show_memory(group_by: str, sort_by: str, units: str, limit: int, stats_only: bool, address: str | None) -> None:
    """Print references, group by group, the group with the most bytes first."""
    with attached(address):
        rows = list_objects(limit=RAY_MAX_LIMIT_FROM_API_SERVER)
    groups: dict[str, list[ObjectState]] = {}
    for row in rows:
        groups.setdefault(_GROUPS[group_by](row), []).append(row)
    for name, members in sorted(groups.items(), key=lambda group: -_bytes(group[1])):
        kinds = sorted({row.reference_type for row in members})
        counts = ", ".join(f"{kind}: {sum(row.reference_type == kind for row in members)}" for kind in kinds)
        click.echo(f"{cell(name) if name != 'disabled' else 'lines are not recorded'}")
        click.echo(f"  {_size(_bytes(members), units)} in {_objects(members)} objects; {counts}")
        if not stats_only:
            click.echo(_table(sorted(members, key=_ORDERS[sort_by])[:limit], units))
            if len(members) > limit:
                click.echo(f"  and {len(members) - limit} more")
        click.echo("")
    click.echo(f"All: {_size(_bytes(rows), units)} in {_objects(rows)} objects, {len(rows)} references")
    if "disabled" in groups:
        click.echo("Set RAY_record_ref_creation_sites=1 before the session begins, to see the lines that make objects.")


def _bytes(rows: list[ObjectState]) -> int:
    """Of all objects, each once."""
    return sum({row.object_id: max(0, row.object_size) for row in rows}.values())


def _objects(rows: list[ObjectState]) -> int:
    return len({row.object_id for row in rows})


def _size(count: int, units: str) -> str:
    if count < 0:
        return "-"
    return f"{count:,} B" if units == "B" else f"{count / _UNITS[units]:,.3f} {units}"


def _table(rows: list[ObjectState], units: str) -> str:
    head = ("object", "size", "reference", "made by", "process", "pid")
    lines = [
        (
            row.object_id,
            _size(row.object_size, units),
            row.reference_type,
            row.task_status,
            row.type,
            str(row.pid),
        )
        for row in rows
    ]
    return "\n".join(f"  {line}" for line in table(head, lines).splitlines())
