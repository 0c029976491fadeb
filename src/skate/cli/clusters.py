"""Clusters of Ray: what `skate start`, `stop` and `status` do with the engine `ray`, and `skate up` and its like.

Options that Skate knows are checked here; what else was written goes on to Ray's own launcher, as it stands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import click

ENGINE = click.option("--engine", metavar="NAME", help="ray: a cluster of Ray; local: a standing hub.")
SCOPE = "Ray's launcher ends all processes of Ray that this user runs on this machine, whoever started them."
Program = Callable[[], None]


class EitherCommand(click.Command):
    """A command about standing hubs or, with the engine `ray`, about a cluster: options it does not know are Ray's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; whose words these are is decided before."""
        ctx.obj = with_ray(_named(args))
        ctx.ignore_unknown_options = ctx.allow_extra_args = ctx.obj
        return super().parse_args(ctx, args)


def _named(args: list[str]) -> str | None:
    """What ``--engine`` says, before anything else is looked at."""
    for place, word in enumerate(args):
        if word == "--":
            break
        if word.startswith("--engine"):
            _, equals, value = word.partition("=")
            return value if equals else args[place + 1] if place + 1 < len(args) else None
    return None


def with_ray(engine: str | None) -> bool:
    """Whether clusters are Ray's; UsageError for an engine that has none, ClickException for a wrong configuration."""
    from skate import launcher

    if engine not in (None, "local", "ray"):
        raise click.UsageError(f"--engine {engine}: `local` has standing hubs, `ray` has clusters.")
    try:
        return launcher.chosen(engine)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def hand_over(*words: str) -> Program:
    """A program that becomes ``ray WORDS...``; ClickException where Ray is not installed."""
    from skate import launcher

    try:
        return launcher.program(*words)
    except launcher.LauncherMissing as missing:
        raise click.ClickException(str(missing)) from missing


def refuse(context: click.Context, **instead: str) -> None:
    """UsageError when an option was given that says nothing to a cluster of Ray; `instead` tells what does."""
    for name, advice in instead.items():
        if context.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT):
            option = next(found.opts[0] for found in context.command.params if found.name == name)
            raise click.UsageError(f"{option} is for standing hubs, not for clusters of Ray: {advice}.")


def start(context: click.Context, head: bool, address: str, port: int | None, block: bool, **capacity: Any) -> Program:
    """Start the head of a cluster here, or let this machine join one."""
    refuse(context, name="`--node-name` names a node")
    if head == bool(address):
        raise click.UsageError("engine ray: --head begins a cluster, --address HOST:PORT joins one. Say which.")
    if address and port is not None:
        raise click.UsageError("--port is where a head listens; --address says it all for one that joins.")
    words = ["start", *(["--head"] if head else ["--address", reachable(address)])]
    if capacity["resources"] is not None:
        capacity["resources"] = json.dumps(capacity["resources"])
    if capacity["labels"] is not None:
        capacity["labels"] = ",".join(f"{name}={value}" for name, value in capacity["labels"].items())
    for name, value in {"port": port, **capacity}.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return hand_over(*words, *(["--block"] if block else []), *context.args)


def stop(context: click.Context, force: bool) -> Program:
    """End Ray on this machine."""
    refuse(
        context,
        name="Ray's launcher ends all there is",
        every="Ray's launcher ends all there is anyway",
        timeout="`--grace-period SECONDS` is Ray's own",
    )
    program = hand_over("stop", *(["--force"] if force else []), *context.args)
    click.echo(SCOPE, err=True)
    return program


def status(context: click.Context, address: str) -> Program:
    """Show a cluster."""
    from skate import launcher

    refuse(context, as_json="use `skate list nodes --format json` in a program's session")
    address = address or launcher.address()
    return hand_over("status", *(["--address", reachable(address)] if address else []), *context.args)


def reachable(address: str) -> str:
    """The address, when somebody listens there; a short error at once when not."""
    from skate import launcher

    if address != "auto" and not address.rpartition(":")[2].isdigit():
        raise click.UsageError(f"--address {address}: HOST:PORT of the head is wanted, or auto.")
    try:
        launcher.knock(address)
    except ConnectionError as error:
        raise click.ClickException(str(error)) from error
    return address


class FileCommand(click.Command):
    """A command about the cluster that a file describes; what follows the file's name goes on to Ray as it stands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, for what is before the file and the file."""
        ctx.allow_interspersed_args = False
        ctx.allow_extra_args = True
        return super().parse_args(ctx, args)


def _file_command(name: str, brief: str, text: str, asks: bool = False) -> click.Command:
    """`skate NAME CLUSTER_FILE [WORDS OF RAY]...`."""

    @click.command(name, cls=FileCommand, short_help=brief, help=text)
    @click.option("--check", "only_check", is_flag=True, help="Check the file, and do nothing else.")
    @click.argument("cluster_file", type=click.Path(exists=True, dir_okay=False))
    @click.pass_context
    def command(context: click.Context, cluster_file: str, only_check: bool, yes: bool = False) -> Program | None:
        examine(cluster_file)
        if only_check:
            click.echo(f"{cluster_file} is a description of a cluster as Ray takes it.")
            return None
        return hand_over(name, os.fspath(cluster_file), *(["--yes"] if yes else []), *context.args)

    if asks:
        command.params.append(click.Option(["-y", "--yes"], is_flag=True, help="Ask for no confirmation."))
    return command


def examine(path: str) -> None:
    """ClickException with every problem of a cluster file, one a line."""
    from skate import cluster_file

    try:
        cluster_file.read(path)
    except (cluster_file.ClusterFileError, OSError, UnicodeDecodeError, ImportError) as error:
        raise click.ClickException(str(error)) from error


_MORE = """
Words after CLUSTER_FILE go on to `ray {name}` as they stand. The file is checked first: unknown and missing fields,
wrong types, kinds of nodes, files that are not there, each with its line. It needs Ray: pip install 'skate-ray[ray]'.

\b
Examples:
{examples}
"""


def _text(name: str, what: str, *examples: str) -> str:
    return what + "\n" + _MORE.format(name=name, examples="\n".join(f"  skate {name} {line}" for line in examples))


COMMANDS = (
    _file_command(
        "up",
        "Start or change a cluster of Ray that a file describes.",
        _text(
            "up",
            "Start the machines that CLUSTER_FILE describes (AWS, GCP, Azure, your own) and Ray on them.",
            "cluster.yaml",
            "--check cluster.yaml",
            "-y cluster.yaml --max-workers 4",
        ),
        asks=True,
    ),
    _file_command(
        "down",
        "End a cluster of Ray that a file describes.",
        _text("down", "End Ray on the machines that CLUSTER_FILE describes, and the machines.", "-y cluster.yaml"),
        asks=True,
    ),
    _file_command(
        "exec",
        "Run a command on a cluster's head.",
        _text("exec", "Run a shell command on the head of a cluster.", "cluster.yaml 'nvidia-smi'"),
    ),
    _file_command(
        "attach",
        "Open a shell on a cluster's head.",
        _text("attach", "Open a shell on the head of a cluster.", "cluster.yaml", "cluster.yaml --tmux"),
    ),
    _file_command(
        "submit",
        "Copy a script to a cluster's head and run it.",
        _text(
            "submit", "Copy a script to the head of a cluster and run it there.", "cluster.yaml script.py --epochs 3"
        ),
    ),
)
