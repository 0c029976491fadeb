"""``skate plugin`` and ``skate config``."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skate.cli.extras import need

if TYPE_CHECKING:
    from skate.configuration import Loaded

Program = Callable[[], None]
SETTING = re.compile(r"[a-z_][\w.\-]*=.*", re.DOTALL)


@click.group(short_help="Run services of plugins, list plugins, write one.")
def plugin() -> None:
    """Services made of plugins.

    \b
    Examples:
      skate plugin new greeter                     write a plugin and its test
      skate plugin run --load-plugins greeter      serve it
      skate plugin list                            what is configured here, and what does not work
    """


def _settings(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in values:
        if not SETTING.fullmatch(text):
            name = text.partition("=")[0]  # the value may be a secret
            raise click.BadParameter(f"{name!r} must be NAME=VALUE, as in server.port=9000")
        name, _, value = text.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


_SET = click.option(
    "--set",
    "flags",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_settings,
    help="Any setting, as in server.port=9000.",
)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        _SET,
        click.option("--strict/--no-strict", default=None, help="Fail if any plugin does not work."),
        click.option("--enable-proxy/--no-enable-proxy", default=None, help="Load the built-in plugin `proxy`."),
        click.option("--use-ray/--no-use-ray", default=None, help="Run on Ray."),
        click.option("--engine", help="inline: one process; local: a process for each plugin; ray."),
        click.option("--num-cpus", type=int, help="CPUs of the session."),
        click.option("--load-builtin-plugins", multiple=True, metavar="NAME", help="echo, proxy. May be repeated."),
        click.option("--load-plugins", multiple=True, metavar="MODULE", help="A module or package. May be repeated."),
        click.option("--port", type=int, help="The port; 0: one that is free."),
        click.option("--host", help="The address to listen at."),
    ):
        command = option(command)
    return command


def _given(host: Any, port: Any, load_plugins: Any, load_builtin_plugins: Any, **others: Any) -> dict[str, Any]:
    given = {
        "server.host": host,
        "server.port": port,
        "load_plugins": list(load_plugins) or None,
        "load_builtin_plugins": list(load_builtin_plugins) or None,
        "server.num_cpus": others.pop("num_cpus"),
        "server.use_ray": others.pop("use_ray"),
        "engine.name": others.pop("engine"),
        "server.enable_proxy": others.pop("enable_proxy"),
        "server.strict": others.pop("strict"),
    }
    flags: dict[str, Any] = others.pop("flags")
    return {name: value for name, value in given.items() if value is not None} | flags


@plugin.command()
@_options
@click.option("--reload", is_flag=True, help="Start anew when a file changes; for development, in one process.")
def run(reload: bool, **options: Any) -> Program:
    """Run the service that is configured here.

    Settings come from config.toml, [tool.skate] of pyproject.toml, .env, the environment (SKATE_SERVER__PORT=9000)
    and these options, the later over the earlier.

    \b
    Examples:
      skate plugin run --load-builtin-plugins echo
      skate plugin run --load-plugins my_service.plugins --engine local --port 9000
      skate plugin run --reload
    """
    flags = _given(**options)

    def program() -> None:
        folder = os.getcwd()
        if folder not in sys.path:  # plugins are beside config.toml
            sys.path.insert(0, folder)
        _told(_needs)
        if reload:
            from skate.plugin.reload import watch

            _told(lambda: watch(flags))
            return
        from skate.plugin import run as serve

        _told(lambda: serve(flags=flags))

    return program


def _needs() -> None:
    need("plugin", "pydantic", "fastapi", "uvicorn")


def _told(program: Callable[[], object]) -> None:
    """Run something; what the user can mend is told without a traceback."""
    from skate.configuration import ConfigError
    from skate.plugin.errors import PluginError

    try:
        program()
    except (ConfigError, PluginError, ImportError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


@plugin.command(name="list")
@_options
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_plugins(as_json: bool, **options: Any) -> Program:
    """List the plugins that are configured, what they offer, and those that do not work."""
    flags = _given(**options)

    def program() -> None:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        _told(_needs)
        _told(lambda: _list(_loaded(flags), as_json))

    return program


def _list(loaded: Loaded, as_json: bool) -> None:
    import logging

    from skate.plugin.errors import describe
    from skate.plugin.service import load_all

    logging.getLogger("skate.plugin").setLevel(logging.ERROR)
    registry = load_all(loaded.config)
    rows = [
        {
            "plugin": each.name,
            "version": each.metadata.version,
            "module": each.module,
            "apis": [api.path or api.name for api in each.apis],
            "requires": each.metadata.required_remote_apis,
        }
        for each in registry.plugins.values()
    ]
    failed = {name: describe(cause) for name, cause in registry.failed.items()}
    if as_json:
        click.echo(json.dumps({"plugins": rows, "failed": failed, "disabled": registry.disabled}, indent=2))
        return
    for row in rows:
        click.echo(f"{row['plugin']} {row['version']}  {', '.join(row['apis'])}")
    for name, cause in failed.items():
        click.echo(f"{name}  does not work: {cause}")
    for name in registry.disabled:
        click.echo(f"{name}  disabled")


@plugin.command()
@click.argument("name")
@click.option("--folder", default=".", type=click.Path(file_okay=False), help="Where to write it.")
def new(name: str, folder: str) -> None:
    """Write a plugin that works, with a test: NAME.py and test_NAME.py."""
    from skate.plugin.template import files, unfit

    if cause := unfit(name):
        raise click.BadParameter(f"{name!r} {cause}")
    place = Path(folder)
    texts = files(name)
    for file in texts:
        if (place / file).exists():
            raise click.ClickException(f"{place / file} exists already")
    place.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (place / file).write_text(text, encoding="utf-8")
        click.echo(f"wrote {place / file}")
    click.echo(f"run it:   skate plugin run --load-plugins {name}\ntest it:  python -m pytest test_{name}.py")


@click.group(short_help="Show what is configured.")
def config() -> None:
    """What is configured here.

    \b
    Examples:
      skate config show          what is set, and where it comes from
      skate config show --all    defaults too
    """


@config.command()
@_SET
@click.option("--all", "every", is_flag=True, help="Defaults too.")
def show(every: bool, flags: dict[str, Any]) -> None:
    """Print each setting, its value and where it comes from. Secrets are hidden."""
    from skate.cli.table import table
    from skate.configuration import ConfigError, shown

    try:
        loaded = _loaded(flags)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    rows = [
        [name, value if isinstance(value, str) else json.dumps(value), where]
        for name, value, where in shown(loaded)
        if every or where != "default"
    ]
    click.echo(table(["setting", "value", "from"], rows) if rows else "nothing is configured here")


def _loaded(flags: dict[str, Any]) -> Loaded:
    from skate.configuration import load_with_origins

    return load_with_origins(flags=flags)


COMMANDS = (plugin, config)
