"""How programs reach applications: by an address, or as ASGI callables without a socket."""

from __future__ import annotations

import socket
from typing import Any

import skate
from skate.serve import context, proxy
from skate.serve.api import ask
from skate.serve.exceptions import RayServeException
from skate.serve.handle import DeploymentHandle
from skate.serve.http_entry import Entry


def get_http_address() -> str:
    """Where HTTP is served, as in ``http://127.0.0.1:8000``; with ``port=0`` the port that it became.

    Raises RayServeException when no HTTP is served.
    """
    settings = ask("get_settings").get("http") or {}
    try:
        front = skate.get_actor(proxy.NAME, namespace=context.NAMESPACE)
    except ValueError:
        raise RayServeException("No HTTP is served: no application has a route prefix yet, or it is disabled") from None
    host, port = skate.get(front.address.remote())
    if host in ("0.0.0.0", "::"):
        host = _head() or {"0.0.0.0": "127.0.0.1", "::": "::1"}[host]
    scheme = "https" if settings.get("ssl_certfile") else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _head() -> str:
    """The address of the machine where the proxy is; empty: it is this one."""
    heads = [row for row in skate.nodes() if row["Alive"] and context.HEAD in row["Resources"]]
    elsewhere = heads and heads[0]["NodeManagerHostname"] != socket.gethostname()
    return str(heads[0]["NodeManagerAddress"]) if elsewhere else ""


def get_asgi_app(name: str | None = None) -> Any:
    """All that serve answers by HTTP, as an ASGI application: for test clients, and servers of your own.

    A test calls applications with it without a socket, on every engine; in ``inline`` they run in this process, so that
    a breakpoint in a handler stops. Requests take the way of those that come by handles: with request ids, limits,
    streaming, WebSockets, and cancellation on disconnect.

        app = serve.get_asgi_app()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            answer = await client.get("/hello")

    Args:
        name: an application, whose route prefix is then taken for "/"; None: all of them, with their route prefixes
            and Serve's own paths, as they are now.

    Raises RayServeException when there is no such application, RuntimeError when serve does not run.
    """
    found = ask("status")["applications"]
    if name is not None and name not in found:
        raise RayServeException(f"Application {name!r} does not exist; there are: {', '.join(sorted(found)) or 'none'}")
    entry = Entry(lambda app, deployment: DeploymentHandle(deployment, app))
    if name is not None:
        entry.take({"/": (name, found[name]["ingress"])})
    else:
        entry.take(
            {
                row["route_prefix"]: (app, row["ingress"])
                for app, row in found.items()
                if row["route_prefix"] is not None
            }
        )
    return entry
