"""How a gateway shows servers who it is: tokens that it gets from their authorization server (OAuth 2.1)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from skate.serve.mcp.authority import AuthorityError, ask, metadata
from skate.serve.mcp.bearer import secret_of
from skate.serve.mcp.links import Headers, Link, LinkError, Response, UnreachableError

logger = logging.getLogger("skate.serve.mcp")

EARLY = 30.0
"""Seconds before its end at which a token is replaced."""
UNTOLD = 300.0
"""Seconds that a token is used whose end is not told."""


class ClientCredentials:
    """A program's own tokens (the grant `client_credentials`).

    Args:
        client_id: the gateway's name at the authorization server.
        secret: its secret; or with `env`, nothing.
        env: the environment variable that holds the secret.
        token_url: where tokens are given. Default: where the issuer's metadata say.
        issuer: the authorization server, where `token_url` is not given.
        scopes: scopes to ask for.
        resource: the server that the tokens are for (RFC 8707). Default: its URL.
        in_body: send the secret in the form instead of the Authorization header.

    Raises:
        ValueError: there is no secret; neither `token_url` nor `issuer`.
    """

    def __init__(
        self,
        client_id: str,
        secret: str = "",
        *,
        env: str | None = None,
        token_url: str | None = None,
        issuer: str | None = None,
        scopes: Sequence[str] = (),
        resource: str | None = None,
        in_body: bool = False,
    ) -> None:
        if isinstance(scopes, str):
            raise TypeError("scopes is a list")
        if token_url is None and issuer is None:
            raise ValueError("credentials need a token_url or an issuer")
        self.client_id = client_id
        self._secret = secret_of(secret, env, f"the client {client_id!r}")
        self._token_url = token_url
        self._issuer = issuer
        self._scopes = tuple(scopes)
        self._resource = resource
        self._in_body = in_body

    async def get(self, server: str) -> tuple[str, float]:
        """A new token for the server at this URL, and the seconds for which it is to be used; AuthorityError."""
        url = self._token_url
        if url is None:
            found = (await metadata(str(self._issuer))).get("token_endpoint")
            if not isinstance(found, str):
                raise AuthorityError(f"the metadata of {self._issuer} name no token_endpoint")
            url = self._token_url = found
        form = {"grant_type": "client_credentials", "resource": self._resource or server}
        if self._scopes:
            form["scope"] = " ".join(self._scopes)
        basic = (self.client_id, self._secret)
        if self._in_body:
            form |= {"client_id": self.client_id, "client_secret": self._secret}
        answer: dict[str, Any] = await ask(url, form, None if self._in_body else basic)
        token, kind, ends = answer.get("access_token"), answer.get("token_type"), answer.get("expires_in")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
            raise AuthorityError(f"{url}: the answer has no access_token")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise AuthorityError(f"{url}: the token is of the type {kind!r}, not a bearer token")
        known = isinstance(ends, int | float) and not isinstance(ends, bool)
        return token, max(ends - EARLY, ends / 2) if known and ends is not None else UNTOLD


class AuthorizedLink:
    """A link whose requests carry a token, which is replaced before it ends and when the server refuses it."""

    def __init__(self, link: Link, server: str, credentials: ClientCredentials) -> None:
        self._link = link
        self._server = server
        self._credentials = credentials
        self._token = ""
        self._until = 0.0
        self._getting = asyncio.Lock()

    async def open(self, method: str, headers: Headers, body: bytes = b"") -> Response:
        token = await self._current()
        response = await self._send(token, method, headers, body)
        if response.status != 401:
            return response
        response.release()
        if self._token == token:  # nobody else has replaced it meanwhile
            self._until = 0.0
        return await self._send(await self._current(), method, headers, body)  # what got a 401 was not carried out

    async def _send(self, token: str, method: str, headers: Headers, body: bytes) -> Response:
        return await self._link.open(method, (*headers, (b"authorization", f"Bearer {token}".encode())), body)

    async def _current(self) -> str:
        if time.monotonic() < self._until:
            return self._token
        async with self._getting:
            if time.monotonic() >= self._until:
                try:
                    self._token, seconds = await self._credentials.get(self._server)
                except AuthorityError as error:
                    raise UnreachableError(f"no token for {self._server}: {error}") from error
                except ValueError as error:
                    raise LinkError(f"no token for {self._server}: {error}") from error
                self._until = time.monotonic() + seconds
        return self._token

    async def close(self) -> None:
        await self._link.close()
