"""The commands about Serve: `skate serve ...`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from skate.cli.serve_target import Target

address_option = click.option(
    "--address", "-a", help="A hub's name, folder or socket (default: the newest hub), or http://... of a REST port."
)
name_option = click.option("--name", "-n", help="Only the application of that name.")
directory_option = click.option(
    "--app-dir", "-d", default=".", show_default=True, help="Directory that modules are imported from."
)


reflection_option = click.option(
    "--grpc-enable-reflection/--grpc-disable-reflection",
    default=True,
    show_default=True,
    help="Whether clients can ask which services of gRPC there are.",
)


@click.group(short_help="Run and look after applications of Serve.")
def serve() -> None:
    """Applications of Serve: in the foreground, or in a standing hub.

    \b
    Examples:
      skate serve run module:app
      skate serve build module:app -o serve.yaml
      skate serve deploy serve.yaml
      skate serve status
      skate serve COMMAND --help
    """


def arguments_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """Arguments of an application's builder, given as ``key=value``."""
    found = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not key or not sign or not value:
            raise click.ClickException(f"Invalid application argument '{pair}', must be of the form '<key>=<val>'.")
        found[key] = value
    return found


def configuration(
    target: str,
    arguments: tuple[str, ...],
    name: str | None,
    route_prefix: str | None,
    environment: dict[str, Any],
    folder: str | None,
) -> dict[str, Any]:
    """The configuration that a file, or an import path with arguments, stands for."""
    from skate.serve.config_file import read_file
    from skate.serve.fields import SchemaError

    given = arguments_of(arguments)
    try:
        if Path(target).is_file():
            if given:
                raise click.ClickException("Application arguments are for import paths; a file has them under args.")
            config = read_file(target).model_dump(exclude_unset=True)
        else:
            app: dict[str, Any] = {"import_path": target, "args": given}
            app |= {"name": name} if name else {}
            app |= {"route_prefix": route_prefix or None} if route_prefix is not None else {}
            app |= {"runtime_env": environment} if environment else {}
            config = {"applications": [app]}
    except (SchemaError, OSError, ImportError) as error:
        where = f"{target}: " if isinstance(error, SchemaError) else ""
        raise click.ClickException(f"{where}{error}") from None
    for app in config["applications"]:
        if folder is not None and not (app.get("runtime_env") or {}).get("working_dir"):
            app["runtime_env"] = {**(app.get("runtime_env") or {}), "working_dir": f"local://{os.path.abspath(folder)}"}
    return config


def environment_of(file: str | None, text: str | None, working_dir: str | None) -> dict[str, Any]:
    """A runtime_env from the three options that give one."""
    if file and text:
        raise click.UsageError("give --runtime-env or --runtime-env-json, not both")
    found: Any = {}
    try:
        if file:
            from skate.serve.config_file import read_mapping

            found = read_mapping(file)
        elif text:
            found = json.loads(text)
    except (ValueError, OSError, ImportError) as error:
        raise click.UsageError(f"the runtime_env cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise click.UsageError("a runtime_env is a mapping")
    return {**found, "working_dir": working_dir} if working_dir else found


def environment_options(command: Any) -> Any:
    """The options that give a runtime_env."""
    for option in (
        click.option("--working-dir", help="Directory that the replicas run in."),
        click.option("--runtime-env-json", help="A runtime_env as JSON."),
        click.option("--runtime-env", help="A file of YAML or JSON with a runtime_env."),
    ):
        command = option(command)
    return command


def target_of(address: str | None) -> Target:
    """What a command is about; errors end the command with their reason."""
    from skate.cli.serve_target import find

    try:
        return find(address or os.environ.get("RAY_DASHBOARD_ADDRESS"))
    except (ConnectionError, ValueError) as error:
        raise click.ClickException(str(error)) from None


@serve.command(short_help="Run applications in the foreground.")
@click.argument("target", metavar="FILE|MODULE:APP")
@click.argument("arguments", metavar="[KEY=VALUE]...", nargs=-1)
@environment_options
@directory_option
@click.option("--address", "-a", help="Run them in this standing hub (default: in this command).")
@click.option("--blocking/--non-blocking", default=True, help="Stay until Ctrl-C, or leave them running in the hub.")
@click.option("--reload", "-r", is_flag=True, help="Deploy anew when files in the directory change.")
@click.option("--route-prefix", default="/", show_default=True, help="Paths of MODULE:APP; '' for no HTTP.")
@click.option("--name", default="default", show_default=True, help="Name of MODULE:APP.")
@click.option("--http-host", help="Address to listen on (default: 127.0.0.1, or what FILE has).")
@click.option("--http-port", type=click.IntRange(0, 65535), help="Port to listen on (default: 8000; 0: a free one).")
@click.option("--rest-port", type=click.IntRange(0, 65535), help="Serve the REST interface at this port of loopback.")
def run(
    target: str,
    arguments: tuple[str, ...],
    runtime_env: str | None,
    runtime_env_json: str | None,
    working_dir: str | None,
    app_dir: str,
    address: str | None,
    blocking: bool,
    reload: bool,
    route_prefix: str,
    name: str,
    http_host: str | None,
    http_port: int | None,
    rest_port: int | None,
) -> None:
    """Deploy FILE, or the application or builder MODULE:APP, and stay until Ctrl-C.

    KEY=VALUE are arguments of a builder. The exit code is 1 when an application could not be
    deployed.

    \b
    Examples:
      skate serve run module:app
      skate serve run module:build model=small --http-port 8001
      skate serve run serve.yaml --reload
    """
    from skate.cli.serve_run import Run

    if not blocking and (address is None or reload):
        raise click.UsageError("--non-blocking is for applications in a standing hub (--address), without --reload")
    environment = environment_of(runtime_env, runtime_env_json, working_dir)
    folder = None if address is None else app_dir
    config = configuration(target, arguments, name, route_prefix, environment, folder)
    http = {key: value for key, value in (("host", http_host), ("port", http_port)) if value is not None}
    config["http_options"] = {**config.get("http_options", {}), **http}
    again = None
    if reload:
        again = lambda: configuration(target, arguments, name, route_prefix, environment, folder)  # noqa: E731
    sys.exit(Run(config, app_dir, address, rest_port).go(blocking=blocking, again=again))


@serve.command(short_help="Deploy applications to a standing hub.")
@click.argument("target", metavar="FILE|MODULE:APP")
@click.argument("arguments", metavar="[KEY=VALUE]...", nargs=-1)
@environment_options
@directory_option
@click.option("--name", help="Name of MODULE:APP.")
@click.option("--wait", is_flag=True, help="Wait until they run; the exit code is 1 when one does not.")
@address_option
def deploy(
    target: str,
    arguments: tuple[str, ...],
    runtime_env: str | None,
    runtime_env_json: str | None,
    working_dir: str | None,
    app_dir: str,
    name: str | None,
    wait: bool,
    address: str | None,
) -> None:
    """Deploy FILE, or the application or builder MODULE:APP, and return.

    Applications that an earlier deploy brought and this one has not are deleted. What has not
    changed goes on running: a new user_config is given to the replicas that there are, another
    number of replicas adds or ends some, and new code or arguments replace them one after the
    other.

    \b
    Examples:
      skate serve deploy serve.yaml
      skate serve deploy module:build model=small --name small --wait
    """
    environment = environment_of(runtime_env, runtime_env_json, working_dir)
    at = target_of(address)
    config = configuration(target, arguments, name, None, environment, app_dir if at.here else None)
    with at.errors():
        at.put(config)
        names = [app.get("name", "default") for app in config["applications"]]
        if not wait:
            click.echo("The applications are being deployed; see `skate serve status`.")
            return
        failed = at.settled(names)
    for app, message in failed.items():
        click.echo(f"Application {app} could not be deployed:\n{message}", err=True)
    if failed:
        sys.exit(1)
    click.echo(f"{'Application' if len(names) == 1 else 'Applications'} {', '.join(names)} run.")


@serve.command(short_help="Show what has been deployed from configurations.")
@name_option
@address_option
def config(name: str | None, address: str | None) -> None:
    """Print the configuration of each application that has one, as YAML."""
    from skate.serve.config_file import to_yaml

    at = target_of(address)
    with at.errors():
        apps = at.details()["applications"]
    if name is not None:
        found = apps.get(name, {}).get("deployed_app_config")
        text = to_yaml(found) if found else f'No config has been deployed for application "{name}".\n'
    else:
        configs = [to_yaml(app["deployed_app_config"]) for app in apps.values() if app["deployed_app_config"]]
        text = "\n---\n\n".join(configs) if configs else "No configuration was found.\n"
    click.echo(text, nl=False)


@serve.command(short_help="Show applications, deployments, replicas and queues.")
@name_option
@click.option("--yaml", "as_yaml", is_flag=True, help="Print it as YAML, as Ray's command does.")
@click.option("--json", "as_json", is_flag=True, help="Print all details as JSON.")
@address_option
def status(name: str | None, as_yaml: bool, as_json: bool, address: str | None) -> None:
    """Show how applications are, with the replicas of their deployments and the requests in them.

    "ongoing" are requests that run in replicas, "queued" those that wait for one. The exit code is
    1 when there is no application of the name that --name gives.
    """
    from skate.cli import serve_status

    at = target_of(address)
    with at.errors():
        found = at.details()
    if name is not None and name not in found["applications"]:
        raise click.ClickException(f'Application "{name}" does not exist.')
    if as_json:
        click.echo(json.dumps(found["applications"][name] if name else found, indent=2))
    elif as_yaml:
        click.echo(serve_status.yaml_of(found, name), nl=False)
    else:
        click.echo(serve_status.table_of(found, name))


@serve.command(short_help="End Serve and all applications of a hub.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@address_option
def shutdown(yes: bool, address: str | None) -> None:
    """Delete all applications, and end what serves them."""
    at = target_of(address)
    with at.errors():
        if not at.details()["controller_info"]:
            click.echo("Serve does not run there.")
            return
        if not yes:
            click.confirm("This ends Serve and deletes all its applications. Go on?", abort=True)
        at.shutdown()
    click.echo("Serve has been shut down.")


@serve.command(short_help="Start Serve in a standing hub, without applications.")
@click.option("--http-host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--http-port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port.")
@click.option(
    "--proxy-location",
    type=click.Choice(["Disabled", "HeadOnly", "EveryNode"]),
    default="EveryNode",
    show_default=True,
    help="Disabled: no HTTP.",
)
@click.option("--grpc-port", default=9000, show_default=True, type=click.IntRange(0, 65535), help="Port for gRPC.")
@click.option("--grpc-servicer-functions", multiple=True, help="Import path of an add_..._to_server function.")
@reflection_option
@click.option("--rest-port", type=click.IntRange(0, 65535), help="Serve the REST interface at this port of loopback.")
@address_option
def start(
    http_host: str,
    http_port: int,
    proxy_location: str,
    grpc_port: int,
    grpc_servicer_functions: tuple[str, ...],
    grpc_enable_reflection: bool,
    rest_port: int | None,
    address: str | None,
) -> None:
    """Start Serve, so that it listens before there are applications."""
    at = target_of(address)
    config: dict[str, Any] = {
        "applications": [],
        "proxy_location": proxy_location,
        "http_options": {"host": http_host, "port": http_port},
        "grpc_options": {
            "port": grpc_port,
            "grpc_servicer_functions": list(grpc_servicer_functions),
            "enable_reflection": grpc_enable_reflection,
        },
    }
    with at.errors():
        at.start(config)
        click.echo("Serve runs.")
        if rest_port is not None:
            click.echo(f"The REST interface is at {at.rest(rest_port)}.")


@serve.command(short_help="Write a configuration for applications.")
@click.argument("import_paths", metavar="MODULE:APP...", nargs=-1, required=True)
@directory_option
@click.option("--output-path", "-o", type=click.Path(dir_okay=False), help="File to write (default: print it).")
@click.option("--grpc-servicer-functions", multiple=True, help="Import path of an add_..._to_server function.")
@reflection_option
def build(
    import_paths: tuple[str, ...],
    app_dir: str,
    output_path: str | None,
    grpc_servicer_functions: tuple[str, ...],
    grpc_enable_reflection: bool,
) -> None:
    """Write a configuration with all options of the applications MODULE:APP, for `skate serve deploy`.

    \b
    Examples:
      skate serve build module:app
      skate serve build one:app two:app -o serve.yaml
    """
    from skate.cli.serve_build import text_of
    from skate.serve.importing import BuildError

    sys.path.insert(0, os.path.abspath(app_dir))
    try:
        text = text_of(import_paths, grpc_servicer_functions, grpc_enable_reflection)
    except (BuildError, ValueError, ImportError) as error:
        raise click.ClickException(str(error)) from None
    if output_path is None:
        click.echo(text, nl=False)
        return
    Path(output_path).write_text(text, encoding="utf-8")
    click.echo(f"{output_path} is written.")


COMMANDS = (serve,)
