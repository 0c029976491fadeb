"""The vault: a small actor that keeps what the controller must not forget."""

from __future__ import annotations

from typing import Any

from skate.serve import board


class Vault:
    """Keeps values by name, and the board's memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.board: board.Board | None = None

    def put(self, name: str, value: Any) -> None:
        """Keep a value."""
        self.kept[name] = value

    def drop(self, name: str) -> None:
        """Keep it no longer."""
        self.kept.pop(name, None)

    def everything(self) -> tuple[dict[str, Any], board.Place | None]:
        """All values, and where the board is found."""
        return self.kept, self.board.place if self.board is not None else None

    def hold(self, place: board.Place) -> None:
        """Keep the board's memory, whatever becomes of who made it."""
        self.board = board.held(place)
