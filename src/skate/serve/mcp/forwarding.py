"""`gateway` and `bridge`: ASGI applications that pass MCP on to other servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from skate._version import __version__
from skate.serve.mcp.asgi import Receive, Scope, Send
from skate.serve.mcp.connectors import StdioConnector, asgi, web
from skate.serve.mcp.credentials import ClientCredentials
from skate.serve.mcp.endpoint import Endpoint
from skate.serve.mcp.forwarder import Forwarder
from skate.serve.mcp.names import Names, check_server_name
from skate.serve.mcp.options import Keywords, Options
from skate.serve.mcp.stdio import Command
from skate.serve.mcp.upstream import Connector, Limits, Upstream

PROCESSES = 100
"""Sessions at a time of a bridge that has a process for each."""


class Server:
    """A server that a gateway can be given: made by `remote`, `bridge` and their like. A recipe, which can be sent."""

    def connector(self) -> Connector:
        """How sessions with it are begun, in the process that asks."""
        raise NotImplementedError


class Remote(Server):
    """A server at a URL; made by `remote`."""

    def __init__(
        self, url: str, headers: Mapping[str, str], credentials: ClientCredentials | None, *, one_session: bool
    ) -> None:
        self.url = url
        self._headers = tuple(
            (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers.items()
        )
        self._credentials = credentials
        self._one_session = one_session
        self.connector()  # says now what is wrong with them

    def connector(self) -> Connector:
        return web(self.url, self._headers, self._credentials, one_session=self._one_session)


class _InProcess(Server):
    """An ASGI application."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    def connector(self) -> Connector:
        return asgi(self._app)


class Forwarding:
    """An ASGI application that forwards. It can be sent to another process: what runs is made where it is used."""

    def __init__(self, options: Options, limits: Limits, *, check_output: bool) -> None:
        self.options = options
        self.limits = limits
        self.check_output = check_output
        self._endpoint: Endpoint | None = None
        self._forwarder: Forwarder | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_endpoint": None, "_forwarder": None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._endpoint is None:
            self._forwarder = self._make()
            self._endpoint = Endpoint(self._forwarder, self.options)
        await self._endpoint(scope, receive, send)
        if scope["type"] == "lifespan":  # it is over: a next one begins anew
            self._endpoint = self._forwarder = None

    def abandon(self) -> None:
        """End processes at once: for a replica whose event loop has ended without a farewell."""
        if self._forwarder is not None:
            for upstream in self._forwarder.upstreams.values():
                upstream.abandon()

    def status(self) -> dict[str, dict[str, object]]:
        """The health of each server: state (idle, up, down), last failure, restarts. Empty before it is used."""
        return {} if self._forwarder is None else self._forwarder.status()

    def _make(self) -> Forwarder:
        raise NotImplementedError


class Gateway(Forwarding):
    """Many servers behind one address; made by `gateway`."""

    def __init__(
        self,
        servers: Mapping[str, Server],
        options: Options,
        limits: Limits,
        *,
        name: str,
        instructions: str | None,
        check_output: bool,
    ) -> None:
        super().__init__(options, limits, check_output=check_output)
        self.servers = dict(servers)
        self.name = name
        self.instructions = instructions

    def _make(self) -> Forwarder:
        upstreams = [
            Upstream(name, server.connector(), Names(name), self.limits) for name, server in self.servers.items()
        ]
        return Forwarder(
            upstreams,
            info={"name": self.name, "version": __version__},
            instructions=self.instructions,
            limits=self.limits,
            check_output=self.check_output,
        )


class Bridge(Forwarding, Server):
    """A stdio server behind Streamable HTTP; made by `bridge`."""

    def __init__(
        self,
        command: Command,
        options: Options,
        limits: Limits,
        *,
        per_session: bool,
        check_output: bool,
    ) -> None:
        super().__init__(options, limits, check_output=check_output)
        self.command = command
        self.per_session = per_session

    def connector(self) -> Connector:
        return StdioConnector(self.command, per_session=self.per_session)

    def _make(self) -> Forwarder:
        name = self.command.argv[0].rpartition("/")[2] or self.command.argv[0]
        upstream = Upstream(name, self.connector(), Names(None), self.limits)
        return Forwarder([upstream], info=None, instructions=None, limits=self.limits, check_output=self.check_output)


def _limits(limits: Limits | Mapping[str, float] | None) -> Limits:
    found = limits if isinstance(limits, Limits) else Limits()
    if isinstance(limits, Mapping):
        if unknown := limits.keys() - set(Limits._fields):
            raise ValueError(f"unknown limits: {', '.join(sorted(unknown))}; there are {', '.join(Limits._fields)}")
        found = Limits(**limits)
    for name, value in found._asdict().items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"limits: {name} must be a number of seconds above 0, not {value!r}")
    return found


def bridge(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    per_session: bool = False,
    limits: Limits | Mapping[str, float] | None = None,
    check_output: bool = True,
    **options: Unpack[Keywords],
) -> Bridge:
    """Put a server that speaks over its standard streams behind Streamable HTTP.

    The process is watched: one that ends, or does not answer any more, is started again, after pauses that double from
    0.2 s on while it fails. Calls that it had fail with a JSON-RPC error.

    Args:
        command: the program and its arguments.
        env: variables beside those of this process.
        cwd: the directory in which it runs.
        per_session: a process for each client session, which ends with it. Then the server can ask the client (for
            sampling, elicitation, roots) and keep things for it. Default: one process for all clients.
        limits: how long things may take; see `Limits`.
        check_output: hold what tools answer against the output schemas that the server lists.
        options: those of `Options`: access, path, stateless and others. With `per_session`, `max_sessions` is 100 if it
            is not given.

    Returns:
        an ASGI application, which also is a server for `gateway`, and `deployment` runs under `skate.serve`.

    Raises:
        TypeError: `command` is no list of texts; an unknown option.
        ValueError: `per_session` without sessions; a wrong limit or option.
    """
    if per_session:
        options.setdefault("max_sessions", PROCESSES)
    found = Options.of(options)
    if per_session and found.stateless:
        raise ValueError("per_session needs sessions: leave stateless out")
    return Bridge(
        Command.of(command, dict(env or {}), cwd),
        found,
        _limits(limits),
        per_session=per_session,
        check_output=check_output,
    )


def remote(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    credentials: ClientCredentials | None = None,
    one_session: bool = False,
) -> Remote:
    """A server at a URL, for `gateway`.

    Args:
        url: its endpoint, `http://...` or `https://...`.
        headers: sent with each request: an Authorization, say. What clients of the gateway send is never passed on.
        credentials: how the gateway gets tokens for it; see `ClientCredentials`.
        one_session: all clients share one session with it. Default: each has its own.

    Raises:
        ValueError: the URL or a header is wrong; an Authorization header beside credentials.
    """
    if credentials is not None and any(name.lower() == "authorization" for name in headers or {}):
        raise ValueError("an authorization comes from the credentials or from the headers, not from both")
    return Remote(url, headers or {}, credentials, one_session=one_session)


def gateway(
    servers: Mapping[str, Any],
    *,
    name: str = "skate-gateway",
    instructions: str | None = None,
    limits: Limits | Mapping[str, float] | None = None,
    check_output: bool = True,
    **options: Unpack[Keywords],
) -> Gateway:
    """Put many servers behind one address.

    Tools and prompts of the server `files` are shown as `files__read`, resources as `files+file:///...`. A server that
    fails is left out until it is back; the others do not feel it.

    Args:
        servers: by name: what `bridge`, `remote`, `app` or `deployment` gave, a URL, or an ASGI application.
        name: what the gateway calls itself.
        instructions: for models. Default: those of the servers, each under its name.
        limits: how long things may take; see `Limits`.
        check_output: hold what tools answer against the output schemas that their server lists.
        options: those of `Options`: access, path, stateless (then all clients share the sessions with the servers) and
            others.

    Returns:
        an ASGI application, which `deployment` runs under `skate.serve`.

    Raises:
        TypeError: something among `servers` is no server; an unknown option.
        ValueError: there are none; a name cannot be told from what follows it; a wrong URL, limit or option.
    """
    if not servers:
        raise ValueError("a gateway needs servers: gateway({'name': ...})")
    for key in servers:
        check_server_name(key)
    return Gateway(
        {key: _server(key, value) for key, value in servers.items()},
        Options.of(options),
        _limits(limits),
        name=name,
        instructions=instructions,
        check_output=check_output,
    )


def _server(name: str, value: Any) -> Server:
    if isinstance(value, Server):
        return value
    if isinstance(value, str):
        return remote(value)
    if hasattr(value, "_bound_deployment"):
        from skate.serve.mcp.deployments import Child

        return Child(value)
    if callable(value):
        return _InProcess(value)
    raise TypeError(f"{name!r}: a server is a URL, or what bridge, remote, app or deployment gave, not {value!r}")
