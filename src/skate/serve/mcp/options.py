"""The options that `app`, `bridge` and `gateway` have in common."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

from skate.serve.mcp.access import Access


class Keywords(TypedDict, total=False):
    """The fields of `Options` as keywords."""

    access: Access | None
    path: str
    stateless: bool
    max_sessions: int
    session_idle: float
    max_body: int


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a server answers over HTTP.

    Args:
        access: who may ask, and for what; see `Access`. Default: everybody on this machine.
        path: where it answers, beside "/".
        stateless: open no sessions: each request stands for itself, and any replica can answer it. Then a server cannot
            ask the client on the way; clients of revision 2026-07-28 need no sessions anyway.
        max_sessions: sessions at a time; further ones are refused with 503.
        session_idle: seconds after which an unused session ends.
        max_body: bytes of a request; larger ones are refused with 413.

    Raises:
        TypeError: there is no such option, or its value has the wrong type.
        ValueError: a value that cannot be.
    """

    access: Access = field(default_factory=Access)
    path: str = "/mcp"
    stateless: bool = False
    max_sessions: int = 10_000
    session_idle: float = 1800.0
    max_body: int = 4 << 20

    def __post_init__(self) -> None:
        if not isinstance(self.access, Access):
            raise TypeError(f"access must be an Access, not {self.access!r}")
        if not isinstance(self.path, str) or not self.path.startswith("/"):
            raise ValueError(f"path must begin with '/', not {self.path!r}")
        if not isinstance(self.stateless, bool):
            raise TypeError(f"stateless must be a bool, not {self.stateless!r}")
        for name, kinds in (("max_sessions", int), ("max_body", int), ("session_idle", int | float)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise TypeError(f"{name} must be a number, not {value!r}")
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above 0 and finite, not {value!r}")

    @classmethod
    def of(cls, given: Keywords) -> Options:
        """The options that were given; None stands for the default."""
        known = [each.name for each in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise TypeError(f"no such option: {', '.join(unknown)}; there are {', '.join(known)}")
        values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return cls(**values)
