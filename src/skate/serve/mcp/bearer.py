"""Bearer tokens that an authorization server has issued: JSON Web Tokens, and those that it is asked about."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from skate.serve.mcp.authority import AuthorityError, ask, metadata
from skate.serve.mcp.rights import ALL, Caller, Rights

logger = logging.getLogger("skate.serve.mcp")

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a key pair. With a shared secret who verifies could also issue."""
LONGEST = 16_384
"""Bytes of a token; longer ones are none."""
REMEMBERED = 1000
"""Verified tokens that are remembered."""
SEEN = 300.0
"""Seconds for which a verified JSON Web Token is remembered, if it is valid for so long."""
AGAIN = 30.0
"""Seconds before keys are fetched again for a token whose key is not among them."""


class InvalidTokenError(Exception):
    """This is no token, or not one for this server."""


class ScopeError(Exception):
    """The token is good, but lacks scopes."""

    def __init__(self, scopes: Sequence[str]) -> None:
        super().__init__("the token lacks a scope")
        self.scopes = scopes


class Verifier:
    """Tells whose a bearer token is.

    Args:
        issuer: the authorization server, as it names itself.
        scopes: scopes that a token must have, all of them.
        rights: what its bearer may use.
    """

    def __init__(self, issuer: str, scopes: Sequence[str], rights: Rights) -> None:
        if isinstance(scopes, str):
            raise TypeError("scopes is a list")
        self.issuer = issuer
        self.scopes = tuple(scopes)
        self.rights = rights
        self._seen: dict[bytes, tuple[float, Caller]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": {}}

    async def caller(self, token: bytes) -> Caller:
        """The bearer.

        Raises:
            InvalidTokenError, ScopeError: it opens nothing.
            AuthorityError: it cannot be told now.
        """
        if not token or len(token) > LONGEST:
            raise InvalidTokenError("no token, or one that is too long")
        digest = hashlib.sha256(token).digest()
        found = self._seen.get(digest)
        if found is not None and time.time() < found[0]:
            return found[1]
        claims, until = await self._claims(token)
        given = claims.get("scope", claims.get("scp", ""))
        held = given.split() if isinstance(given, str) else given if isinstance(given, list) else ()
        if not set(self.scopes) <= {scope for scope in held if isinstance(scope, str)}:
            raise ScopeError(self.scopes)
        subject, client = (str(claims.get(name) or "") for name in ("sub", "client_id"))
        client = client or str(claims.get("azp") or "")
        if not subject and not client:
            raise InvalidTokenError("the token says neither whose it is (sub) nor which client has it (client_id)")
        caller = Caller(subject or client, (self.issuer, client, subject), self.rights)
        if len(self._seen) >= REMEMBERED:
            self._seen.clear()
        self._seen[digest] = (until, caller)
        return caller

    async def _claims(self, token: bytes) -> tuple[dict[str, Any], float]:
        """What a valid token says, and until when (by `time.time`) that may be believed."""
        raise NotImplementedError


class Jwt(Verifier):
    """JSON Web Tokens, verified with the public keys of who issues them.

    A token needs a signature by such a key, this issuer, this audience, and a time at which it ends.

    Args:
        issuer: the authorization server, as its tokens name it (`iss`).
        audience: this server, as tokens name it (`aud`): its address, as a rule.
        keys: the keys, as a set of JSON Web Keys or the URL of one. Default: where the issuer's metadata say.
        algorithms: signatures that are accepted, among those with key pairs. Default: all such.
        scopes: scopes that a token must have, all of them.
        tools, resources, prompts: what its bearer may use; see `Token`.
        leeway: seconds that the clocks may differ.

    Raises:
        ImportError: PyJWT or cryptography is missing.
        ValueError: an algorithm that is none of a key pair; keys that are none.
    """

    def __init__(
        self,
        issuer: str,
        audience: str | Sequence[str],
        *,
        keys: str | Mapping[str, Any] | None = None,
        algorithms: Sequence[str] = ALGORITHMS,
        scopes: Sequence[str] = (),
        tools: Sequence[str] = ALL,
        resources: Sequence[str] = ALL,
        prompts: Sequence[str] | None = None,
        leeway: float = 30.0,
    ) -> None:
        super().__init__(issuer, scopes, Rights(tools, resources, prompts))
        try:
            import cryptography  # noqa: F401  PyJWT needs it for key pairs
            import jwt  # noqa: F401
        except ImportError as error:
            raise ImportError("tokens are verified with PyJWT: pip install 'skate-ray[mcp]'") from error
        if wrong := [name for name in algorithms if name not in ALGORITHMS]:
            raise ValueError(f"{', '.join(wrong)}: accepted can be {', '.join(ALGORITHMS)}")
        if not audience:
            raise ValueError("an audience is needed, or tokens for other servers would open this one")
        self.audience = [audience] if isinstance(audience, str) else list(audience)
        self.algorithms = tuple(algorithms)
        self.leeway = leeway
        self._where = keys if isinstance(keys, str) else None
        self._fixed = None if keys is None or isinstance(keys, str) else _listed(keys)
        self._keys: list[dict[str, Any]] = self._fixed or []
        self._fetched = 0.0
        self._fetching: asyncio.Lock | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_fetching": None, "_fetched": 0.0}

    async def _claims(self, token: bytes) -> tuple[dict[str, Any], float]:
        import jwt

        try:
            head = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise InvalidTokenError(str(error)) from None
        algorithm, number = head.get("alg"), head.get("kid")
        if algorithm not in self.algorithms:
            raise InvalidTokenError(f"the signature {algorithm!r} is not accepted")
        failure = "there is no key for it"
        for each in await self._fitting(number):
            try:
                key = jwt.PyJWK(each, algorithm=each.get("alg") or algorithm)
                claims: dict[str, Any] = jwt.decode(
                    token, key, algorithms=[algorithm], audience=self.audience, issuer=self.issuer,
                    leeway=self.leeway, options={"require": ["exp", "iss", "aud"]},
                )  # fmt: skip
            except (jwt.InvalidTokenError, jwt.PyJWKError, jwt.InvalidKeyError) as error:
                failure = str(error)
                continue
            return claims, min(float(claims["exp"]) + self.leeway, time.time() + SEEN)
        raise InvalidTokenError(failure)

    async def _fitting(self, number: object) -> list[dict[str, Any]]:
        """Keys with this number, fetched anew if there is none; all of them for a token that names none."""
        found = self._with(number)
        if found or self._fixed is not None:
            return found
        self._fetching = self._fetching or asyncio.Lock()
        async with self._fetching:
            found = self._with(number)
            if not found and time.monotonic() - self._fetched > AGAIN:
                await self._fetch()
                found = self._with(number)
        return found

    def _with(self, number: object) -> list[dict[str, Any]]:
        return [key for key in self._keys if number is None or key.get("kid") == number]

    async def _fetch(self) -> None:
        if self._where is None:
            where = (await metadata(self.issuer)).get("jwks_uri")
            if not isinstance(where, str):
                raise AuthorityError(f"the metadata of {self.issuer} name no jwks_uri")
            self._where = where
        try:
            self._keys = _listed(await ask(self._where))
        except ValueError as error:
            raise AuthorityError(f"{self._where}: {error}") from None
        self._fetched = time.monotonic()


def _listed(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The keys of a set that are for signatures of key pairs."""
    keys = found.get("keys")
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise ValueError("this is no set of JSON Web Keys: {'keys': [...]}")
    return [key for key in keys if key.get("use", "sig") == "sig" and key.get("kty") in ("RSA", "EC", "OKP")]


class Introspection(Verifier):
    """Tokens that say nothing by themselves: the authorization server is asked about each (RFC 7662).

    Args:
        url: where it is asked.
        issuer: the authorization server, as it names itself.
        client_id: this server's name there.
        secret: its secret; or with `env`, nothing.
        env: the environment variable that holds the secret.
        audience: this server, as tokens name it. Default: not looked at; then the authorization server must tell this
            server of no others' tokens.
        scopes: scopes that a token must have, all of them.
        tools, resources, prompts: what its bearer may use; see `Token`.
        fresh: seconds for which an answer is believed.

    Raises:
        ValueError: there is no secret.
    """

    def __init__(
        self,
        url: str,
        issuer: str,
        client_id: str,
        secret: str = "",
        *,
        env: str | None = None,
        audience: str | None = None,
        scopes: Sequence[str] = (),
        tools: Sequence[str] = ALL,
        resources: Sequence[str] = ALL,
        prompts: Sequence[str] | None = None,
        fresh: float = 30.0,
    ) -> None:
        super().__init__(issuer, scopes, Rights(tools, resources, prompts))
        self.url = url
        self.client_id = client_id
        self._secret = secret_of(secret, env, f"the client {client_id!r}")
        self.audience = audience
        self.fresh = fresh

    async def _claims(self, token: bytes) -> tuple[dict[str, Any], float]:
        try:
            text = token.decode("ascii")
        except UnicodeDecodeError:
            raise InvalidTokenError("tokens are ASCII") from None
        found = await ask(self.url, {"token": text, "token_type_hint": "access_token"}, (self.client_id, self._secret))
        until = time.time() + self.fresh
        ends = found.get("exp")
        if isinstance(ends, int | float):
            until = min(until, ends)
        if found.get("active") is not True or until <= time.time():
            raise InvalidTokenError("the token is not active")
        if found.get("iss", self.issuer) != self.issuer:
            raise InvalidTokenError("the token is another issuer's")
        audience = found.get("aud", [])
        if self.audience is not None and self.audience not in ([audience] if isinstance(audience, str) else audience):
            raise InvalidTokenError("the token is for another server")
        return found, until


def secret_of(secret: str, env: str | None, whose: str) -> str:
    """A secret, or that in an environment variable; ValueError if there is none."""
    found = secret or (os.environ.get(env, "") if env else "")
    if not found:
        raise ValueError(f"{whose} needs a secret" + (f" (environment variable {env})" if env else ""))
    return found
