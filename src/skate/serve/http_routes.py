"""Which application a path belongs to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

REMEMBERED = 1024
"""Paths whose application is remembered."""


Target = tuple[str, str]
"""An application, and its ingress deployment."""


class Routes:
    """Applications by route prefix; the longest that fits wins."""

    def __init__(self, routes: Mapping[str, Target]) -> None:
        self.table = dict(routes)
        self._longest_first = sorted(routes, key=len, reverse=True)
        self._known: dict[str, str | None] = {}

    def prefix(self, path: str) -> str | None:
        """The route prefix that a decoded path belongs to, or None."""
        known = self._known
        found = known.get(path, "")
        if found != "":
            return found
        found = None
        for prefix in self._longest_first:
            if prefix == "/" or path == prefix or (path.startswith(prefix) and path[len(prefix)] == "/"):
                found = prefix
                break
        if len(known) >= REMEMBERED:
            known.clear()
        known[path] = found
        return found


class BadRequestLineError(ValueError):
    """The first line is none of HTTP."""


def asked_path(head: bytes) -> str | None:
    """The decoded path that a request asks for, from its first bytes; None when they are too few yet.

    Raises BadRequestLineError for what cannot be the beginning of a request.
    """
    start = 0
    while head[start : start + 2] == b"\r\n":  # some clients send empty lines ahead
        start += 2
    end = head.find(b"\n", start)
    words = head[start : end if end >= 0 else len(head)].split(b" ")
    method = words[0].strip()
    if method and not (method.isascii() and method.replace(b"-", b"").replace(b"_", b"").isalpha()):
        raise BadRequestLineError("not a method")
    if len(method) > 32:
        raise BadRequestLineError("not a method")
    if len(words) < 3:
        if end >= 0:
            raise BadRequestLineError("not a request line")
        return None
    return path_of(words[1])


def path_of(raw: bytes) -> str:
    """The decoded path of a request's target, which may be a whole URL."""
    if not raw.startswith(b"/"):
        if raw == b"*":
            return "/"
        _, mark, rest = raw.partition(b"://")
        if not mark:
            raise BadRequestLineError("not a target")
        raw = b"/" + rest.partition(b"/")[2]
    path = raw.partition(b"?")[0].partition(b"#")[0].decode("latin-1")
    return unquote(path) if "%" in path else path
