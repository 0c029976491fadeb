"""The commands, their options and help texts; what they do is in the modules beside this one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from skate._version import __version__
from skate.cli import clusters, jobs, mcp, observe, plugins, serve, standing
from skate.cli.environments import env

if TYPE_CHECKING:
    from skate.cli.doctor import Finding

Program = Callable[[], None]
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def parse(words: Sequence[str]) -> Program | None:
    """Carry out a command line; returns the user's program where there is one to run."""
    try:
        result = skate.main(args=list(words), prog_name="skate", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    if isinstance(result, int):  # the exit code of --help and its like
        sys.exit(result)
    program: Program | None = result
    return program


@click.group(context_settings=SETTINGS, invoke_without_command=True)
@click.version_option(__version__, prog_name="skate", message="%(prog)s %(version)s")
@click.pass_context
def skate(context: click.Context) -> None:
    """Ray's programming model, on an engine that lives inside your Python program.

    \b
    Examples:
      skate doctor               check that this machine is fit
      skate run script.py        run a program
      skate bench --quick        measure the engine on this machine
      skate start                a hub that programs attach to with init(address="auto")
      skate COMMAND --help       options and examples of a command
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (
    env,
    *observe.COMMANDS,
    *standing.COMMANDS,
    *clusters.COMMANDS,
    *jobs.COMMANDS,
    *serve.COMMANDS,
    *mcp.COMMANDS,
    *plugins.COMMANDS,
):
    skate.add_command(command)


class ProgramCommand(click.Command):
    """A command whose arguments after the program's name are the program's own, `--help` too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, with ``-m MODULE`` as the last option that is ours."""
        ours = 0
        while ours < len(args) and args[ours].startswith("--") and args[ours] != "--":
            ours += 2 if args[ours] == "--engine" else 1
        ahead, args = args[:ours], args[ours:]
        if args and args[0].startswith("-m"):
            name_and_rest = [args[0][2:], *args[1:]] if len(args[0]) > 2 else args[1:]
            if name_and_rest:
                args = ["-m", name_and_rest[0], "--", *name_and_rest[1:]]
        return super().parse_args(ctx, [*ahead, *args])


@skate.command(
    cls=ProgramCommand,
    context_settings={"allow_interspersed_args": False},
    short_help="Run a Python program.",
)
@click.option("-m", "module", metavar="MODULE", help="Run a module by name instead of a file.")
@click.option("--real-ray", is_flag=True, help="Leave `import ray` to the Ray that is installed.")
@click.option("--engine", type=click.Choice(["local", "inline", "ray"]), help="As SKATE_ENGINE in its environment.")
@click.argument("script_and_arguments", metavar="SCRIPT [ARGUMENTS]...", nargs=-1, type=click.UNPROCESSED)
def run(module: str | None, real_ray: bool, engine: str | None, script_and_arguments: tuple[str, ...]) -> Program:
    """Run SCRIPT as `python SCRIPT` would, in this interpreter, on Skate where it imports ray.

    The program sees its own arguments, its own directory first on the import path, and itself as
    the module __main__. Its exit code and its traceback are those that Python gives. Everything
    after SCRIPT, or after -m MODULE, belongs to the program. `import ray` gives Skate, also in
    worker processes and in Python programs that SCRIPT starts, whether Ray is installed or not.

    \b
    Examples:
      skate run train.py
      skate run train.py --epochs 3
      skate run -m mypackage.train --epochs 3
      skate run --engine ray train.py
    """
    from skate.as_ray import as_ray
    from skate.cli.run import module_program, script_program

    if engine is not None:
        os.environ["SKATE_ENGINE"] = engine
    if not real_ray:
        as_ray()
    if module is not None:
        return module_program(module, script_and_arguments)
    if not script_and_arguments:
        raise click.UsageError("name the program to run, as in `skate run script.py` or `skate run -m module`")
    script, *arguments = script_and_arguments
    return script_program(script, arguments)


@skate.command(short_help="Check that this machine is fit, and say what to do if not.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> None:
    """Check this machine: Python, cores, memory, shared memory, processes, limits, disk.

    Ends by starting the engine and running one task. Each line says ok, warn or fail, and what to
    do where it is not ok. The exit code is 1 when something fails, else 0.

    \b
    Examples:
      skate doctor
      skate doctor --json
    """
    from skate.cli.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        show_findings(findings)
    if any(finding.status == "fail" for finding in findings):
        sys.exit(1)


@skate.command(short_help="Measure the engine on this machine.")
@click.option("--quick", is_flag=True, help="Shorter runs: a few seconds, rougher figures.")
@click.option("--num-cpus", type=click.IntRange(min=1), help="CPUs to offer (default: all).")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench(quick: bool, num_cpus: int | None, as_json: bool) -> None:
    """Measure start, tasks, actor calls and objects, each for itself, on this machine.

    Every figure is the best of several runs: what is left out is the machine's other work, not
    the engine's.

    \b
    Examples:
      skate bench
      skate bench --quick --json
      SKATE_ENGINE=inline skate bench --quick
    """
    from skate.cli.bench import measure
    from skate.cli.table import table

    figures = measure(quick=quick, num_cpus=num_cpus, say=None if as_json else progress)
    if as_json:
        click.echo(json.dumps([figure._asdict() for figure in figures], indent=2))
        return
    progress("")
    rows = [(figure.name, figure.readable()) for figure in figures]
    click.echo(table(("measured", "figure"), rows))


@skate.command(short_help="Attach to a breakpoint that waits in a task or an actor.")
@click.option("--id", "which", metavar="ID", help="The breakpoint with this id, as --list shows it.")
@click.option("--list", "only_list", is_flag=True, help="List the breakpoints that wait, and attach to none.")
@click.option("--json", "as_json", is_flag=True, help="List them as JSON.")
@click.option("--follow", is_flag=True, help="Wait for a breakpoint, and for the next after each, until Ctrl-C.")
@click.option("--folder", metavar="DIR", help="Where sessions' folders are (default: $TMPDIR, and /tmp).")
def debug(which: str | None, only_list: bool, as_json: bool, follow: bool, folder: str | None) -> None:
    """Debug a task or an actor that has come to a `breakpoint()`, with pdb, in this terminal.

    With one breakpoint waiting, attaches to it; with several, asks for one. `c` lets the program go on, `q` ends the
    call with an error, Ctrl-D leaves and the breakpoint waits on. While the program runs, Ctrl-C stops it.

    The exit code is 1 when there is nothing to attach to.

    \b
    Examples:
      skate debug
      skate debug --list
      skate debug --id 4711-1
      skate debug --follow
    """
    from skate.cli import debug as debugging

    if only_list or as_json:
        stops = debugging.find(folder)
        click.echo(json.dumps([stop._asdict() for stop in stops], indent=2) if as_json else debugging.listing(stops))
        return
    sys.exit(debugging.debug(which, follow, folder))


def progress(name: str) -> None:
    """Show on a terminal what is measured now, in the place of what was; "" takes it away."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{name}" + (" ..." if name else ""), nl=False, err=True)


def show_findings(findings: Sequence[Finding]) -> None:
    """Print the doctor's findings: a line for each, advice below it, the counts at the end."""
    from skate.cli.table import table

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    rows = [(finding.status, finding.name, finding.found) for finding in findings]
    for line, finding in zip(table(None, rows).splitlines(), findings, strict=True):
        status = click.style(finding.status, fg=colours[finding.status])
        click.echo(status + line[len(finding.status) :])
        if finding.advice:
            click.echo(f"      -> {finding.advice}")
    counts = [sum(finding.status == status for finding in findings) for status in colours]
    click.echo("\n{} ok, {} to look at, {} failed".format(*counts))
