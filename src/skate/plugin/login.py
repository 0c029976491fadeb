"""Logging in to read a service's pages: sessions in signed cookies, and the pages of the login itself.

Nothing is kept between the processes of a service: whatever a login needs is in a cookie of the browser, or derived
from the state in it and a key that only the service has.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from skate.configuration import ConfigError, OAuthConfig
from skate.plugin.auth import Rules, is_strange
from skate.plugin.oidc import LoginError, Provider, ProviderError, may_enter

log = logging.getLogger("skate.plugin")
LOGIN, CALLBACK, LOGOUT = "/oauth/login", "/oauth/callback", "/oauth/logout"
LOGIN_S = 600
"""Seconds to log in."""
MOST_REMEMBERED = 10_000
"""Logins that were finished, sessions that were ended: the oldest are forgotten."""
LONGEST_COOKIE = 4096
SHORTEST_SECRET = 32
"""Letters of a `cookie_secret`."""


class Login:
    """The logins of a service. Raises ConfigError for a table that cannot work, ImportError without joserfc.

    Args:
        config: the table ``[auth.oauth]``.
    """

    def __init__(self, config: OAuthConfig) -> None:
        _check(config)
        try:
            import joserfc  # noqa: F401  missing now rather than when somebody logs in
        except ImportError as error:
            raise ImportError(f'{error}. [auth.oauth] needs: pip install "skate-ray[plugin-oauth]"') from error
        self.config = config
        self.base = config.public_url.rstrip("/")
        self.provider = Provider(config, self.base + CALLBACK)
        secure = self.base.startswith("https://")
        # __Host-: browsers take such a cookie from this host alone, not from one beside or above it
        prefix = "__Host-" if secure else ""
        self.session_cookie, self.login_cookie = f"{prefix}skate_session", f"{prefix}skate_login"
        self._attributes = f"; Path=/; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"
        self._covered = Rules(dict.fromkeys(config.paths, ("a login",)))
        secret = config.cookie_secret or config.client_secret
        # who may enter is part of the key: sessions end when that is changed
        allowed = [config.allow_emails, config.allow_domains, config.allow_claims, config.allow_everyone]
        told = json.dumps([config.issuer, config.client_id, allowed], sort_keys=True)
        self._key = hmac.new(secret.encode(), told.encode(), hashlib.sha256).digest()
        self._finished: dict[str, float] = {}
        self._ended: dict[str, float] = {}

    # ------------------------------------------------------------------ for the gate

    def covers(self, path: str) -> bool:
        """Whether a login opens a path."""
        return self._covered.keys(path) is not None

    def owns(self, path: str) -> bool:
        """Whether a path belongs to the login itself, which nobody needs a key for."""
        return path in (LOGIN, CALLBACK, LOGOUT)

    def admits(self, scope: Mapping[str, Any]) -> bool:
        """Whether a request has a session, and only reads: nobody else's page can have it change anything."""
        return scope["method"] in ("GET", "HEAD") and self.session(scope["headers"]) is not None

    def session(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, Any] | None:
        """The session of a request; None: it has none that is valid."""
        found = self._cookie(headers, self.session_cookie, "session")
        return None if found is None or found.get("id") in self._ended else found

    def turned_away(self, scope: Mapping[str, Any], path: str) -> tuple[int, str, list[tuple[bytes, bytes]]]:
        """What a request without a session is answered: status, text, headers. People are sent to log in."""
        headers = dict(scope["headers"])
        reads = scope["method"] in ("GET", "HEAD")
        if reads and b"text/html" in headers.get(b"accept", b"") and headers.get(b"sec-fetch-mode") != b"cors":
            query = scope.get("query_string", b"").decode("latin-1")
            wanted = quote(path + ("?" + query if query else ""), safe="/")
            return 303, "A login is needed.", [(b"location", f"{self.base}{LOGIN}?next={wanted}".encode()), NO_STORE]
        text = f"A login is needed: open {self.base}{LOGIN} in a browser, or send a key"
        return 401, text, [(b"www-authenticate", b"Bearer"), NO_STORE]

    # ------------------------------------------------------------------ pages

    async def login(self, request: Any) -> Any:
        """Send somebody to the provider."""
        state = secrets.token_urlsafe(32)
        try:
            url = await self.provider.address(state, *self._derived(state))
        except ProviderError as error:
            return self._provider_failed(error)
        kept = {"state": state, "next": self._next(request.query_params.get("next", "")), "until": _now() + LOGIN_S}
        return self._redirect(url, self._set(self.login_cookie, self._signed(kept, "login"), LOGIN_S))

    async def callback(self, request: Any) -> Any:
        """Somebody comes back from the provider."""
        begun = self._cookie(request.scope["headers"], self.login_cookie, "login")
        try:
            code, state, after = self._answer(request, begun)
            nonce, verifier = self._derived(state)
            claims = await self.provider.claims(code, nonce, verifier)
            who = str(claims.get("email") or claims["sub"])
            if not may_enter(self.config, claims):
                log.warning("login: %r may not enter", who)
                raise LoginError(f"{who} may not enter here.", 403)
        except ProviderError as error:
            return self._provider_failed(error)
        except LoginError as error:
            log.warning("login failed: %s", error)
            return self._page(error.status, "Not logged in", str(error))
        seconds = self.config.session_seconds
        session = {"id": secrets.token_urlsafe(16), "who": who, "until": _now() + seconds}
        log.info("login: %r", who)
        return self._redirect(
            self.base + after,
            self._set(self.session_cookie, self._signed(session, "session"), seconds),
            self._set(self.login_cookie, "", 0),
        )

    async def logout(self, request: Any) -> Any:
        """End a session; a GET asks whether that is meant."""
        if request.method != "POST":
            button = f'<form method="post" action="{html.escape(self.base + LOGOUT)}"><button>Log out</button></form>'
            return self._page(200, "Log out?", "", button)
        origin = request.headers.get("origin")
        if origin is not None and origin != _origin(self.base):
            return self._page(403, "Not logged out", "Another site has asked for it.")
        session = self.session(request.scope["headers"])
        if session is not None:
            _remember(self._ended, str(session["id"]), session["until"])
        answer = self._page(200, "Logged out", "")
        answer.headers.append("set-cookie", self._set(self.session_cookie, "", 0))
        return answer

    def _answer(self, request: Any, begun: dict[str, Any] | None) -> tuple[str, str, str]:
        """Code, state, and where to go then, of an answer of the provider that belongs to a login of this browser."""
        given: dict[str, str] = {}
        for name, value in request.query_params.multi_items():
            if name in given:
                raise LoginError(f"The provider's answer has two of {name!r}.")
            given[name] = value
        if begun is None:
            raise LoginError("This login was not begun in this browser, or too long ago.")
        state = str(begun["state"])
        if not hmac.compare_digest(given.get("state", "").encode(), state.encode()):
            raise LoginError("This is the answer to another login.")
        if state in self._finished:
            raise LoginError("This login is finished already.")
        if "iss" in given and given["iss"].rstrip("/") != self.config.issuer.rstrip("/"):
            raise LoginError("This is the answer of another provider.")
        _remember(self._finished, state, begun["until"])
        if "error" in given:
            if given["error"] in ("server_error", "temporarily_unavailable"):
                raise ProviderError(f"it says {given['error']}", 503)
            raise LoginError(f"The provider says: {given['error'][:100]}", 403)
        if not given.get("code"):
            raise LoginError("The provider's answer has no code.")
        return given["code"], state, str(begun["next"])

    def _next(self, wanted: str) -> str:
        """Where to go after the login: a page that it opens, and nowhere else."""
        path = wanted.partition("?")[0]
        plain = wanted.startswith("/") and wanted.isascii() and wanted.isprintable() and " " not in wanted
        if plain and not is_strange(path) and "%" not in path and "#" not in wanted and self.covers(path):
            return wanted
        return next(path for path in (*self.config.paths, "/") if not path.endswith("*"))

    def _provider_failed(self, error: ProviderError) -> Any:
        log.error("login: the provider failed: %s", error)
        page = self._page(error.status, "The login does not work at the moment", f"The provider fails: {error}.")
        if error.status == 503:
            page.headers["retry-after"] = "10"
        return page

    def _page(self, status: int, title: str, text: str, more: str = "") -> Any:
        from starlette.responses import HTMLResponse

        body = (
            f"<!doctype html><title>{html.escape(title)}</title><h1>{html.escape(title)}</h1>"
            f"<p>{html.escape(text)}</p>{more}<p><a href='{html.escape(self.base + LOGIN)}'>Log in</a></p>"
        )
        headers = {
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
            "content-security-policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
        }
        return HTMLResponse(body, status, headers)

    def _redirect(self, url: str, *cookies: str) -> Any:
        from starlette.responses import Response

        answer = Response(status_code=303, headers={"cache-control": "no-store", "referrer-policy": "no-referrer"})
        answer.headers["location"] = url
        for cookie in cookies:
            answer.headers.append("set-cookie", cookie)
        return answer

    # ------------------------------------------------------------------ cookies

    def _derived(self, state: str) -> tuple[str, str]:
        """Nonce and PKCE verifier of a login."""
        return tuple(_base64(self._mac(f"{what} {state}".encode())) for what in ("nonce", "verifier"))  # type: ignore[return-value]

    def _mac(self, data: bytes) -> bytes:
        return hmac.new(self._key, data, hashlib.sha256).digest()

    def _signed(self, value: Mapping[str, Any], purpose: str) -> str:
        body = _base64(json.dumps(value, separators=(",", ":")).encode())
        return f"{body}.{_base64(self._mac(f'{purpose}.{body}'.encode()))}"

    def _cookie(self, headers: Iterable[tuple[bytes, bytes]], name: str, purpose: str) -> dict[str, Any] | None:
        """What is in a cookie that was signed here for this purpose, and whose time is not up."""
        start = name.encode() + b"="
        for header, line in headers:
            for part in line.split(b";") if header == b"cookie" else ():
                text = part.strip()
                if text.startswith(start) and len(text) <= LONGEST_COOKIE:
                    found = self._opened(text[len(start) :].decode("latin-1"), purpose)
                    if found is not None:
                        return found
        return None

    def _opened(self, text: str, purpose: str) -> dict[str, Any] | None:
        body, _, mac = text.partition(".")
        wanted = _base64(self._mac(f"{purpose}.{body}".encode()))
        if not hmac.compare_digest(wanted.encode(), mac.encode()):
            return None
        value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return value if value["until"] > _now() else None

    def _set(self, name: str, value: str, seconds: int) -> str:
        return f"{name}={value}; Max-Age={seconds}{self._attributes}"


NO_STORE = (b"cache-control", b"private, no-store")
Page = Callable[[Any], Awaitable[Any]]


def make_login(config: OAuthConfig) -> Login | None:
    """The logins that are configured; None: nobody logs in."""
    if config.issuer:
        return Login(config)
    if config != OAuthConfig():
        raise ConfigError("[auth.oauth] needs an issuer: the URL of an OpenID Connect provider")
    return None


def _check(config: OAuthConfig) -> None:
    def need(right: bool, text: str) -> None:
        if not right:
            raise ConfigError(f"[auth.oauth] {text}")

    need(bool(config.client_id), "needs client_id")
    need(_is_base(config.public_url), "needs public_url: what browsers call this service by, as in https://x.example")
    need(bool(config.client_secret or config.cookie_secret), "needs client_secret or, without one, cookie_secret")
    long_enough = not config.cookie_secret or len(config.cookie_secret) >= SHORTEST_SECRET
    need(long_enough, f"cookie_secret must have {SHORTEST_SECRET} letters or more")
    need("openid" in config.scopes, "scopes must have 'openid'")
    someone = config.allow_emails or config.allow_domains or config.allow_claims or config.allow_everyone
    need(bool(someone), "says of nobody that he may enter: allow_emails, allow_domains, allow_claims, allow_everyone")
    need(bool(config.paths), "paths is empty")
    for path in config.paths:
        need(
            path.startswith("/") and "*" not in path[:-1], f"paths: {path!r} must be a path, or one with '*' at its end"
        )
    for path in (LOGIN, CALLBACK, LOGOUT):
        need(path not in config.paths, f"paths: {path} cannot be behind the login that it is part of")


def _is_base(url: str) -> bool:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return good and not (parts.query or parts.fragment or parts.username or "\\" in url) and url.isprintable()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _remember(table: dict[str, float], name: str, until: float) -> None:
    if len(table) >= MOST_REMEMBERED:
        now = _now()
        for each in [each for each, end in table.items() if end <= now] or [next(iter(table))]:
            del table[each]
    table[name] = until


def _now() -> float:
    return time.time()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
