"""A list of a server as clients are shown it: what they cannot read is left out. Pure."""

from __future__ import annotations

from typing import NamedTuple

from skate.serve.mcp.entries import checked
from skate.serve.mcp.messages import Json, RpcError
from skate.serve.mcp.names import Kind, Names

TOLD = 5
"""Complaints that are told in full."""


class Item(NamedTuple):
    """An item of a list."""

    name: str
    """As the server calls it."""
    shown: Json
    """As clients see it."""


class Listing:
    """Puts a list together.

    Args:
        kind: which list.
        names: how the server's names are shown.

    Attributes:
        items: by their names at the server.
        schemas: output schemas of tools, by the same names.
    """

    def __init__(self, kind: Kind, names: Names) -> None:
        self._kind = kind
        self._names = names
        self._complaints: list[str] = []
        self.items: dict[str, Item] = {}
        self.schemas: dict[str, Json] = {}

    def add(self, raw: Json) -> None:
        """An item as the server gave it."""
        try:
            found, dropped = checked(self._kind.field, raw)
        except RpcError as error:
            self._complaints.append(error.message)
            return
        schema = found.get("outputSchema")
        name, shown = self._names.shown(self._kind, found)
        if dropped:
            self._complaints.append(f"{name!r} has a wrong {' and '.join(dropped)}")
        if name in self.items:
            self._complaints.append(f"{name!r} is there twice")
            return
        self.items[name] = Item(name, shown)
        if schema is not None:
            self.schemas[name] = schema

    @property
    def complaints(self) -> str:
        """What is wrong with it, for people; "" for nothing."""
        more = len(self._complaints) - TOLD
        said = "; ".join(f"{each:.300}" for each in self._complaints[:TOLD])
        return f"{said}; and {more} more" if more > 0 else said
