"""The commands about standing hubs: `skate start`, `skate stop`, `skate status`. With the engine `ray` they are about
clusters of Ray (`skate.cli.clusters`)."""

from __future__ import annotations

import json
import select
import signal
import sys
import time
from os import close, pidfd_open
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from skate.cli import clusters

if TYPE_CHECKING:
    from skate.cli.clusters import Program
    from skate.standing import Hub

NONE = "No standing hub of this user runs. Start one with `skate start`."


def json_object(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    """The value of an option that takes a JSON object."""
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.BadParameter(f"a JSON object is wanted, such as '{{\"name\": 1}}', not {text}")
    return found


def labels_of(context: click.Context, parameter: click.Parameter, text: str | None) -> dict[str, str] | None:
    """Labels: a JSON object, or ``name=value,name=value``."""
    if text is None or text.lstrip().startswith("{"):
        found: dict[str, str] | None = json_object(context, parameter, text)
        return found
    pairs = [pair.partition("=") for pair in text.split(",")]
    if any(not name or not sign for name, sign, _ in pairs):
        raise click.BadParameter(f"name=value,name=value or a JSON object is wanted, not {text!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}


@click.command(cls=clusters.EitherCommand, short_help="Start a standing hub, or a node of a cluster of Ray.")
@clusters.ENGINE
@click.option("--head", is_flag=True, help="Begin a cluster (engine ray). A hub is one anyway.")
@click.option("--address", default="", metavar="HOST:PORT", help="Join the cluster there (engine ray).")
@click.option("--port", type=click.IntRange(1, 65535), help="Where the head of a cluster listens (engine ray).")
@click.option("--name", default="", help="What it is called, where there are several.")
@click.option("--num-cpus", type=click.IntRange(min=0), help="CPUs to share out (default: all).")
@click.option("--num-gpus", type=click.IntRange(min=0), help="GPUs to share out (default: none).")
@click.option("--resources", callback=json_object, help="Further resources, as JSON: '{\"disk\": 2}'.")
@click.option("--labels", callback=labels_of, help="Labels of the node: name=value,name=value or JSON.")
@click.option("--object-store-memory", type=int, help="Bytes of shared memory (default: 30 % of memory).")
@click.option("--block", is_flag=True, help="Stay until the hub, or the node, ends; Ctrl-C ends it.")
@click.pass_context
def start(
    context: click.Context, /, engine: str | None, head: bool, address: str, port: int | None, name: str, block: bool,
    **capacity: Any,
) -> Program | None:  # fmt: skip
    """Start a hub in a process of its own. Programs attach with init(address="auto").

    Returns as soon as programs can attach. The hub runs until `skate stop`; detached actors live as
    long as it does.

    With the engine ray (--engine, SKATE_ENGINE or the configuration) it starts a node of a cluster:
    --head the first, --address one more. Further options go on to `ray start`.

    \b
    Examples:
      skate start
      skate start --head --num-cpus 4 --resources '{"disk": 2}'
      skate start --name second
      skate start --engine ray --head --port 6379
      skate start --engine ray --address 10.0.0.1:6379 --block
    """
    if context.obj:
        return clusters.start(context, head, address, port, block, **capacity)
    if address or port is not None:
        raise click.UsageError("--address and --port are for clusters: a hub is one machine. See --engine ray.")
    from skate import standing

    try:
        hub = standing.start(name, ends_with_us=block, **capacity)
    except standing.AlreadyRunning as running:
        raise click.ClickException(f"{running} End it with `skate stop{_named(name)}`.") from None
    except (RuntimeError, ValueError, TypeError) as error:
        raise click.ClickException(str(error)) from error
    try:
        if block:
            signal.signal(signal.SIGTERM, _leave)  # before anybody hears that there is something to end
        _tell(hub, block)
        if block:
            _wait(hub)
    except KeyboardInterrupt:
        if not block:
            raise
        click.echo("Ending the hub.", err=True)
        standing.stop(hub)
    return None


def _tell(hub: Hub, block: bool) -> None:
    name, address = hub.name, hub.name or "auto"
    click.echo(f"A hub runs: process {hub.pid}, in {hub.folder}.")
    click.echo(f'  attach a program:  skate.init(address="{address}"), or SKATE_ADDRESS={address} in its environment')
    click.echo(f"  look at it:        skate status{f' --address {name}' if name else ''}")
    click.echo(f"  end it:            {'Ctrl-C' if block else f'skate stop{_named(name)}'}")


def _named(name: str) -> str:
    return f" --name {name}" if name else ""


def _leave(number: int, frame: FrameType | None) -> None:
    """SIGTERM is as Ctrl-C."""
    raise KeyboardInterrupt


def _wait(hub: Hub) -> None:
    """Until the hub ends."""
    process = pidfd_open(hub.pid)
    try:
        select.select([process], [], [])
    finally:
        close(process)
    click.echo("The hub has ended.", err=True)


@click.command(cls=clusters.EitherCommand, short_help="End a standing hub, or Ray on this machine.")
@clusters.ENGINE
@click.option("--name", default="", help="The hub of that name (default: the one without a name).")
@click.option("--all", "every", is_flag=True, help="All standing hubs of this user.")
@click.option("--force", is_flag=True, help="Kill everything at once; jobs get no time to end.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds after which to give up.")
@click.pass_context
def stop(
    context: click.Context, engine: str | None, name: str, every: bool, force: bool, timeout: float
) -> Program | None:
    """End a hub, and return when all of its processes are gone.

    Tasks and actors end; submitted jobs get SIGTERM, and SIGKILL after 3 seconds. Programs that are
    attached are told with their next call. The exit code is 0 also when there is no hub.

    With the engine ray it is `ray stop`, which ends all processes of Ray that you run on this machine,
    whoever started them; further options go on to it.

    \b
    Examples:
      skate stop
      skate stop --force
      skate stop --name second
      skate stop --engine ray --grace-period 30
    """
    if context.obj:
        return clusters.stop(context, force)
    from skate import standing

    running = standing.running()
    hubs = running if every else [hub for hub in running if hub.name == name]
    if not hubs:
        others = ", ".join(hub.name for hub in running if hub.name)
        click.echo(f"There is no hub to end{f'; there are: {others} (--name, --all)' if others and not name else ''}.")
    for hub in hubs:
        try:
            standing.stop(hub, force=force, timeout=timeout)
        except TimeoutError as error:
            raise click.ClickException(f"{error} Try `skate stop --force`.") from None
        click.echo(f"The hub{f' {hub.name}' if hub.name else ''} has ended (process {hub.pid}).")
    return None


@click.command(cls=clusters.EitherCommand, short_help="Show what a hub, or a cluster of Ray, is doing.")
@clusters.ENGINE
@click.option("--address", default="", help="A hub's name, folder or socket, or auto (the default); HOST:PORT (ray).")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_context
def status(context: click.Context, engine: str | None, address: str, as_json: bool) -> Program | None:
    """Show a hub: what it has, what of it is in use, and who is attached.

    Without --address it is the newest standing hub. The exit code is 1 when there is none. With the
    engine ray it is `ray status`.

    \b
    Examples:
      skate status
      skate status --address second --json
      skate status --engine ray --address 10.0.0.1:6379
    """
    if context.obj:
        return clusters.status(context, address)
    from skate import standing

    if not address and not standing.running():
        click.echo(NONE, err=True)
        sys.exit(1)
    try:
        found = standing.status(address or "auto")
    except ConnectionError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show(found)
    return None


def _show(found: dict[str, Any]) -> None:
    from skate.cli.table import table

    up = time.strftime("%H:%M:%S", time.gmtime(found["seconds"]))
    name = f" {found['name']}" if found["name"] else ""
    click.echo(f"Hub{name}: process {found['pid']}, up {up}, in {found['folder']}")
    living = sum(1 for actor in found["actors"] if actor["state"] != "DEAD")
    nodes = sum(1 for node in found["nodes"] if node["Alive"])
    click.echo(f"{nodes} node{'s' * (nodes != 1)}, {living} actor{'s' * (living != 1)}\n")
    total, free = found["total"], found["free"]
    rows = [
        (kind, _amount(kind, total[kind] - free.get(kind, 0)), _amount(kind, total[kind]))
        for kind in sorted(total)
        if not kind.startswith("node:")
    ]
    click.echo(table(("resource", "in use", "of"), rows))
    jobs = [job for job in found["jobs"] if job["status"] in ("PENDING", "RUNNING")]
    if not jobs:
        click.echo("\nNo driver is attached, no job runs.")
        return
    lines = [
        (
            job["submission_id"] or job["job_id"],
            job["status"],
            str((job["driver_info"] or {}).get("pid", "")),
            job["entrypoint"][:60],
        )
        for job in jobs
    ]
    click.echo("\n" + table(("job", "status", "pid", "command"), lines))


def _amount(kind: str, amount: float) -> str:
    return f"{amount / 1e9:.2f} GB" if kind in ("memory", "object_store_memory") else f"{amount:g}"


COMMANDS = (start, stop, status)
