"""Applications as ASGI callables, for test clients that call them without a socket."""

from __future__ import annotations

from typing import Any

from skate.serve.api import ask
from skate.serve.exceptions import RayServeException
from skate.serve.handle import DeploymentHandle
from skate.serve.http_entry import Entry


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
