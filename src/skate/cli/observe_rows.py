"""`skate list`, `get`, `summary` and `timeline`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

import skate
from skate.cli.observe_session import attached
from skate.cli.table import table
from skate.util.state.api import GetApiOptions, ListApiOptions, StateApiClient
from skate.util.state.common import SCHEMAS, StateResource, SummaryResource

WIDEST = 60
"""Characters of a table's cell; --format json and yaml show all."""


def show_list(resource: str, filters: Sequence[str], limit: int, detail: bool, form: str, address: str | None) -> None:
    """Print rows."""
    kind = StateResource(resource.replace("-", "_"))
    options = ListApiOptions(limit=limit, detail=detail, filters=[parsed(text) for text in filters])
    with attached(address):
        rows = [row.asdict() for row in StateApiClient().list(kind, options)]
    names = SCHEMAS[kind].list_columns(detail)
    rows = [{name: row[name] for name in names} for row in rows]
    if form == "table":
        click.echo(table(names, [[cell(row[name]) for name in names] for row in rows]))
        click.echo(f"\n{len(rows)} {resource}" + (f": no more than --limit {limit}" if len(rows) == limit else ""))
    else:
        click.echo(formatted(rows, form))


def show_one(resource: str, id: str, form: str, address: str | None) -> None:
    """Print all columns of what has an id: there may be several attempts of a task, or references to an object."""
    kind = StateResource(resource.replace("-", "_"))
    with attached(address):
        found = StateApiClient().get(kind, id, GetApiOptions())
    rows = [row.asdict() for row in (found if isinstance(found, list) else [found] if found else [])]
    if not rows:
        click.echo(f"There is none of the {resource} with the id {id}.", err=True)
        sys.exit(1)
    if form == "json":
        click.echo(json.dumps(rows if len(rows) > 1 else rows[0], indent=2, default=str))
    else:
        click.echo(formatted(rows, "yaml"))


def show_summary(resource: str, form: str, address: str | None) -> None:
    """Print counts."""
    with attached(address):
        found = StateApiClient().summary(SummaryResource(resource))["cluster"]
    if form != "table":
        click.echo(formatted(found, form))
        return
    lines = []
    for name, entry in found["summary"].items():
        counts = entry.get("state_counts") or entry.get("ref_type_counts") or {}
        size = f"{entry['total_size_mb']:.3f} MB" if "total_size_mb" in entry else entry.get("type", "")
        lines.append([cell(name), ", ".join(f"{state}: {count}" for state, count in sorted(counts.items())), size])
    click.echo(table(("name", "counts", ""), lines))
    totals = {key: value for key, value in found.items() if key.startswith("total")}
    click.echo("\n" + ", ".join(f"{key.replace('_', ' ')}: {round(value, 3)}" for key, value in totals.items()))


def write_timeline(files: Sequence[str], html: str | None, address: str | None) -> None:
    """Write the timeline to each file; the page only to one that its name may not tell."""
    from skate.util.timeline import save

    with attached(address):
        found = skate.timeline() or []
    for name in files:
        try:
            save(found, name, name == html or name.endswith(".html"))
        except OSError as error:
            raise click.ClickException(f"{name} cannot be written: {error.strerror}") from error
        click.echo(f"{name}: {sum(event['ph'] == 'X' for event in found):,} calls")


def parsed(text: str) -> tuple[str, str, str]:
    """A filter as the state API takes it; a usage error for what is none."""
    for predicate in ("!=", "="):
        column, found, value = text.partition(predicate)
        if found and column:
            return column.strip(), predicate, value.strip()
    raise click.UsageError(f"--filter {text!r}: write COLUMN=VALUE or COLUMN!=VALUE")


def cell(value: Any) -> str:
    """A value in a table: on one line, not too long, and without what a terminal would act on."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."


def formatted(value: Any, form: str) -> str:
    """JSON, or YAML whose values are JSON, which is YAML too."""
    if form == "json":
        return json.dumps(value, indent=2, default=str)
    if isinstance(value, dict):
        return "\n".join(f"{name}: {json.dumps(entry, default=str)}" for name, entry in value.items())
    lines = []
    for row in value:
        for position, (name, entry) in enumerate(row.items()):
            lines.append(f"{'- ' if not position else '  '}{name}: {json.dumps(entry, default=str)}")
    return "\n".join(lines) if lines else "[]"
