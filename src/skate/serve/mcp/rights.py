"""Who asks, and what they may use: patterns of names and addresses. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import unquote

ALL = ("*",)
_LONGEST = 8192
"""Characters of a name or address that patterns are tried on; nothing longer is meant by one."""


@dataclass(frozen=True)
class Rights:
    """Patterns of what may be used; `*` and `?` stand for any characters, all others for themselves.

    Args:
        tools: names of tools, as clients see them.
        resources: addresses of resources.
        prompts: names of prompts. Default: the same as for tools.
    """

    tools: Sequence[str] = ALL
    resources: Sequence[str] = ALL
    prompts: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("tools", "resources", "prompts"):
            value = getattr(self, name)
            if value is None and name == "prompts":
                continue
            if isinstance(value, str) or not all(isinstance(pattern, str) for pattern in value):
                raise TypeError(f"{name} is a list of patterns, not {value!r}")

    @property
    def limited(self) -> bool:
        """Whether there is anything that may not be used."""
        return any("*" not in patterns for patterns in (self.tools, self.resources, self.prompts or ALL))

    def may(self, kind: str, name: str) -> bool:
        """Whether the tool, prompt or resource (`kind`: "tools", "prompts", "resources") may be used."""
        patterns = self.resources if kind == "resources" else self.tools
        if kind == "prompts" and self.prompts is not None:
            patterns = self.prompts
        if "*" in patterns:
            return True
        if len(name) > _LONGEST or (kind == "resources" and _climbs(name)):
            return False
        return any(fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)


@dataclass(frozen=True)
class Caller:
    """Who sent a request, as far as it is known. Two are the same if their `identity` is."""

    name: str = field(default="anyone", compare=False)
    """For logs."""
    identity: tuple[str, ...] = ()
    rights: Rights = field(default=Rights(), compare=False)


ANYONE = Caller()


def _climbs(uri: str) -> bool:
    """Whether an address has "." or ".." among its parts, written plainly or with percent signs.

    A pattern such as `files+file:///public/*` would let it through, and the server that gets it may climb up.
    """
    for _ in range(8):
        plain = unquote(uri)
        if plain == uri:
            return any(part in (".", "..") for part in re.split(r"[/\\:;?#&=+]", plain))
        uri = plain
    return True
