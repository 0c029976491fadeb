"""The sessions that clients have begun."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from skate.serve.mcp import messages
from skate.serve.mcp.asgi import refusal
from skate.serve.mcp.messages import HANDSHAKE_VERSIONS, INVALID_PARAMS, Request, RpcError
from skate.serve.mcp.peers import Client
from skate.serve.mcp.rights import Caller
from skate.serve.mcp.sessions import Session
from skate.serve.mcp.trails import Ledger


class Table:
    """All sessions, by their ids.

    Args:
        ended: called with each that has ended.
        most: sessions at a time.
        idle: seconds after which an unused session ends.
    """

    def __init__(self, ended: Callable[[Session], Awaitable[None]], *, most: int, idle: float) -> None:
        self.sessions: dict[str, Session] = {}
        self.idle = idle
        self._ended = ended
        self._most = most
        self._ledger = Ledger()

    def find(self, number: str, caller: Caller) -> Session:
        """A session that the caller has begun. Refusal: 400 without a number, 404 for one that is not known."""
        if not number:
            raise refusal(400, "the header Mcp-Session-Id is missing")
        session = self.sessions.get(number)
        if session is None or session.caller != caller:  # another's session looks like none
            raise refusal(404, "there is no such session; begin a new one")
        session.used = time.monotonic()
        return session

    def begin(self, request: Request, caller: Caller, *, kept: bool) -> Session:
        """A session as `initialize` asks for it; one that is not kept has no number.

        Raises:
            RpcError: the request is wrong.
            Refusal: 503 when there are too many.
        """
        params = messages.fields(request.params)
        wanted = messages.text(params, "protocolVersion")
        capabilities = params.get("capabilities", messages.EMPTY)
        info = params.get("clientInfo", messages.EMPTY)
        if capabilities[:1] != b"{" or info[:1] != b"{":
            raise RpcError(INVALID_PARAMS, "capabilities and clientInfo must be objects")
        version = wanted if wanted in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1]
        number = secrets.token_hex(16) if kept else None
        session = Session(number, caller, Client(capabilities, info), version, self._ledger)
        if number is not None:
            if len(self.sessions) >= self._most:
                raise refusal(503, "too many sessions")
            self.sessions[number] = session
        return session

    async def end(self, session: Session) -> None:
        """End a session, once."""
        if session.id is not None and self.sessions.pop(session.id, None) is not None:
            session.end()
            await self._ended(session)

    async def end_all(self) -> None:
        """End every session."""
        for session in list(self.sessions.values()):
            await self.end(session)

    async def reap(self) -> None:
        """End sessions that nobody uses, for ever."""
        while True:
            await asyncio.sleep(min(self.idle / 4, 60.0))
            oldest = time.monotonic() - self.idle
            for session in list(self.sessions.values()):
                if not session.busy and session.used < oldest:
                    await self.end(session)
