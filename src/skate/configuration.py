"""What is configured, and where it stands: see ``docs/plugins.md`` for the tables."""

from typing import Any

import msgspec

from skate.core.config import HIDDEN as HIDDEN
from skate.core.config import ConfigError as ConfigError
from skate.core.config import Loaded as Loaded
from skate.core.config import flat as flat
from skate.core.config import is_secret as is_secret
from skate.core.config import load as load
from skate.core.config import load_with_origins as load_with_origins
from skate.core.config import masked as masked
from skate.core.config import without_login as without_login
from skate.core.config_tables import AuthConfig as AuthConfig
from skate.core.config_tables import CacheConfig as CacheConfig
from skate.core.config_tables import Config as Config
from skate.core.config_tables import CorsConfig as CorsConfig
from skate.core.config_tables import LogConfig as LogConfig
from skate.core.config_tables import OAuthConfig as OAuthConfig
from skate.core.config_tables import SentryConfig as SentryConfig
from skate.core.config_tables import ServerConfig as ServerConfig
from skate.core.config_tables import TelemetryConfig as TelemetryConfig

__all__ = [
    "HIDDEN",
    "AuthConfig",
    "CacheConfig",
    "Config",
    "ConfigError",
    "CorsConfig",
    "Loaded",
    "LogConfig",
    "OAuthConfig",
    "SentryConfig",
    "ServerConfig",
    "TelemetryConfig",
    "flat",
    "is_secret",
    "load",
    "load_with_origins",
    "masked",
    "shown",
    "without_login",
]


def shown(loaded: Loaded) -> list[tuple[str, Any, str]]:
    """Every setting, its value (secrets hidden), and where it comes from."""
    return [
        (without_login(name), masked(name, value), loaded.origins.get(name, "default"))
        for name, value in flat(msgspec.to_builtins(loaded.config))
    ]
