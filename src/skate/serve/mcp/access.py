"""Who may ask, from where, and for which tools."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from skate.serve.mcp.asgi import SESSION, refusal

LOCAL = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Token:
    """A bearer token and what it opens.

    Args:
        secret: the token itself; or with `env`, nothing.
        name: who has it, for logs. Never the secret.
        tools: patterns of the names of tools (and prompts) that may be used, as clients see them; `*` and `?` stand
            for any characters. Default: all.
        resources: patterns of the addresses of resources. Default: all.
        env: the environment variable that holds the secret.

    Raises:
        ValueError: no secret, or one with fewer than 16 characters.
    """

    secret: str = field(default="", repr=False)
    name: str = "client"
    tools: Sequence[str] = ("*",)
    resources: Sequence[str] = ("*",)
    env: str | None = None

    def __post_init__(self) -> None:
        if self.env is not None and not self.secret:
            object.__setattr__(self, "secret", os.environ.get(self.env, ""))
        where = f" (environment variable {self.env})" if self.env else ""
        if len(self.secret) < 16:
            raise ValueError(f"the token of {self.name!r}{where} needs at least 16 characters")
        if isinstance(self.tools, str) or isinstance(self.resources, str):
            raise TypeError("tools and resources are lists of patterns")

    def may_use(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.tools)

    def may_read(self, uri: str) -> bool:
        return any(fnmatchcase(uri, pattern) for pattern in self.resources)


@dataclass(frozen=True)
class Caller:
    """Who sent a request, as far as it is known."""

    name: str = "anyone"
    token: Token | None = None

    def may_use(self, name: str) -> bool:
        """Whether the caller may use the tool or prompt of this name."""
        return self.token is None or self.token.may_use(name)

    def may_read(self, uri: str) -> bool:
        """Whether the caller may read the resource."""
        return self.token is None or self.token.may_read(uri)


ANYONE = Caller()


@dataclass(frozen=True)
class Access:
    """What is asked of each HTTP request before anything else.

    Args:
        tokens: the bearer tokens that open it. Default: none are asked for.
        hosts: names that the Host header may have, with any port; "*" for all. Default: those of this machine. A page
            in a browser that has its name point to this machine gets no further than this (DNS rebinding).
        origins: origins of pages that may ask, as `https://example.com`, with "*" for all. Default: pages of this
            machine, of any port. Programs send no origin.
    """

    tokens: Sequence[Token] = ()
    hosts: Sequence[str] = LOCAL
    origins: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not all(isinstance(token, Token) for token in self.tokens):
            raise TypeError("tokens must be Token objects: Token('the secret', tools=['...'])")
        if len({token.secret for token in self.tokens}) < len(self.tokens):
            raise ValueError("two tokens have the same secret")

    def check(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Who asks.

        Raises:
            Refusal: 421 for a foreign host, 403 for a foreign origin, 401 without a token that is known.
        """
        if "*" not in self.hosts and _without_port(headers.get(b"host", b"").decode("latin-1")) not in self.hosts:
            raise refusal(421, "this server does not answer to the name in the Host header")
        origin = headers.get(b"origin")
        if origin is not None and not self.allows_origin(origin.decode("latin-1")):
            raise refusal(403, "pages of this origin may not ask")
        return self._caller(headers.get(b"authorization", b"")) if self.tokens else ANYONE

    def allows_origin(self, origin: str) -> bool:
        if "*" in self.origins or origin in self.origins:
            return True
        parts = urlsplit(origin)
        return not self.origins and parts.scheme in ("http", "https") and _without_port(parts.netloc) in LOCAL

    def _caller(self, header: bytes) -> Caller:
        scheme, _, given = header.partition(b" ")
        # Hashes have one length, so that the time which comparing takes tells nothing; and all are compared.
        digest = hashlib.sha256(given.strip()).digest()
        found = None
        for token in self.tokens:
            if hmac.compare_digest(digest, hashlib.sha256(token.secret.encode()).digest()):
                found = token
        if found is None or scheme.lower() != b"bearer":
            raise refusal(401, "a bearer token is needed", ((b"www-authenticate", b"Bearer"),))
        return Caller(found.name, found)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


def cors(origin: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """What a browser must be told so that a page of an allowed origin may read the answer."""
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", SESSION),
        (b"vary", b"origin"),
    )


PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST, DELETE"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, accept, last-event-id, "
        b"mcp-session-id, mcp-protocol-version, mcp-method, mcp-name",
    ),
    (b"access-control-max-age", b"600"),
)
