"""The vault: a small actor that keeps what the controller must not forget.

Should it die, the controller fills the one that takes its place. Only both at once forget.
"""

from __future__ import annotations

import asyncio
from typing import Any

from skate.serve import board


class Vault:
    """Keeps values by name, and the board's memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.board: board.Board | None = None

    async def lives(self) -> None:
        """Answers when the vault ends: whoever waits for it hears of its death at once."""
        await asyncio.Event().wait()

    async def refill(self, kept: dict[str, Any], place: board.Place | None) -> board.Place | None:
        """Have what another one had. See `hold`."""
        self.kept = {**kept, **self.kept}
        return await self.hold(place) if place is not None else None

    async def put(self, name: str, value: Any) -> None:
        """Keep a value."""
        self.kept[name] = value

    async def drop(self, name: str) -> None:
        """Keep it no longer."""
        self.kept.pop(name, None)

    async def everything(self) -> tuple[dict[str, Any], board.Place | None]:
        """All values, and where the board is found."""
        return self.kept, self.board.place if self.board is not None else None

    async def hold(self, place: board.Place) -> board.Place | None:
        """Keep the board's memory, whatever becomes of who made it; where it is found here."""
        if self.board is None or self.board.place is None or self.board.place.token != place.token:
            self.board = board.held(place)
        return self.board.place if self.board is not None else None
