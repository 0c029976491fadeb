"""`skate env`: what was built for runtime environments, and making room."""

from __future__ import annotations

import json
import time

import click


@click.group(short_help="Show or delete the environments that were built for runtime_env.")
def env() -> None:
    """Environments of pip, uv and conda that runtime_env had built; they are kept for later sessions.

    They lie in the directory that SKATE_ENV_CACHE names, else in skate/environments of your cache. Past
    SKATE_ENV_CACHE_LIMIT bytes (10 GiB) those go that were not used for longest.

    \b
    Examples:
      skate env list
      skate env clear
    """


@env.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def show(as_json: bool) -> None:
    """List them, the longest unused first."""
    from skate.cli.table import table
    from skate.runtime_env import cached_environments

    found = cached_environments()
    if as_json:
        click.echo(json.dumps([entry._asdict() for entry in found], indent=2))
        return
    rows = [
        (
            entry.key,
            f"{entry.size / 1e6:.1f} MB",
            "in use" if entry.in_use else time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)),
            entry.request,
        )
        for entry in found
    ]
    click.echo(table(("environment", "size", "last used", "asked for"), rows) if rows else "none")


@env.command()
def clear() -> None:
    """Delete those that no session uses."""
    from skate.runtime_env import clear_environments

    gone = clear_environments()
    click.echo(f"deleted {len(gone)}")
