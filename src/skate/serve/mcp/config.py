"""A gateway as a file of TOML describes it."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from skate.serve.mcp.access import LOCAL, Access, Token
from skate.serve.mcp.bearer import ALGORITHMS, Introspection, Jwt
from skate.serve.mcp.credentials import ClientCredentials
from skate.serve.mcp.forwarding import Forwarding, bridge, gateway, remote

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; fields that it does not know are errors."""


class TokenTable(_Part):
    """``[[access.tokens]]``: see `Token`. The secret itself stays out of the file."""

    env: str
    name: str = "client"
    tools: list[str] = msgspec.field(default_factory=lambda: ["*"])
    resources: list[str] = msgspec.field(default_factory=lambda: ["*"])
    prompts: list[str] | None = None


class JwtTable(_Part):
    """``[[access.jwt]]``: see `Jwt`."""

    issuer: str
    audience: list[str] | str
    keys: str | None = None
    algorithms: list[str] = msgspec.field(default_factory=lambda: list(ALGORITHMS))
    scopes: list[str] = msgspec.field(default_factory=list)
    tools: list[str] = msgspec.field(default_factory=lambda: ["*"])
    resources: list[str] = msgspec.field(default_factory=lambda: ["*"])
    prompts: list[str] | None = None
    leeway: float = 30.0


class IntrospectionTable(_Part):
    """``[[access.introspection]]``: see `Introspection`. The secret itself stays out of the file."""

    url: str
    issuer: str
    client_id: str
    env: str
    audience: str | None = None
    scopes: list[str] = msgspec.field(default_factory=list)
    tools: list[str] = msgspec.field(default_factory=lambda: ["*"])
    resources: list[str] = msgspec.field(default_factory=lambda: ["*"])
    prompts: list[str] | None = None
    fresh: float = 30.0


class AccessTable(_Part):
    """``[access]``: see `Access`."""

    hosts: list[str] = msgspec.field(default_factory=lambda: list(LOCAL))
    origins: list[str] = msgspec.field(default_factory=list)
    tokens: list[TokenTable] = msgspec.field(default_factory=list)
    jwt: list[JwtTable] = msgspec.field(default_factory=list)
    introspection: list[IntrospectionTable] = msgspec.field(default_factory=list)
    resource: str | None = None


class CredentialsTable(_Part):
    """``[servers.NAME.credentials]``: see `ClientCredentials`. The secret itself stays out of the file."""

    client_id: str
    env: str
    token_url: str | None = None
    issuer: str | None = None
    scopes: list[str] = msgspec.field(default_factory=list)
    resource: str | None = None
    in_body: bool = False


class LimitsTable(_Part):
    """``[limits]``: see `Limits`."""

    start: float | None = None
    call: float | None = None
    lists: float | None = None
    fresh: float | None = None
    health: float | None = None
    backoff: float | None = None


class ServerTable(_Part):
    """``[servers.NAME]``: one of `command` (see `bridge`), `url` (see `remote`) and `module` (see `app`)."""

    command: list[str] | None = None
    env: dict[str, str] = msgspec.field(default_factory=dict)
    cwd: str | None = None
    per_session: bool = False
    url: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    credentials: CredentialsTable | None = None
    one_session: bool = False
    module: str | None = None

    def __post_init__(self) -> None:
        kinds = {
            "command": ("env", "cwd", "per_session"),
            "url": ("headers", "credentials", "one_session"),
            "module": (),
        }
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"a server has one of {', '.join(kinds)}, this one has {' and '.join(given) or 'none'}")
        for kind, fields in kinds.items():
            for field in fields:
                if kind != given[0] and getattr(self, field):
                    raise ValueError(f"{field} goes with {kind}, not with {given[0]}")


class GatewayFile(_Part):
    """The whole file."""

    servers: dict[str, ServerTable]
    host: str = "127.0.0.1"
    port: int = 8000
    path: str = "/mcp"
    name: str = "skate-gateway"
    instructions: str | None = None
    check_output: bool = True
    stateless: bool = False
    max_sessions: int = 10_000
    session_idle: float = 1800.0
    max_body: int = 4 << 20
    access: AccessTable = msgspec.field(default_factory=AccessTable)
    limits: LimitsTable = msgspec.field(default_factory=LimitsTable)


class Configured(NamedTuple):
    """A gateway, and where it is to listen."""

    app: Forwarding
    host: str
    port: int


def read(path: str | Path) -> Configured:
    """The gateway that a file describes. ``${NAME}`` in headers and environments stands for that variable.

    Raises:
        ValueError: the file is no TOML, has an unknown or wrong field (which is named), or a variable is not set.
        OSError: it cannot be read.
    """
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        found = msgspec.convert(raw, GatewayFile)
        servers = {name: _server(name, table) for name, table in found.servers.items()}
        limits = {key: value for key, value in msgspec.structs.asdict(found.limits).items() if value is not None}
        app = gateway(
            servers,
            name=found.name,
            instructions=found.instructions,
            access=_access(found.access),
            limits=limits,
            path=found.path,
            stateless=found.stateless,
            max_sessions=found.max_sessions,
            session_idle=found.session_idle,
            max_body=found.max_body,
            check_output=found.check_output,
        )
    except (ValueError, TypeError, ImportError) as error:
        raise ValueError(f"{path}: {error}") from error
    return Configured(app, found.host, found.port)


def _access(table: AccessTable) -> Access:
    tokens = [Token(**msgspec.structs.asdict(each)) for each in table.tokens]
    verifiers = [
        *(Jwt(**msgspec.structs.asdict(each)) for each in table.jwt),
        *(Introspection(**msgspec.structs.asdict(each)) for each in table.introspection),
    ]
    return Access(tokens, table.hosts, table.origins, verifiers, table.resource)


def _server(name: str, table: ServerTable) -> Any:
    if table.command is not None:
        env = {key: _filled(f"servers.{name}.env.{key}", value) for key, value in table.env.items()}
        return bridge(table.command, env=env, cwd=table.cwd, per_session=table.per_session)
    if table.url is not None:
        headers = {key: _filled(f"servers.{name}.headers.{key}", value) for key, value in table.headers.items()}
        how = table.credentials
        credentials = None if how is None else ClientCredentials(**msgspec.structs.asdict(how))
        return remote(table.url, headers=headers, credentials=credentials, one_session=table.one_session)
    from skate.serve.mcp.sdk import app

    return app(table.module)


def _filled(where: str, text: str) -> str:
    """A text with the variables that it names."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise ValueError(f"{where}: the environment variable {found[1]} is not set")
        return os.environ[found[1]]

    return _VARIABLE.sub(value, text)
