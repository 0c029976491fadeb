"""An OpenID Connect provider, as a service sees it that lets people log in there.

Authorization code flow with PKCE (OpenID Connect Core 1.0, RFC 7636, RFC 9207). Signatures are checked by joserfc.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from skate.configuration import ConfigError, OAuthConfig

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
"""Signatures that are taken: those that only the provider can make."""
LEEWAY_S = 60
"""Seconds by which the provider's clock may differ."""
FRESH_S = 3600
"""Seconds for which the discovery document and the keys are remembered."""
AGAIN_S = 10
"""Seconds until the keys are asked for again because of a key that is not among them."""
LONGEST = 1 << 20
"""Bytes of an answer at most."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ProviderError(Exception):
    """The provider does not do its part. `status`: 503 where it cannot be reached, 502 where it talks nonsense."""

    def __init__(self, message: str, status: int = 502) -> None:
        self.status = status
        super().__init__(message)


class LoginError(Exception):
    """Somebody cannot be let in. `status`: 400, or 403."""

    def __init__(self, message: str, status: int = 400) -> None:
        self.status = status
        super().__init__(message)


class Provider:
    """The provider that a service trusts. Raises ConfigError for a table that cannot work.

    Args:
        config: the table ``[auth.oauth]``.
        redirect_uri: where the provider sends people back to.
    """

    def __init__(self, config: OAuthConfig, redirect_uri: str) -> None:
        if not is_safe(config.issuer):
            raise ConfigError("[auth.oauth] issuer must be an https:// URL (http:// is taken for loopback alone)")
        self.config = config
        self.redirect_uri = redirect_uri
        self._document: dict[str, Any] = {}
        self._read = 0.0
        self._keys: list[dict[str, Any]] = []
        self._keys_read = 0.0
        self._ssl: Any = None

    async def document(self) -> dict[str, Any]:
        """The discovery document. Raises ProviderError."""
        if self._document and time.monotonic() - self._read < FRESH_S:
            return self._document
        url = self.config.issuer.rstrip("/") + "/.well-known/openid-configuration"
        status, found = await self._ask("GET", url)
        if status != 200 or not isinstance(found, dict):
            raise ProviderError(f"its discovery document was answered with {status}")
        if str(found.get("issuer", "")).rstrip("/") != self.config.issuer.rstrip("/"):
            raise ProviderError("its discovery document is that of another issuer")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not is_safe(found.get(name)):
                raise ProviderError(f"its discovery document has no {name} that can be trusted")
        self._document, self._read = found, time.monotonic()
        return found

    async def address(self, state: str, nonce: str, verifier: str) -> str:
        """The URL at which somebody logs in. Raises ProviderError."""
        endpoint = (await self.document())["authorization_endpoint"]
        challenge = _base64(hashlib.sha256(verifier.encode()).digest())
        asked = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": " ".join(self.config.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

    async def claims(self, code: str, nonce: str, verifier: str) -> dict[str, Any]:
        """Who it is that came back with a code: the checked claims of the ID token.

        Raises LoginError for a code or token that cannot be taken, ProviderError.
        """
        document = await self.document()
        status, answer = await self._exchange(document, code, verifier)
        if status >= 500:
            raise ProviderError(f"the code was answered with {status}")
        if status != 200:
            # invalid_grant: used before, too old, or somebody else's
            raise LoginError("The provider does not take this code: it was used before, or is too old.")
        if not isinstance(answer, dict) or not isinstance(answer.get("id_token"), str):
            raise ProviderError("it gave no ID token")
        found = await self._verified(document, answer["id_token"])
        check_claims(found, document["issuer"], self.config.client_id, nonce, time.time())
        if self._lacks(found) and is_safe(document.get("userinfo_endpoint")):
            found = await self._more(document["userinfo_endpoint"], answer.get("access_token"), found)
        return found

    def _lacks(self, claims: Mapping[str, Any]) -> bool:
        """Whether a claim that decides is not in the ID token."""
        config = self.config
        wanted = {*config.allow_claims}
        if config.allow_emails or config.allow_domains:
            wanted |= {"email", "email_verified"}
        return not wanted <= claims.keys()

    async def _more(self, url: str, token: Any, claims: dict[str, Any]) -> dict[str, Any]:
        status, found = await self._ask("GET", url, headers={"authorization": f"Bearer {token}"})
        if status != 200 or not isinstance(found, dict):
            raise ProviderError(f"its user information was answered with {status}")
        if found.get("sub") != claims["sub"]:
            raise LoginError("The provider tells of another user.")
        return {**found, **claims}

    async def _exchange(self, document: Mapping[str, Any], code: str, verifier: str) -> tuple[int, Any]:
        config = self.config
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": verifier,
        }
        headers = {"accept": "application/json"}
        ways = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if not config.client_secret:
            form["client_id"] = config.client_id
        elif "client_secret_basic" not in ways and "client_secret_post" in ways:
            form |= {"client_id": config.client_id, "client_secret": config.client_secret}
        else:  # RFC 6749, 2.3.1: both are encoded as in a form, ahead of Basic
            pair = f"{quote(config.client_id, safe='')}:{quote(config.client_secret, safe='')}"
            headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        return await self._ask("POST", document["token_endpoint"], headers=headers, form=form)

    async def _verified(self, document: Mapping[str, Any], token: str) -> dict[str, Any]:
        """The claims of a token that the provider has signed."""
        kid = _header(token).get("kid")
        for anew in (False, True):
            keys = await self._signing_keys(document, anew)
            fitting = [key for key in keys if kid is None or key.get("kid") == kid]
            for key in fitting:
                claims = _opened(token, key)
                if claims is not None:
                    return claims
            if fitting and kid is not None:
                break
        raise LoginError("The ID token is not signed by the provider.")

    async def _signing_keys(self, document: Mapping[str, Any], anew: bool) -> list[dict[str, Any]]:
        age = time.monotonic() - self._keys_read
        if self._keys and age < (AGAIN_S if anew else FRESH_S):
            return self._keys
        status, found = await self._ask("GET", document["jwks_uri"])
        if status != 200 or not isinstance(found, dict) or not isinstance(found.get("keys"), list):
            raise ProviderError(f"its keys were answered with {status}")
        kinds = ("RSA", "EC", "OKP")  # none that is shared
        self._keys = [
            each
            for each in found["keys"]
            if isinstance(each, dict) and each.get("kty") in kinds and each.get("use", "sig") == "sig"
        ]
        self._keys_read = time.monotonic()
        return self._keys

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, form: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status, and what is in the answer as JSON (None: it is none)."""
        import httpx2 as httpx

        body = b""
        if self._ssl is None:  # reading certificates takes tens of milliseconds
            self._ssl = await asyncio.to_thread(httpx.create_ssl_context)
        try:
            async with (
                asyncio.timeout(self.config.timeout),  # for all of it: httpx counts from byte to byte
                httpx.AsyncClient(timeout=self.config.timeout, follow_redirects=False, verify=self._ssl) as client,
                client.stream(method, url, headers=headers, data=form) as answer,
            ):
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > LONGEST:
                        raise ProviderError("its answer is too long")
        except (httpx.TransportError, TimeoutError) as error:
            raise ProviderError(f"it cannot be reached ({type(error).__name__})", 503) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ProviderError(f"it cannot be understood ({type(error).__name__})") from None
        try:
            return answer.status_code, json.loads(body)
        except ValueError:
            return answer.status_code, None


def check_claims(claims: Mapping[str, Any], issuer: str, client_id: str, nonce: str, now: float) -> None:
    """LoginError unless an ID token is from this issuer, for this client and this login, and of now. Pure."""
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    given = claims.get("nonce")
    wrong = ""
    if claims.get("iss") != issuer:
        wrong = "it is another issuer's"
    elif client_id not in audiences or any(not isinstance(each, str) for each in audiences):
        wrong = "it is for somebody else"
    elif (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != client_id:
        wrong = "it was given to somebody else"
    elif not isinstance(given, str) or not hmac.compare_digest(given.encode(), nonce.encode()):
        wrong = "it is that of another login"
    elif not isinstance(claims.get("sub"), str) or not claims["sub"]:
        wrong = "it names nobody"
    elif not _is_time(claims.get("exp")) or claims["exp"] <= now - LEEWAY_S:
        wrong = "it has expired"
    elif not _is_time(claims.get("iat")) or claims["iat"] > now + LEEWAY_S:
        wrong = "it is not from now"
    elif "nbf" in claims and (not _is_time(claims["nbf"]) or claims["nbf"] > now + LEEWAY_S):
        wrong = "it is not valid yet"
    if wrong:
        raise LoginError(f"The ID token cannot be taken: {wrong}.")


def may_enter(config: OAuthConfig, claims: Mapping[str, Any]) -> bool:
    """Whether somebody is let in: by address, by its domain, or by claims. Pure."""
    if config.allow_everyone:
        return True
    email = claims.get("email")
    if isinstance(email, str) and claims.get("email_verified") in (True, "true") and email.count("@") == 1:
        email = email.lower()
        if email in {each.lower() for each in config.allow_emails}:
            return True
        if email.rpartition("@")[2] in {each.lower().lstrip("@") for each in config.allow_domains}:
            return True
    return bool(config.allow_claims) and all(
        _has(claims.get(name), values) for name, values in config.allow_claims.items()
    )


def _has(claim: Any, values: list[str]) -> bool:
    return any(isinstance(each, str) and each in values for each in (claim if isinstance(claim, list) else [claim]))


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_safe(url: Any) -> bool:
    """Whether what comes from a URL is from whom it names: https, or this machine."""
    if not isinstance(url, str) or not url.isprintable():
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK))


def _header(token: str) -> dict[str, Any]:
    head = token.partition(".")[0]
    try:
        found = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LoginError("The ID token cannot be read.")
    return found


def _opened(token: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The claims of a token, if this key has signed it."""
    from joserfc import jwk, jwt
    from joserfc.errors import JoseError

    public = {name: value for name, value in key.items() if name not in ("key_ops", "x5c")}
    try:
        claims = jwt.decode(token, jwk.import_key(public), algorithms=list(ALGORITHMS)).claims
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return dict(claims) if isinstance(claims, dict) else None


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
