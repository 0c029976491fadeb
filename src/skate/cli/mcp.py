"""The commands about MCP servers: `skate mcp ...`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from skate.cli.extras import need

if TYPE_CHECKING:
    from skate.serve.mcp.access import Access
    from skate.serve.mcp.peers import Peer


def an_address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The value of an argument that is the address of a server."""
    if not value.startswith(("http://", "https://")):
        raise click.BadParameter("an address is wanted, such as http://127.0.0.1:8000/mcp")
    return value


def serving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of all commands that serve."""
    options = (
        click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen."),
        click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free one."),
        click.option("--path", default="/mcp", show_default=True, help="Where it answers, beside /."),
        click.option("--stateless", is_flag=True, help="Open no sessions."),
        click.option("--token-env", metavar="NAME", help="Ask for the bearer token in this environment variable."),
        click.option("--allow-host", multiple=True, metavar="HOST", help="A name to answer to, beside this machine's."),
        click.option("--allow-origin", multiple=True, metavar="URL", help="An origin whose pages may ask."),
        click.option("--replicas", default=1, show_default=True, type=click.IntRange(1), help="Processes that answer."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def access_of(host: str, token_env: str | None, hosts: tuple[str, ...], origins: tuple[str, ...]) -> Access:
    """Who may ask: holders of the token, under this machine's names and those given."""
    from skate.serve.mcp.access import LOCAL, Access, Token

    tokens = [Token(env=token_env)] if token_env else []
    own = () if host in ("0.0.0.0", "::") else (host,)
    return Access(tokens, [*LOCAL, *own, *hosts], origins)


@contextlib.contextmanager
def told() -> Any:
    """Mistakes end the command with what they say, and so does what is not installed."""
    try:
        need("mcp", "httptools", "uvicorn")
        yield
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise click.ClickException(str(error)) from error


def serve_app(app: Any, host: str, port: int, replicas: int, path: str) -> None:
    """Serve until Ctrl-C: in this process, or with replicas by `skate.serve`."""
    if replicas > 1:
        import skate
        from skate import serve
        from skate.serve import mcp

        try:
            serve.start(http_options={"host": host, "port": port})
            serve.run(mcp.deployment(app, num_replicas=replicas), route_prefix="/", name="mcp")
            until_told_to_end(f"MCP at http://{host}:{port}{path}, {replicas} replicas. Ctrl-C ends it.")
        finally:
            serve.shutdown()
            skate.shutdown()
        return
    import uvicorn

    class Server(uvicorn.Server):
        """Says where it is once it listens."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                bound = self.servers[0].sockets[0].getsockname()[1]
                click.echo(f"MCP at http://{host}:{bound}{path}. Ctrl-C ends it.", err=True)

    config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=3)
    server = Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(1)


def until_told_to_end(told: str) -> None:
    """Say so, and return on Ctrl-C or SIGTERM: from when it is said, both are heard."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        click.echo(told, err=True)
        while True:
            time.sleep(3600)


@click.group(short_help="Serve, bridge, gather and call MCP servers.")
def mcp() -> None:
    """MCP servers over Streamable HTTP.

    \b
    Examples:
      skate mcp run calculator:server
      skate mcp bridge -- python -m mcp_server_time
      skate mcp gateway gateway.toml
      skate mcp call http://127.0.0.1:8000/mcp add a=1 b=2
    """


@mcp.command(short_help="Serve a server written with the official SDK.")
@serving_options
@click.argument("server", metavar="MODULE:NAME")
def run(
    server: str,
    host: str,
    port: int,
    path: str,
    stateless: bool,
    token_env: str | None,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    replicas: int,
) -> None:
    """Serve the MCP server that MODULE:NAME is, or that the function of this name makes.

    \b
    Examples:
      skate mcp run calculator:server
      skate mcp run calculator:server --port 9000 --token-env MCP_TOKEN
      skate mcp run calculator:server --replicas 4 --stateless
    """
    sys.path.insert(0, os.getcwd())
    with told():
        from skate.serve.mcp import app

        access = access_of(host, token_env, allow_host, allow_origin)
        made = app(server, access=access, path=path, stateless=stateless)
        serve_app(made, host, port, replicas, path)


@mcp.command(short_help="Put a stdio server behind HTTP.", context_settings={"allow_interspersed_args": False})
@serving_options
@click.option("--per-session", is_flag=True, help="A process for each session.")
@click.option("--cwd", help="The directory in which the command runs.")
@click.option("--call-timeout", type=float, help="Seconds that a call may take (default: 300).")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def bridge(
    command: tuple[str, ...],
    host: str,
    port: int,
    path: str,
    stateless: bool,
    token_env: str | None,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    replicas: int,
    per_session: bool,
    cwd: str | None,
    call_timeout: float | None,
) -> None:
    """Put COMMAND, which speaks MCP over its standard streams, behind Streamable HTTP.

    It is started again when it ends or hangs.

    \b
    Examples:
      skate mcp bridge -- python -m mcp_server_time
      skate mcp bridge --per-session --port 9000 -- npx -y @modelcontextprotocol/server-everything
    """
    with told():
        from skate.serve.mcp import bridge as make

        made = make(
            list(command),
            cwd=cwd,
            per_session=per_session,
            access=access_of(host, token_env, allow_host, allow_origin),
            limits={"call": call_timeout} if call_timeout is not None else None,
            path=path,
            stateless=stateless,
        )
        serve_app(made, host, port, replicas, path)


@mcp.command(short_help="Serve many servers under one address.")
@click.option("--host", help="Where to listen, in place of the file's.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port, in place of the file's.")
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1), help="Processes that answer.")
@click.option("--check", is_flag=True, help="Only read the file and say what is wrong with it.")
@click.argument("config", type=click.Path(exists=True, dir_okay=False))
def gateway(config: str, host: str | None, port: int | None, replicas: int, check: bool) -> None:
    """Serve the gateway that the file CONFIG (TOML) describes.

    \b
    Examples:
      skate mcp gateway gateway.toml
      skate mcp gateway gateway.toml --check
    """
    sys.path.insert(0, os.getcwd())
    with told():
        from skate.serve.mcp.config import read

        found = read(config)
        if check:
            click.echo(f"{config} is fine.")
            return
        where = found.host if host is None else host
        serve_app(found.app, where, found.port if port is None else port, replicas, found.app.options.path)


def authorization(token_env: str | None) -> tuple[tuple[bytes, bytes], ...]:
    """The header with the token in this environment variable."""
    if token_env is None:
        return ()
    if not (token := os.environ.get(token_env, "").strip()):
        raise click.ClickException(f"the environment variable {token_env} is not set")
    return ((b"authorization", f"Bearer {token}".encode()),)


def with_peer(url: str, token_env: str | None, timeout: float, use: Callable[[Peer], Coroutine[Any, Any, Any]]) -> Any:
    """What `use` makes of a session with the server; errors end the command."""
    with told():
        from skate.serve.mcp.connectors import web
    from skate.serve.mcp.messages import RpcError
    from skate.serve.mcp.peers import NOBODY
    from skate.serve.mcp.upstream import Limits

    headers = authorization(token_env)

    async def session() -> Any:
        connector = web(url, headers)
        try:
            limits = Limits(call=timeout)
            peer = await connector.connect(NOBODY, lambda _: None, lambda *_: None, limits)
            try:
                return await use(peer)
            finally:
                await peer.close()
        finally:
            await connector.close()

    try:
        return asyncio.run(session())
    except RpcError as error:
        raise click.ClickException(error.message) from None
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


token_option = click.option("--token-env", metavar="NAME", help="Send the bearer token in this environment variable.")
timeout_option = click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds to wait for an answer.",
)


async def everything(peer: Peer) -> dict[str, list[dict[str, Any]]]:
    """All that a server lists."""
    from skate.serve.mcp import messages
    from skate.serve.mcp.messages import METHOD_NOT_FOUND, RpcError
    from skate.serve.mcp.names import KINDS

    found: dict[str, list[dict[str, Any]]] = {}
    for kind in KINDS.values():
        found[kind.field] = []
        params: dict[str, Any] = {}
        while peer.server.can(kind.capability):
            try:
                page = messages.decode(await peer.request(kind.method, messages.encode(params)))
            except RpcError as error:
                if error.code != METHOD_NOT_FOUND:
                    raise
                break
            found[kind.field] += page.get(kind.field, [])
            if not page.get("nextCursor"):
                break
            params = {"cursor": page["nextCursor"]}
    return found


@mcp.command(name="list", short_help="Show what a server has.")
@token_option
@timeout_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.argument("url", callback=an_address)
def list_items(url: str, token_env: str | None, timeout: float, as_json: bool) -> None:
    """Show the tools, prompts and resources of the server at URL.

    \b
    Examples:
      skate mcp list http://127.0.0.1:8000/mcp
      skate mcp list http://127.0.0.1:8000/mcp --json
    """
    from skate.cli.table import table

    found = with_peer(url, token_env, timeout, everything)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [
        (field[:-1], item.get("uri") or item.get("uriTemplate") or item.get("name", ""), first_line(item))
        for field, items in found.items()
        for item in items
    ]
    click.echo(table(("kind", "name", "description"), rows) if rows else "The server has nothing.")


@mcp.command(short_help="Show how the servers of a gateway are.")
@token_option
@timeout_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.argument("url", callback=an_address)
def status(url: str, token_env: str | None, timeout: float, as_json: bool) -> None:
    """Show the health of the servers behind the gateway or bridge at URL: up, down, or not used yet, and why.

    The exit code is 1 when one is down.

    \b
    Examples:
      skate mcp status http://127.0.0.1:8000/mcp
      skate mcp status http://127.0.0.1:8000/mcp --json
    """
    from skate.cli.table import table
    from skate.serve.mcp.links import LinkError, whole
    from skate.serve.mcp.web import WebLink

    async def asked() -> tuple[int, bytes]:
        link = WebLink(url.rstrip("/") + "/status", authorization(token_env))
        try:
            async with asyncio.timeout(timeout):
                response = await link.open("GET", ())
                return response.status, await whole(response, 16 << 20)
        finally:
            await link.close()

    try:
        code, body = asyncio.run(asked())
        found = json.loads(body or b"{}")
    except TimeoutError:
        raise click.ClickException(f"{url}: no answer in {timeout:g} s") from None
    except (LinkError, ValueError) as error:
        raise click.ClickException(f"{url}: {error}") from None
    if code != 200:
        why = found.get("error", {}).get("message", "") if isinstance(found, dict) else ""
        raise click.ClickException(f"{url} tells no status (HTTP {code}){': ' if why else ''}{why}")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        rows = [(name, row["state"], str(row["restarts"]), row["failure"] or "") for name, row in found.items()]
        click.echo(table(("server", "state", "restarts", "failure"), rows))
    if any(row["state"] == "down" for row in found.values()):
        sys.exit(1)


def first_line(item: dict[str, Any]) -> str:
    """What a table shows of a description."""
    lines = str(item.get("description") or item.get("title") or "").strip().splitlines()
    return lines[0][:80] if lines else ""


@mcp.command(short_help="Call a tool.")
@token_option
@timeout_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as JSON.")
@click.argument("url", callback=an_address)
@click.argument("tool")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
def call(url: str, tool: str, arguments: tuple[str, ...], token_env: str | None, timeout: float, as_json: bool) -> None:
    """Call TOOL of the server at URL. A value is read as JSON where the tool does not want a text.

    The exit code is 1 when the tool reports an error.

    \b
    Examples:
      skate mcp call http://127.0.0.1:8000/mcp add a=1 b=2
      skate mcp call http://127.0.0.1:8000/mcp time__get_current_time timezone=UTC
    """
    from skate.serve.mcp import messages

    pairs = [argument.partition("=") for argument in arguments]
    if any(not key or not sign for key, sign, _ in pairs):
        raise click.UsageError("arguments are written as key=value")

    async def use(peer: Peer) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for each in (await everything(peer))["tools"]:
            if each["name"] == tool:
                schema = each.get("inputSchema", {}).get("properties", {})
        given = {key: value_of(text, schema.get(key, {})) for key, _, text in pairs}
        params = messages.encode({"name": tool, "arguments": given})
        result: dict[str, Any] = messages.decode(await peer.request("tools/call", params))
        return result

    found = with_peer(url, token_env, timeout, use)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for part in found.get("content", []):
            click.echo(part["text"] if part.get("type") == "text" else json.dumps(part))
    if found.get("isError"):
        sys.exit(1)


def value_of(text: str, schema: Any) -> Any:
    """What a word of the command line stands for."""
    if isinstance(schema, dict) and schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


COMMANDS = (mcp,)
