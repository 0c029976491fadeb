"""What is configured, and where it stands: see ``docs/plugins.md`` for the tables."""

from skate.core.config import Config as Config
from skate.core.config import ConfigError as ConfigError
from skate.core.config import Loaded as Loaded
from skate.core.config import flat as flat
from skate.core.config import is_secret as is_secret
from skate.core.config import load as load
from skate.core.config import load_with_origins as load_with_origins
from skate.core.config_tables import AuthConfig as AuthConfig
from skate.core.config_tables import CacheConfig as CacheConfig
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
]
