"""Questions to an authorization server: one request, one small object of JSON."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from skate.serve.mcp import messages
from skate.serve.mcp.links import LinkError, whole
from skate.serve.mcp.messages import RpcError
from skate.serve.mcp.web import WebLink

PATIENCE = 10.0
"""Seconds that an answer may take."""
LARGEST = 1 << 20
"""Bytes of an answer."""


class AuthorityError(ConnectionError):
    """The authorization server cannot be reached, refuses, or answers what is no answer."""


async def ask(url: str, form: Mapping[str, str] | None = None, basic: tuple[str, str] | None = None) -> dict[str, Any]:
    """The object at an address (GET), or what it answers to a form (POST).

    Args:
        url: where.
        form: fields to send.
        basic: a client's id and secret for the Authorization header, as RFC 6749 (2.3.1) has them encoded.

    Raises:
        AuthorityError: there is no such answer. Its text has neither the form nor the secret.
    """
    headers = [(b"accept", b"application/json")]
    body = b""
    if form is not None:
        headers.append((b"content-type", b"application/x-www-form-urlencoded"))
        body = urlencode(form).encode()
    if basic is not None:
        pair = ":".join(quote(part, safe="") for part in basic)
        headers.append((b"authorization", b"Basic " + base64.b64encode(pair.encode())))
    link = WebLink(url)
    try:
        async with asyncio.timeout(PATIENCE):
            response = await link.open("GET" if form is None else "POST", headers, body)
            answer = await whole(response, LARGEST)
            status = response.status
    except TimeoutError:
        raise AuthorityError(f"{url}: no answer in {PATIENCE:g} s") from None
    except LinkError as error:
        raise AuthorityError(f"{url}: {error}") from error
    finally:
        await link.close()
    found: Any = None
    with contextlib.suppress(RpcError):
        found = messages.decode(answer)
    if status != 200:
        why = f": {found['error']}" if isinstance(found, dict) and isinstance(found.get("error"), str) else ""
        raise AuthorityError(f"{url}: HTTP {status}{why}")
    if not isinstance(found, dict):
        raise AuthorityError(f"{url}: the answer is no object of JSON")
    return found


async def metadata(issuer: str) -> dict[str, Any]:
    """What an authorization server tells of itself (RFC 8414, or OpenID Connect Discovery).

    Raises:
        AuthorityError: it tells nothing, or calls itself something else.
    """
    parts = urlsplit(issuer)
    base, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    failures = []
    for url in (
        f"{base}/.well-known/oauth-authorization-server{path}",
        f"{base}/.well-known/openid-configuration{path}",
        f"{base}{path}/.well-known/openid-configuration",
    ):
        try:
            found = await ask(url)
        except AuthorityError as error:
            failures.append(str(error))
            continue
        if found.get("issuer") != issuer:
            raise AuthorityError(f"{url}: it is the metadata of {found.get('issuer')!r}, not of {issuer!r}")
        return found
    raise AuthorityError("; ".join(failures))
