"""The clusters of virtual nodes that this process has declared, by address: what `init` may join."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skate.core.nodes import NodeSpec

known: dict[str, Declared] = {}
"""By address, the newest last."""


class Declared:
    """A cluster that a session can be started for."""

    def __init__(self, address: str, specs: Callable[[], list[NodeSpec]]) -> None:
        self.address = address
        self.specs = specs
        """Its nodes as they are now, the driver's first."""
        self.engine: Any = None
        """Of the session that has joined it last."""


def find(address: str | None) -> Declared | None:
    """The cluster at an address; for None and ``"auto"`` the newest; None when there is none."""
    if not known:
        return None
    if address is None or address == "auto":
        return known[next(reversed(known))]
    return known.get(address)
