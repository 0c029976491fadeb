"""Names that plugins and their tests share."""

from __future__ import annotations

from skate._version import __version__

VERSION = __version__
API_STR = "/api/v1"
"""What paths of routes begin with, unless they begin so already or ask for none."""
OPENAPI_URL = f"{API_STR}/openapi.json"
DOCS_URL = "/docs"
REDOC_URL = "/redoc"
PROXY_FUNC_HTTP_PATH = f"{API_STR}/proxy/remote"
"""Where functions marked with `on_proxy` are called from other services."""
CACHE_REQUEST_HEADER = "X-Skate-Cache"
CACHE_KEY_HEADER = "X-Skate-Cache-Key"
CACHE_STATUS_HEADER = "X-Skate-Cache-Status"
