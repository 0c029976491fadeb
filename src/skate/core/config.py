"""Configuration from files and the environment: which engine, and where.

Sources, the later over the earlier: ``[tool.skate]`` of ``pyproject.toml``, ``config.toml``, ``.env``, and environment
variables, whose names join table and field by two underscores: ``SKATE_SERVER__USE_RAY=true``. The files are looked for
in the working directory; SKATE_CONFIG names another ``config.toml``. One that says nothing that only Skate understands
(``[engine]``, or ``use_ray`` or ``engine`` in ``[server]``) belongs to another program and is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

PREFIX = "SKATE_"
_OURS = frozenset({("engine", None), ("server", "use_ray"), ("server", "engine")})


class ConfigError(ValueError):
    """A setting that does not exist, or whose value has the wrong type; the text says where it stands."""


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[engine]``."""

    name: str | None = None
    """``local``, ``inline`` or ``ray``."""
    address: str | None = None
    """The cluster or session to join; None: start one."""


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[server]``."""

    use_ray: bool = False
    """The short form of ``[engine] name = "ray"``."""
    engine: str | None = None
    """The same as ``[engine] name``."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that can be configured."""

    engine: EngineConfig = EngineConfig()
    server: ServerConfig = ServerConfig()

    @property
    def chosen_engine(self) -> str | None:
        """The engine's name; None when nothing was said. ``use_ray`` counts where no name is given."""
        return self.engine.name or self.server.engine or ("ray" if self.server.use_ray else None)


def load(folder: str = "", environment: Mapping[str, str] | None = None) -> Config:
    """The configuration for a program that runs in `folder` (default: the working directory).

    Raises ConfigError for an unknown setting (the valid ones are named), a wrong type, or a file that is no TOML.
    """
    environ = os.environ if environment is None else environment
    merged: dict[str, Any] = {}
    explicit = environ.get("SKATE_CONFIG", "")
    for table, where in (
        (_tool_table(os.path.join(folder, "pyproject.toml")), "pyproject.toml, [tool.skate]"),
        (_file_table(explicit or os.path.join(folder, "config.toml"), bool(explicit)), explicit or "config.toml"),
        (_variables(_dotenv(os.path.join(folder, ".env"))), ".env"),
        (_variables(environ), "the environment"),
    ):
        if table:
            _check(table, Config, where, "")
            _merge(merged, table)
    return msgspec.convert(merged, Config) if merged else Config()


def _tool_table(path: str) -> dict[str, Any]:
    data = _bytes(path)
    if b"tool.skate" not in data:
        return {}
    found: dict[str, Any] = _parse(data, path).get("tool", {}).get("skate", {})
    return found


def _file_table(path: str, explicit: bool) -> dict[str, Any]:
    data = _bytes(path)
    if not data:
        if explicit:
            raise ConfigError(f"SKATE_CONFIG={path!r}: there is no such file, or it is empty.")
        return {}
    if not explicit and b"engine" not in data and b"use_ray" not in data:
        return {}
    table = _parse(data, path)
    ours = any(
        name in table and (field is None or (isinstance(table[name], dict) and field in table[name]))
        for name, field in _OURS
    )
    return table if ours or explicit else {}


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
    """``SKATE_TABLE__FIELD`` as tables."""
    found: dict[str, Any] = {}
    for name, value in environ.items():
        table, two, field = name.removeprefix(PREFIX).lower().partition("__")
        if name.startswith(PREFIX) and two:
            found.setdefault(table, {})[field] = value
    return found


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
                raise ConfigError(f"{where}: {full} must be a table, not {value!r}.")
            _check(value, inner, where, full)
            continue
        try:
            # what stands in the environment is text, whatever it means
            table[name] = msgspec.convert(value, inner, strict=not isinstance(value, str))  # type: ignore[index]
        except msgspec.ValidationError as error:
            raise ConfigError(f"{where}: {full} = {value!r}: {str(error).lower()}.") from None


def _merge(over: dict[str, Any], table: Mapping[str, Any]) -> None:
    for name, value in table.items():
        if isinstance(value, Mapping):
            _merge(over.setdefault(name, {}), value)
        else:
            over[name] = value
