"""Configuration from files and the environment: which engine, where, and what a service of plugins is made of.

Sources, the later over the earlier: ``config.toml``, ``[tool.skate]`` of ``pyproject.toml``, ``.env``, environment
variables, whose names join tables and field by two underscores (``SKATE_SERVER__USE_RAY=true``), and what the command
line says. The files are looked for in the working directory; SKATE_CONFIG names another ``config.toml``. One that says
nothing that only Skate understands (``[engine]``, ``use_ray`` or ``engine`` in ``[server]``, ``load_plugins``,
``load_builtin_plugins``) belongs to another program and is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from skate.core.config_tables import Config

PREFIX = "SKATE_"
LISTS = ("load_plugins", "load_builtin_plugins", "disabled_plugins")
"""Settings outside of tables that variables may give: ``SKATE_LOAD_PLUGINS=a,b``."""
_OURS = frozenset(
    {
        ("engine", None),
        ("server", "use_ray"),
        ("server", "engine"),
        ("load_plugins", None),
        ("load_builtin_plugins", None),
    }
)
_SECRETS = frozenset(
    {"secret", "secrets", "password", "passwd", "token", "tokens", "key", "keys", "dsn", "credentials", "apikey"}
    | {"passphrase", "pwd", "credential", "authorization", "bearer", "cookie", "cookies"}
)
_SECRET_ENDS = ("secret", "password", "passwd", "passphrase", "token", "apikey", "secretkey", "accesskey", "privatekey")
"""Of words that are written as one."""
_SECRET_TABLES = ("auth.rules", "telemetry.headers")
_MIXED = ("auth", "auth.oauth", "plugins", "telemetry", "sentry")
"""What is no table though it should be one may be anything: a secret too."""
HIDDEN = "••••••"
"""Stands for what is not shown."""
_MARKS = (b"engine", b"use_ray", b"load_plugins", b"load_builtin_plugins")


class ConfigError(ValueError):
    """A setting that does not exist, or whose value has the wrong type; the text says where it stands."""


class Loaded(NamedTuple):
    """The configuration, and where each value that was given comes from."""

    config: Config
    origins: dict[str, str]
    """By dotted names, as in ``server.port``."""


def load(folder: str = "", environment: Mapping[str, str] | None = None) -> Config:
    """The configuration for a program that runs in `folder` (default: the working directory).

    Raises ConfigError for an unknown setting (the valid ones are named), a wrong type, or a file that is no TOML.
    """
    return _load(folder, environment, {}, _is_ours).config


def load_with_origins(
    folder: str = "", environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Loaded:
    """As `load` for a service of plugins, with what the command line says over all of it, and where each value comes
    from.

    Whoever runs such a service means its ``config.toml``: one that has any of the tables is read.

    Args:
        flags: dotted names and their values, as in ``{"server.port": 9000}``.
    """
    from skate.core.config_tables import Config

    names = {field.name for field in msgspec.structs.fields(Config)}
    return _load(folder, environment, flags or {}, lambda table: not names.isdisjoint(table))


def _load(
    folder: str,
    environment: Mapping[str, str] | None,
    flags: Mapping[str, Any],
    is_ours: Callable[[Mapping[str, Any]], bool],
) -> Loaded:
    from skate.core.config_tables import Config  # only who asks pays for it

    environ = os.environ if environment is None else environment
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    explicit = environ.get("SKATE_CONFIG", "")
    for table, where in (
        (_named_table(explicit) if explicit else _file_table(folder, is_ours), explicit or "config.toml"),
        (_tool_table(os.path.join(folder, "pyproject.toml")), "pyproject.toml, [tool.skate]"),
        (_variables(_dotenv(os.path.join(folder, ".env"))), ".env"),
        (_variables(environ), "the environment"),
        (_flags(flags), "the command line"),
    ):
        if table:
            _check(table, Config, where, "")
            _merge(merged, table)
            origins.update((name, where) for name, _ in flat(table))
    return Loaded(msgspec.convert(merged, Config) if merged else Config(), origins)


def flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by their dotted names."""
    for name, value in table.items():
        full = f"{path}.{name}" if path else name
        if isinstance(value, Mapping) and value:
            yield from flat(value, full)
        else:
            yield full, value


def is_secret(name: str) -> bool:
    """Whether the value of a setting may not be shown: keys of rules, and what is called a key, token, password."""
    import re

    if any(name == table or name.startswith(table + ".") or f".{table}" in name for table in _SECRET_TABLES):
        return True
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    return not _SECRETS.isdisjoint(words) or any(word.endswith(_SECRET_ENDS) for word in words)


def masked(name: str, value: Any) -> Any:
    """A setting's value as it may be shown: secrets in it, and logins in URLs, hidden."""
    if value in (None, "", [], {}):
        return value
    if is_secret(name):
        return HIDDEN
    if isinstance(value, str):
        return without_login(value)
    if isinstance(value, Mapping):
        return {without_login(str(key)): masked(f"{name}.{key}", each) for key, each in value.items()}
    return [masked(name, each) for each in value] if isinstance(value, list | tuple) else value


def without_login(text: str) -> str:
    """A text with URLs without the user and password, and the secrets of their queries, that may stand in them."""
    if "://" not in text:
        return text
    import re

    def parameter(found: re.Match[str]) -> str:
        return f"{found[1]}{found[2]}={HIDDEN}" if is_secret(found[2]) else found[0]

    # of bounded length: a text of nothing but such beginnings would take for ever
    plain = re.sub(r"://\S{0,300}@", f"://{HIDDEN}@", text)
    return re.sub(r"([?&;])([^?=&;#\s]{1,100})=([^&;#\s]*)", parameter, plain)


def _flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in flags.items():
        _put(found, name.split("."), value)
    return found


def _put(tables: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        inner = tables.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{'.'.join(path)}: {name} is given a value and settings of its own.")
        tables = inner
    tables[path[-1]] = value


def _tool_table(path: str) -> dict[str, Any]:
    data = _bytes(path)
    if b"tool.skate" not in data:
        return {}
    found: dict[str, Any] = _parse(data, path).get("tool", {}).get("skate", {})
    return found


def _named_table(path: str) -> dict[str, Any]:
    data = _bytes(path)
    if not data:
        raise ConfigError(f"SKATE_CONFIG={path!r}: there is no such file, or it is empty.")
    return _parse(data, path)


def _file_table(folder: str, is_ours: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
    path = os.path.join(folder, "config.toml")
    data = _bytes(path)
    if not data or (is_ours is _is_ours and not any(mark in data for mark in _MARKS)):
        return {}
    table = _parse(data, path)
    return table if is_ours(table) else {}


def _is_ours(table: Mapping[str, Any]) -> bool:
    """Whether a file says anything that only Skate understands."""
    return any(
        name in table and (field is None or (isinstance(table[name], dict) and field in table[name]))
        for name, field in _OURS
    )


def _parse(data: bytes, path: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _dotenv(path: str) -> dict[str, str]:
    """The ``SKATE_*`` lines of a ``.env`` file: ``NAME=value``, quotes optional, ``export`` and comments allowed."""
    found = {}
    for line in _bytes(path).decode(errors="replace").splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and name.strip().startswith(PREFIX):
            text = value.strip()
            quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
            found[name.strip()] = text[1:-1] if quoted else text.partition(" #")[0].rstrip()
    return found


def _variables(environ: Mapping[str, str]) -> dict[str, Any]:
    """``SKATE_TABLE__FIELD`` as tables. What looks like a list or an object, or is in a plugin's table, is JSON."""
    found: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX):
            continue
        path = name.removeprefix(PREFIX).lower().split("__")
        if len(path) == 1 and path[0] in LISTS:
            listed = value.lstrip().startswith("[")
            _put(found, path, _json(value) if listed else [part.strip() for part in value.split(",") if part.strip()])
        elif len(path) > 1 and path[0]:
            text = value.lstrip()
            meant = path[0] == "plugins" or text.startswith(("[", "{"))
            _put(found, path, _json(value) if meant else value)
    return found


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _check(table: Mapping[str, Any], kind: Any, where: str, path: str) -> None:
    """ConfigError unless each name of a table is a field of `kind`, with a value of its type."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for name, value in list(table.items()):
        full = f"{path}.{name}" if path else name
        if name not in fields:
            from difflib import get_close_matches

            near = get_close_matches(name, fields, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            place = f"[{path}]" if path else "the top level"
            raise ConfigError(f"{where}: {place} has no setting {name!r}.{hint} Valid: {', '.join(sorted(fields))}.")
        inner = fields[name].type
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {full} must be a table, not {_shown(full, value)}.")
            _check(value, inner, where, full)
            continue
        try:
            # what stands in the environment is text, whatever it means
            table[name] = msgspec.convert(value, inner, strict=not isinstance(value, str))  # type: ignore[index]
        except msgspec.ValidationError as error:
            raise ConfigError(f"{where}: {full} = {_shown(full, value)}: {str(error).lower()}.") from None


def _shown(name: str, value: Any) -> str:
    return "a value that is not shown here" if is_secret(name) or name in _MIXED else repr(masked(name, value))


def _merge(over: dict[str, Any], table: Mapping[str, Any]) -> None:
    for name, value in table.items():
        if isinstance(value, Mapping) and isinstance(over.get(name, {}), dict):
            _merge(over.setdefault(name, {}), value)
        else:
            over[name] = value
