"""What is configured, and where it stands: see ``docs/plugins.md`` for the tables."""

from collections.abc import Mapping
from typing import Any

import msgspec

from skate.core.config import ConfigError as ConfigError
from skate.core.config import Loaded as Loaded
from skate.core.config import flat as flat
from skate.core.config import is_secret as is_secret
from skate.core.config import load as load
from skate.core.config import load_with_origins as load_with_origins
from skate.core.config_tables import AuthConfig as AuthConfig
from skate.core.config_tables import CacheConfig as CacheConfig
from skate.core.config_tables import Config as Config
from skate.core.config_tables import CorsConfig as CorsConfig
from skate.core.config_tables import LogConfig as LogConfig
from skate.core.config_tables import ServerConfig as ServerConfig

__all__ = [
    "AuthConfig",
    "CacheConfig",
    "Config",
    "ConfigError",
    "CorsConfig",
    "Loaded",
    "LogConfig",
    "ServerConfig",
    "flat",
    "is_secret",
    "load",
    "load_with_origins",
    "shown",
]

HIDDEN = "••••••"


def shown(loaded: Loaded) -> list[tuple[str, Any, str]]:
    """Every setting, its value (secrets hidden), and where it comes from."""
    rows = []
    for name, value in flat(msgspec.to_builtins(loaded.config)):
        hidden = value not in (None, "", [], {}) and (is_secret(name) or _holds_secret(value))
        rows.append((name, HIDDEN if hidden else _without_login(value), loaded.origins.get(name, "default")))
    return rows


def _holds_secret(value: Any) -> bool:
    """A list of tables with a secret in one of them."""
    if isinstance(value, list):
        return any(_holds_secret(each) for each in value)
    return isinstance(value, Mapping) and any(
        is_secret(str(name)) or _holds_secret(each) for name, each in value.items()
    )


def _without_login(value: Any) -> Any:
    """URLs without the user and password that may stand in them."""
    if isinstance(value, str) and "://" in value and "@" in value:
        scheme, _, rest = value.partition("://")
        return f"{scheme}://{HIDDEN}@{rest.rpartition('@')[2]}"
    return [_without_login(each) for each in value] if isinstance(value, list) else value
