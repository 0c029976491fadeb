"""Serves an application on a Unix socket with uvicorn's protocol, for other processes of the same user."""

from __future__ import annotations

import asyncio
import socket

from skate.serve.mcp.asgi import App


async def serve_on(listener: socket.socket, app: App) -> asyncio.Server:
    """Serve on a Unix socket that is bound."""
    import uvicorn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol
    from uvicorn.server import ServerState

    config = uvicorn.Config(
        app, interface="asgi3", log_config=None, access_log=False, lifespan="off", timeout_keep_alive=60, ws="none",
        proxy_headers=False,
    )  # fmt: skip
    config.load()
    state = ServerState()
    return await asyncio.get_running_loop().create_unix_server(
        lambda: AutoHTTPProtocol(config=config, server_state=state, app_state={}),  # type: ignore[call-arg]
        sock=listener,
    )
