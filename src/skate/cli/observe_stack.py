"""`skate stack`."""

from __future__ import annotations

import click

from skate.cli.observe_session import attached
from skate.util.stacks import stacks
from skate.util.state import list_workers
from skate.util.state.common import RAY_MAX_LIMIT_FROM_API_SERVER


def show_stacks(pids: tuple[int, ...], py_spy: bool, address: str | None) -> None:
    """Print the stacks of workers."""
    with attached(address):
        rows = list_workers(filters=[("is_alive", "=", True)], limit=RAY_MAX_LIMIT_FROM_API_SERVER)
        kinds = {row.pid: row.worker_type.lower() for row in rows}
        unknown = [pid for pid in pids if pid not in kinds]
        if unknown:
            raise click.ClickException(f"no process of this session has the pid {unknown[0]}; see `skate list workers`")
        found = stacks(pids or None, py_spy=py_spy)
    for pid, text in found.items():
        click.echo(f"--- {kinds.get(pid, 'worker')} {pid}")
        click.echo(text.rstrip() + "\n")
