"""Who may ask, from where, and for which tools."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from skate.serve.mcp.asgi import SESSION, Refusal, Scope, refusal
from skate.serve.mcp.authority import AuthorityError
from skate.serve.mcp.bearer import InvalidTokenError, ScopeError, Verifier
from skate.serve.mcp.messages import encode
from skate.serve.mcp.rights import ALL, ANYONE, Caller, Rights

logger = logging.getLogger("skate.serve.mcp")

LOCAL = ("localhost", "127.0.0.1", "[::1]")
_LOCAL_ORIGIN = re.compile(r"https?://([^/@:\[\]]+|\[[^\]]*\])(?::\d+)?")
WELL_KNOWN = "/.well-known/oauth-protected-resource"


@dataclass(frozen=True)
class Token:
    """A bearer token and what it opens.

    Args:
        secret: the token itself; or with `env`, nothing.
        name: who has it, for logs. Never the secret.
        tools: patterns of the names of tools that may be used, as clients see them; `*` and `?` stand for any
            characters. Default: all.
        resources: patterns of the addresses of resources. Default: all.
        env: the environment variable that holds the secret.
        prompts: patterns of the names of prompts. Default: those for tools.

    Raises:
        ValueError: no secret, or one with fewer than 16 characters.
    """

    secret: str = field(default="", repr=False)
    name: str = "client"
    tools: Sequence[str] = ALL
    resources: Sequence[str] = ALL
    env: str | None = None
    prompts: Sequence[str] | None = None
    _digest: bytes = field(default=b"", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.env is not None and not self.secret:
            object.__setattr__(self, "secret", os.environ.get(self.env, ""))
        where = f" (environment variable {self.env})" if self.env else ""
        if len(self.secret) < 16:
            raise ValueError(f"the token of {self.name!r}{where} needs at least 16 characters")
        object.__setattr__(self, "_digest", hashlib.sha256(self.secret.encode()).digest())
        _ = self.rights  # says now what is wrong with the patterns

    @property
    def rights(self) -> Rights:
        """What it opens."""
        return Rights(self.tools, self.resources, self.prompts)

    def is_of(self, digest: bytes) -> bool:
        """Whether this is the token with that SHA-256. Takes as long for all."""
        return hmac.compare_digest(digest, self._digest)

    @property
    def bearer(self) -> Caller:
        """Who has it."""
        return Caller(self.name, ("token", self._digest.hex()), self.rights)


@dataclass(frozen=True)
class Access:
    """What is asked of each HTTP request before anything else.

    Args:
        tokens: the bearer tokens that open it. Default: none are asked for.
        hosts: names that the Host header may have, with any port; "*" for all. Default: those of this machine. A page
            in a browser that has its name point to this machine gets no further than this (DNS rebinding).
        origins: origins of pages that may ask, as `https://example.com`, with "*" for all. Default: pages of this
            machine, of any port. Programs send no origin.
        verifiers: whose tokens open it too: `Jwt`, `Introspection`. They are asked in turn, until one knows the token.
        resource: this server's own address, as clients reach it. With `verifiers`, clients that have no token are told
            by it where to get one (RFC 9728).
    """

    tokens: Sequence[Token] = ()
    hosts: Sequence[str] = LOCAL
    origins: Sequence[str] = ()
    verifiers: Sequence[Verifier] = ()
    resource: str | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(token, Token) for token in self.tokens):
            raise TypeError("tokens must be Token objects: Token('the secret', tools=['...'])")
        if not all(isinstance(each, Verifier) for each in self.verifiers):
            raise TypeError("verifiers must be Jwt or Introspection objects")
        if len({token.secret for token in self.tokens}) < len(self.tokens):
            raise ValueError("two tokens have the same secret")
        for name in ("tokens", "hosts", "origins", "verifiers"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} is a list")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.resource is not None:
            parts = urlsplit(self.resource)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.fragment or '"' in self.resource:
                raise ValueError(f"resource is an address such as https://tools.example.com/mcp, not {self.resource!r}")

    @property
    def limited(self) -> bool:
        """Whether somebody may ask, but not for everything."""
        rights = [*(token.rights for token in self.tokens), *(each.rights for each in self.verifiers)]
        return any(each.limited for each in rights)

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Refusal: 421 for a foreign host, 403 for a foreign origin."""
        if "*" not in self.hosts:
            host = _without_port(headers.get(b"host", b"").decode("latin-1"))
            if host not in (each.lower() for each in self.hosts):
                raise refusal(421, "this server does not answer to the name in the Host header")
        origin = headers.get(b"origin")
        if origin is not None and not self.allows_origin(origin.decode("latin-1")):
            raise refusal(403, "pages of this origin may not ask")

    def allows_origin(self, origin: str) -> bool:
        """Whether pages of this origin may ask."""
        if "*" in self.origins or origin in self.origins:
            return True
        found = _LOCAL_ORIGIN.fullmatch(origin)
        return not self.origins and found is not None and found[1].lower() in LOCAL

    async def caller(self, headers: Mapping[bytes, bytes], root: str = "") -> Caller:
        """Who asks.

        Args:
            headers: of the request.
            root: the path below which this server is, "" for none.

        Raises:
            Refusal: 401 without a token that is known, 403 for one that lacks a scope, 503 while that cannot be told.
        """
        if not self.tokens and not self.verifiers:
            return ANYONE
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        token = given.strip() if scheme.lower() == b"bearer" else b""
        digest = hashlib.sha256(token).digest()
        known = [each for each in self.tokens if each.is_of(digest)]  # all are compared, that time tells nothing
        if known:
            return known[0].bearer
        lacking: list[str] = []
        for verifier in self.verifiers if token else ():
            try:
                return await verifier.caller(token)
            except InvalidTokenError as error:
                logger.info("a bearer token was refused: %s", error)
            except ScopeError as error:
                lacking += [scope for scope in error.scopes if scope not in lacking]
            except AuthorityError as error:
                logger.warning("a bearer token cannot be verified: %s", error)
                raise refusal(503, "tokens cannot be verified at the moment", ((b"retry-after", b"5"),)) from None
        if lacking:
            said = f'error="insufficient_scope", scope="{" ".join(lacking)}"'
            raise refusal(403, "the token lacks a scope", (self._challenge(said, root),))
        said = 'error="invalid_token"' if token and self.verifiers else ""
        raise refusal(401, "a bearer token is needed", (self._challenge(said, root),))

    def _challenge(self, said: str, root: str) -> tuple[bytes, bytes]:
        if self.resource is not None and self.verifiers:
            parts = urlsplit(self.resource)
            # below a root, the place that the standard wants is not this server's
            where = f"{root}{WELL_KNOWN}" if root else f"{WELL_KNOWN}{parts.path.rstrip('/')}"
            named = f'resource_metadata="{parts.scheme}://{parts.netloc}{where}"'
            said = f"{said}, {named}" if said else named
        return (b"www-authenticate", f"Bearer {said}".strip().encode("ascii", "replace"))

    def metadata(self, path: str) -> bytes | None:
        """What is told of this server as a protected resource (RFC 9728), if that is what is at this path."""
        if self.resource is None or not self.verifiers or not path.startswith(WELL_KNOWN):
            return None
        if path.removeprefix(WELL_KNOWN) not in ("", "/", urlsplit(self.resource).path.rstrip("/")):
            return None
        scopes = sorted({scope for verifier in self.verifiers for scope in verifier.scopes})
        return encode(
            {
                "resource": self.resource,
                "authorization_servers": list(dict.fromkeys(verifier.issuer for verifier in self.verifiers)),
                "bearer_methods_supported": ["header"],
                **({"scopes_supported": scopes} if scopes else {}),
            }
        )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


def cors(origin: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """What a browser must be told so that a page of an allowed origin may read the answer."""
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", SESSION + b", www-authenticate"),
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


def admit_page(access: Access, method: str, headers: Mapping[bytes, bytes]) -> None:
    """Answer a browser that asks whether a page may ask: Refusal, 204 or 403."""
    if method == "OPTIONS" and (origin := headers.get(b"origin")) is not None:
        if access.allows_origin(origin.decode("latin-1")):
            raise Refusal(204, headers=PREFLIGHT)
        raise Refusal(403)


async def admit(access: Access, paths: Collection[str], scope: Scope, headers: Mapping[bytes, bytes]) -> Caller:
    """Who asks, if that may ask and there is something at this path.

    Raises:
        Refusal: 421, 403, 401 and 503, see `Access`; 404; 200 with what is told of this server as a resource.
    """
    access.check(headers)
    root = scope.get("root_path", "")
    path = scope["path"].removeprefix(root)
    if scope["method"] == "GET" and (found := access.metadata(path)) is not None:
        raise Refusal(200, found)
    caller = await access.caller(headers, root)
    if path not in paths:
        raise Refusal(404)
    return caller
