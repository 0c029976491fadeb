"""Keys by path: which paths need one, and whether a request has it. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from skate.configuration import ConfigError

MOST_REMEMBERED = 4096
LONGEST_REMEMBERED = 256
"""Letters of a path that is remembered: whoever asks for many long ones fills no memory."""


class Rules:
    """Key rules. The exact path wins, then the longest prefix (``/path/*``).

    Raises ConfigError for a rule that is no path, or a prefix that is none.
    """

    def __init__(self, rules: Mapping[str, Iterable[str]]) -> None:
        self._exact: dict[str, tuple[str, ...]] = {}
        self._digests: dict[str, bytes] = {}
        prefixes: dict[str, tuple[str, ...]] = {}
        for path, keys in rules.items():
            known = tuple(keys)
            self._digests.update((key, _digest(key.encode())) for key in known)
            if not path.startswith("/") or "*" in path[:-1]:
                raise ConfigError(f"[auth.rules] {path!r} must be a path, or one with '*' at its end")
            if any(not key for key in known):
                raise ConfigError(f"[auth.rules] {path!r} has an empty key")
            if path.endswith("*"):
                prefixes[path[:-1]] = known
            else:
                self._exact[_trimmed(path)] = known
        self._prefixes = sorted(prefixes.items(), key=lambda pair: -len(pair[0]))
        self._known: dict[str, tuple[str, ...] | None] = {}

    def __bool__(self) -> bool:
        return bool(self._exact or self._prefixes)

    def keys(self, path: str) -> tuple[str, ...] | None:
        """The keys that open a decoded path; None: anybody may."""
        path = _trimmed(path)
        try:
            return self._known[path]
        except KeyError:
            pass
        found = self._exact.get(path)
        if found is None:
            for prefix, keys in self._prefixes:
                # "/a/*" covers "/a" too: what lists a folder is not more open than what is in it
                if path.startswith(prefix) or (prefix.endswith("/") and path == prefix[:-1]):
                    found = keys
                    break
        if len(path) <= LONGEST_REMEMBERED:
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[path] = found
        return found

    def allows(self, path: str, authorization: bytes) -> bool:
        """Whether a request may pass. Takes as long for a wrong key as for a right one."""
        keys = self.keys(path)
        if keys is None:
            return True
        given = authorization.strip()
        scheme, _, rest = given.partition(b" ")
        if scheme.lower() == b"bearer":
            given = rest.strip()
        found = _digest(given)
        fits = False
        for key in keys:
            fits |= hmac.compare_digest(self._digests[key], found)
        return fits


def _digest(key: bytes) -> bytes:
    """Of one length, so that comparing tells nothing of the key's."""
    return hashlib.sha256(key).digest()


def is_strange(path: str) -> bool:
    """Whether a decoded path is written so that two readers may take it for different ones."""
    if "//" not in path and "/." not in path and "\\" not in path and path.isprintable():
        return False
    return "//" in path or "\\" in path or not _printable(path) or any(part in (".", "..") for part in path.split("/"))


def _printable(path: str) -> bool:
    return not any(ord(letter) < 32 or ord(letter) == 127 for letter in path)


def _trimmed(path: str) -> str:
    return path.rstrip("/") or "/"
