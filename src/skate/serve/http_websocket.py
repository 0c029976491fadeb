"""A connection that has become a WebSocket: uvicorn's protocol again. Loaded by the first one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from skate.serve.http_protocol import Connection


class WebSocket(WebSocketsSansIOProtocol):
    """A connection that has become a WebSocket."""

    def __init__(self, http: Connection, **arguments: Any) -> None:
        super().__init__(**arguments, _loop=http.loop)
        self.http = http
        self.app = partial(http.host.serve, http)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.http.over(kept=False)
