"""`skate logs`."""

from __future__ import annotations

from typing import Any

import click

import skate
from skate.cli.observe_session import attached
from skate.util.state import get_log, list_logs


def show_logs(name: str | None, ids: dict[str, Any], suffix: str, tail: int, follow: bool, address: str | None) -> None:
    """Print one file, or the names of those that fit."""
    ids = {key: value for key, value in ids.items() if value is not None}
    if len(ids) + (name is not None) > 1:
        raise click.UsageError("give a NAME or one of --actor-id, --task-id and --pid, not several")
    with attached(address):
        if not ids:
            found = _names(name or "*")
            if name is None or len(found) != 1:
                _show_names(found, name)
                return
            ids = {"filename": found[0]}
        for chunk in get_log(**ids, suffix=suffix, tail=tail, follow=follow, errors="replace"):
            click.echo(chunk, nl=False)


def _names(pattern: str) -> list[str]:
    node = skate.nodes()[0]["NodeID"]
    return [name for names in list_logs(node_id=node, glob_filter=pattern).values() for name in names]


def _show_names(found: list[str], pattern: str | None) -> None:
    if not found and pattern is not None:
        raise click.ClickException(f"no log file fits {pattern!r}; `skate logs` lists them")
    for name in sorted(found):
        click.echo(name)
    if not found:
        click.echo("No worker has written anything.")
