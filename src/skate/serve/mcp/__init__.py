"""MCP servers on serve: written with the official SDK, bridged from standard streams, or many behind a gateway.

Everything here is an ASGI application, which any ASGI server runs and a test client calls; `deployment` makes it one of
`skate.serve`.

* `app`: a server of the SDK. `bridge`: a command that speaks MCP over its standard streams. `gateway`: many servers
  under one address. `remote`: a server at a URL, for a gateway. `deployment`: any of these as a deployment.
* `Access`, `Token`, `Jwt`, `Introspection`: who may ask, and for what. `ClientCredentials`: tokens for servers.
  `Options`: what all applications take. `Limits`: how long things may take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skate.serve.mcp.access import Access as Access
    from skate.serve.mcp.access import Token as Token
    from skate.serve.mcp.bearer import Introspection as Introspection
    from skate.serve.mcp.bearer import Jwt as Jwt
    from skate.serve.mcp.credentials import ClientCredentials as ClientCredentials
    from skate.serve.mcp.deployments import deployment as deployment
    from skate.serve.mcp.forwarding import bridge as bridge
    from skate.serve.mcp.forwarding import gateway as gateway
    from skate.serve.mcp.forwarding import remote as remote
    from skate.serve.mcp.options import Options as Options
    from skate.serve.mcp.sdk import app as app
    from skate.serve.mcp.upstream import Limits as Limits

_NAMES = {
    "Access": "access",
    "ClientCredentials": "credentials",
    "Introspection": "bearer",
    "Jwt": "bearer",
    "Limits": "upstream",
    "Options": "options",
    "Token": "access",
    "app": "sdk",
    "bridge": "forwarding",
    "deployment": "deployments",
    "gateway": "forwarding",
    "remote": "forwarding",
}
"""Public names, and the modules that they are loaded from when they are first asked for."""

__all__ = [
    "Access",
    "ClientCredentials",
    "Introspection",
    "Jwt",
    "Limits",
    "Options",
    "Token",
    "app",
    "bridge",
    "deployment",
    "gateway",
    "remote",
]

if not TYPE_CHECKING:  # or checkers would believe in every name

    def __getattr__(name: str) -> object:
        from importlib import import_module

        module = _NAMES.get(name)
        if module is None:
            raise AttributeError(f"module 'skate.serve.mcp' has no attribute {name!r}")
        try:
            loaded = import_module(f"skate.serve.mcp.{module}")
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("skate"):
                raise
            raise ImportError(f"skate.serve.mcp needs {error.name}: pip install 'skate-ray[mcp]'") from error
        value = getattr(loaded, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
