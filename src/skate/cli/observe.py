"""The commands that look into a session; what they do is in the modules beside this one."""

from __future__ import annotations

from typing import Any

import click

RESOURCES = (
    "actors",
    "cluster-events",
    "jobs",
    "nodes",
    "objects",
    "placement-groups",
    "runtime-envs",
    "tasks",
    "workers",
)
BY_ID = ("actors", "jobs", "nodes", "objects", "placement-groups", "tasks", "workers")
FORMATS = ("table", "json", "yaml")


class _Resource(click.Choice[str]):
    """One of several names, in the plural or the singular, with hyphens or underscores."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name = str(value).replace("_", "-")
        return super().convert(name if name.endswith("s") else f"{name}s", param, ctx)


_address = click.option(
    "--address", envvar="SKATE_ADDRESS", metavar="ADDRESS", help="The session to look at (default: the one there is)."
)
_format = click.option("--format", "form", type=click.Choice(FORMATS), default="table", help="Default: table.")


@click.command("list", short_help="List tasks, actors, objects, workers and others.")
@click.argument("resource", type=_Resource(RESOURCES))
@click.option("--filter", "filters", multiple=True, metavar="COLUMN=VALUE", help="Also !=. Several: all must hold.")
@click.option("--limit", default=100, type=click.IntRange(0, 10_000), help="The most rows (default: 100).")
@click.option("--detail", is_flag=True, help="All columns.")
@_format
@_address
def list_rows(resource: str, filters: tuple[str, ...], limit: int, detail: bool, form: str, address: str) -> None:
    """List the rows of RESOURCE: tasks, actors, objects, workers, nodes, jobs, placement-groups, runtime-envs,
    cluster-events.

    Tasks, workers and actors that have ended are listed too, as far back as the session remembers.

    \b
    Examples:
      skate list tasks --filter state=FAILED
      skate list actors --detail --format yaml
      skate list workers --filter is_alive=true --format json
    """
    from skate.cli.observe_rows import show_list

    show_list(resource, filters, limit, detail, form, address)


@click.command("get", short_help="Show one task, actor, object or other by its id.")
@click.argument("resource", type=_Resource(BY_ID))
@click.argument("id")
@_format
@_address
def get_row(resource: str, id: str, form: str, address: str) -> None:
    """Show all that is known of one RESOURCE. The exit code is 1 when there is none of that ID.

    \b
    Examples:
      skate get tasks 0000010000000001...
      skate get actors 00000100... --format json
    """
    from skate.cli.observe_rows import show_one

    show_one(resource, id, form, address)


@click.command(short_help="Count tasks, actors or objects by name and state.")
@click.argument("resource", type=_Resource(("tasks", "actors", "objects")))
@_format
@_address
def summary(resource: str, form: str, address: str) -> None:
    """Count tasks by function, actors by class, objects by the line that made them.

    \b
    Examples:
      skate summary tasks
      skate summary objects --format json
    """
    from skate.cli.observe_rows import show_summary

    show_summary(resource, form, address)


@click.command(short_help="What keeps memory: references by the line that made them.")
@click.option("--group-by", type=click.Choice(("line", "pid", "type", "node")), default="line", help="Default: line.")
@click.option("--sort-by", type=click.Choice(("size", "pid", "type")), default="size", help="Default: size.")
@click.option("--units", type=click.Choice(("B", "KB", "MB", "GB")), default="B", help="Default: B.")
@click.option("--limit", default=10, type=click.IntRange(0), help="The most references of a group (default: 10).")
@click.option("--stats-only", is_flag=True, help="Only the sums of each group.")
@_address
def memory(group_by: str, sort_by: str, units: str, limit: int, stats_only: bool, address: str) -> None:
    """Show who refers to which objects, how large they are, and where the program made them.

    Lines are known when RAY_record_ref_creation_sites=1 was set as the session began; it costs some time with each
    call.

    \b
    Examples:
      skate memory
      skate memory --group-by pid --sort-by type --units MB
      skate memory --stats-only
    """
    from skate.cli.observe_memory import show_memory

    show_memory(group_by, sort_by, units, limit, stats_only, address)


@click.command(short_help="What workers have written.")
@click.argument("name", required=False)
@click.option("--actor-id", metavar="ID", help="Of the worker of this actor.")
@click.option("--task-id", metavar="ID", help="Of the worker that ran this task.")
@click.option("--pid", type=int, help="Of the worker with this pid.")
@click.option("--err", is_flag=True, help="Its standard error; else its standard output.")
@click.option("--tail", default=1000, type=int, help="Lines from the end, -1: all (default: 1000).")
@click.option("--follow", is_flag=True, help="Go on with what is written from now on.")
@_address
def logs(
    name: str | None,
    actor_id: str | None,
    task_id: str | None,
    pid: int | None,
    err: bool,
    tail: int,
    follow: bool,
    address: str,
) -> None:
    """Show a file of what a worker has written, or list the files there are.

    NAME is a file or a pattern; one that fits several lists them.

    \b
    Examples:
      skate logs
      skate logs '*.err'
      skate logs --pid 4711 --tail 20 --follow
    """
    from skate.cli.observe_logs import show_logs

    ids = {"actor_id": actor_id, "task_id": task_id, "pid": pid}
    show_logs(name, ids, "err" if err else "out", tail, follow, address)


@click.command(short_help="Where each worker is in its code.")
@click.option("--pid", "pids", type=int, multiple=True, help="Only this process; may be given several times.")
@click.option("--no-py-spy", is_flag=True, help="Have the workers tell, though py-spy is installed.")
@_address
def stack(pids: tuple[int, ...], no_py_spy: bool, address: str) -> None:
    """Show the Python stack of each worker, also of one that hangs.

    \b
    Examples:
      skate stack
      skate stack --pid 4711
    """
    from skate.cli.observe_stack import show_stacks

    show_stacks(pids, not no_py_spy, address)


@click.command(short_help="What runs, live in the terminal.")
@click.option("--once", is_flag=True, help="Show it once and end.")
@click.option("--interval", default=1.0, type=click.FloatRange(0.1), help="Seconds between two looks (default: 1).")
@_address
def top(once: bool, interval: float, address: str) -> None:
    """Show resources, tasks and workers, again every second until Ctrl-C.

    \b
    Examples:
      skate top
      skate top --once
    """
    from skate.cli.observe_top import show_top

    show_top(once, interval, address)


@click.command(short_help="What ran when, for a browser.")
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.option("--html", type=click.Path(dir_okay=False), help="Write a page that needs no network.")
@_address
def timeline(file: str | None, html: str | None, address: str) -> None:
    """Write what the session ran, and when, to FILE (default: timeline.json), for chrome://tracing and Perfetto.

    \b
    Examples:
      skate timeline
      skate timeline --html out.html
    """
    from skate.cli.observe_rows import write_timeline

    write_timeline([name for name in (file, html) if name] or ["timeline.json"], html, address)


COMMANDS: tuple[click.Command, ...] = (list_rows, get_row, summary, memory, logs, stack, top, timeline)
