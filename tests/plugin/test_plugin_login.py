"""Logging in to read the pages of a service, against a provider with real keys."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("joserfc", reason="logins need the extra `plugin-oauth`")

import httpx
from fastapi.testclient import TestClient
from joserfc import jwk
from oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProvider
from plugin_services import Write, data

from skate.configuration import ConfigError, load_with_origins, shown
from skate.plugin import login as login_module
from skate.plugin import run

BASE = "http://testserver"
HTML = {"accept": "text/html,*/*"}
PLUGIN = """
@on_register()
class P(BasePlugin):
    @on_request("/open", methods=["GET", "POST"])
    async def open(self) -> str: return "open"
"""
PAGES = ["/docs", "/redoc", "/api/v1/openapi.json"]


@pytest.fixture(scope="module")
def running() -> Iterator[OidcProvider]:
    made = OidcProvider()
    yield made
    made.close()


@pytest.fixture
def provider(running: OidcProvider) -> OidcProvider:
    running.reset()
    return running


def settings(provider: OidcProvider, **more: Any) -> dict[str, Any]:
    table = {
        "issuer": provider.issuer,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "public_url": BASE,
        "allow_emails": ["Ada@example.org"],
        **more,
    }
    return {f"auth.oauth.{name}": value for name, value in table.items()}


@pytest.fixture
def service(write: Write, provider: OidcProvider) -> Any:
    write(p=PLUGIN)

    def make(base: str = BASE, rules: Any = None, **more: Any) -> TestClient:
        flags = settings(provider, **({"public_url": base} | more)) | {"auth.rules": rules or {}}
        app = run(test_mode=True, engine="inline", load_plugins=["p"], strict=True, flags=flags)
        assert app is not None
        return TestClient(app, base_url=base, follow_redirects=False)

    return make


def begin(client: TestClient, page: str = "/docs") -> str:
    """Somebody opens a page; the address at the provider that he is sent to."""
    away = client.get(page, headers=HTML)
    assert away.status_code == 303, away.text
    answer = client.get(away.headers["location"])
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def come_back(address: str) -> str:
    """Logging in at the provider: where it sends the browser then."""
    answer = httpx.get(address, follow_redirects=False)
    assert answer.status_code == 302
    return answer.headers["location"]


def log_in(client: TestClient, page: str = "/docs") -> Any:
    return client.get(come_back(begin(client, page)))


def test_who_has_logged_in_reads_the_pages(service: Any, provider: OidcProvider) -> None:
    with service() as client:
        answer = log_in(client, "/redoc?x=1%202")
        assert (answer.status_code, answer.headers["location"]) == (303, BASE + "/redoc?x=1%202")
        cookie = next(each for each in answer.headers.get_list("set-cookie") if "session" in each)
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Secure" not in cookie
        assert "ada" not in str(answer.headers["location"])
        for page in PAGES:
            found = client.get(page)
            assert found.status_code == 200 and "no-store" in found.headers["cache-control"]
        assert "/oauth/logout" in client.get("/docs").text
        assert client.get("/docs/").status_code in (200, 307)
        assert client.post("/docs").status_code == 401  # a login only reads


def test_who_has_not_sees_no_page_and_everything_else(service: Any) -> None:
    with service() as client:
        for page in [*PAGES, "/docs/"]:
            assert client.get(page).status_code == 401  # a program is not sent to a login
            assert client.get(page, headers=HTML | {"sec-fetch-mode": "cors"}).status_code == 401
            assert client.get(page, headers=HTML).status_code == 303
        assert data(client.get("/api/v1/open")) == data(client.post("/api/v1/open")) == "open"
        assert client.get("/health").status_code == client.get("/ready").status_code == 200


def test_keys_still_open_pages(service: Any, provider: OidcProvider) -> None:
    rules = {"/docs": ["docs-key"], "/*": ["any-key"]}
    with service(rules=rules) as client:
        provider.broken["/.well-known/openid-configuration"] = (500, b"")
        assert client.get("/docs", headers={"authorization": "docs-key"}).status_code == 200
        assert client.get("/docs", headers={"authorization": "any-key"}).status_code == 401
        assert client.get("/redoc", headers={"authorization": "Bearer any-key"}).status_code == 200
        assert client.get("/api/v1/open").status_code == 401
        provider.broken.clear()
        assert log_in(client).status_code == 303  # nobody needs a key to log in
        assert client.get("/docs").status_code == 200
        assert client.get("/api/v1/open").status_code == 401  # which is not one of the login's
    with service() as client:  # where no rule is, no key fits
        assert client.get("/docs", headers={"authorization": ""}).status_code == 401
        assert client.get("/docs", headers={"authorization": "a login"}).status_code == 401


@pytest.mark.parametrize(
    ("path", "broken", "status", "says"),
    [
        ("/.well-known/openid-configuration", (500, b""), 502, "discovery document was answered with 500"),
        ("/.well-known/openid-configuration", (200, b"<html>"), 502, "discovery document"),
        ("/.well-known/openid-configuration", (200, b'{"issuer": "https://evil"}'), 502, "another issuer"),
        ("/token", (500, b""), 502, "the code was answered with 500"),
        ("/token", (200, b"[]"), 502, "no ID token"),
        ("/jwks", (404, b""), 502, "its keys were answered with 404"),
        ("/jwks", (200, b"x" * (2 << 20)), 502, "too long"),
    ],
)
def test_a_provider_that_fails_is_told_of(
    service: Any, provider: OidcProvider, path: str, broken: tuple[int, bytes], status: int, says: str
) -> None:
    provider.broken[path] = broken
    with service() as client:
        answer = client.get("/oauth/login")
        if answer.status_code == 303:
            answer = client.get(come_back(answer.headers["location"]))
        assert answer.status_code == status and says in answer.text
        assert client.get("/docs").status_code == 401
        provider.broken.clear()
        assert log_in(client).status_code == 303  # nothing of the failure is remembered


def test_a_provider_that_cannot_be_reached_is_503(service: Any) -> None:
    with service(issuer="http://127.0.0.1:9", timeout=2) as client:
        answer = client.get("/oauth/login")
        assert answer.status_code == 503 and "cannot be reached" in answer.text and answer.headers["retry-after"]
        assert data(client.get("/api/v1/open")) == "open"


def test_a_provider_that_does_not_answer_is_503(service: Any, provider: OidcProvider) -> None:
    provider.slow = "/.well-known/openid-configuration"
    with service(timeout=0.2) as client:
        answer = client.get("/oauth/login")
        assert answer.status_code == 503 and "Timeout" in answer.text


@pytest.mark.slow
def test_on_the_local_engine_all_processes_know_who_has_logged_in(
    write: Write, place: Path, provider: OidcProvider
) -> None:
    write(p=PLUGIN)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    flags = settings(provider, public_url=base, paths=["/docs", "/api/v1/open"]) | {"server.port": port}
    command = [sys.executable, "-m", "skate", "plugin", "run", "--engine", "local", "--load-plugins", "p", "--strict"]
    for name, value in flags.items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    process = subprocess.Popen(command, cwd=place)
    try:
        with httpx.Client(base_url=base, timeout=30) as client:
            deadline = time.monotonic() + 60
            while True:
                assert process.poll() is None and time.monotonic() < deadline
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/ready").status_code == 200:
                        break
                time.sleep(0.05)
            assert client.get("/api/v1/open").status_code == client.get("/docs").status_code == 401
            assert log_in(client, "/api/v1/open").headers["location"] == base + "/api/v1/open"
            assert data(client.get("/api/v1/open")) == "open"  # in the plugin's own process
            assert client.get("/docs").status_code == 200  # in the gateway's
            assert client.post("/oauth/logout").status_code == 200
            assert client.get("/api/v1/open").status_code == client.get("/docs").status_code == 401
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_answers_that_belong_to_no_login_are_refused(service: Any, provider: OidcProvider) -> None:
    with service() as client, service() as other:
        back = come_back(begin(client))
        assert other.get(back).status_code == 400  # not begun in this browser
        code, state = (parse_qs(urlsplit(back).query)[name][0] for name in ("code", "state"))
        for query in (
            f"code={code}&state=forged",
            f"code={code}",
            f"code={code}&state={state}&state={state}",
            f"code={code}&state={state}&iss=https://evil.example",
            f"code={code}&state={quote('ü' + state)}",
        ):
            answer = client.get(f"/oauth/callback?{query}")
            assert answer.status_code == 400 and not any(
                "session" in each for each in answer.headers.get_list("set-cookie")
            )
        assert "/token" not in provider.asked  # none of them came as far as the provider
        assert client.get(back).status_code == 303


def test_an_answer_is_taken_once(service: Any, provider: OidcProvider) -> None:
    with service() as client:
        back = come_back(begin(client))
        kept = dict(client.cookies)
        assert client.get(back).status_code == 303
        client.cookies.clear()
        for name, value in kept.items():
            client.cookies.set(name, value, domain="testserver.local")
        again = client.get(back)
        assert again.status_code == 400 and "finished already" in again.text
        code = parse_qs(urlsplit(back).query)["code"][0]
        state = parse_qs(urlsplit(begin(client)).query)["state"][0]
        replayed = client.get(f"/oauth/callback?code={code}&state={state}")
        assert replayed.status_code == 400 and "used before" in replayed.text
        assert client.get("/docs").status_code == 401


def test_who_says_no_at_the_provider_is_not_in(service: Any) -> None:
    with service() as client:
        state = parse_qs(urlsplit(begin(client)).query)["state"][0]
        answer = client.get(f"/oauth/callback?error=access_denied%3Cscript%3E&state={state}")
        assert answer.status_code == 403 and "access_denied&lt;script&gt;" in answer.text
        state = parse_qs(urlsplit(begin(client)).query)["state"][0]
        assert client.get(f"/oauth/callback?error=temporarily_unavailable&state={state}").status_code == 503
        state = parse_qs(urlsplit(begin(client)).query)["state"][0]
        assert client.get(f"/oauth/callback?state={state}").status_code == 400


NOW = int(time.time())


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"aud": "somebody"}, "for somebody else"),
        ({"aud": [CLIENT_ID, "other"]}, "given to somebody else"),
        ({"azp": "other"}, "given to somebody else"),
        ({"nonce": "another"}, "another login"),
        ({"nonce": None}, "another login"),
        ({"exp": NOW - 100}, "expired"),
        ({"exp": None}, "expired"),
        ({"iat": NOW + 9000}, "not from now"),
        ({"nbf": NOW + 9000, "exp": NOW + 9999}, "not valid yet"),
        ({"sub": ""}, "names nobody"),
    ],
)
def test_an_id_token_that_is_not_for_this_login_is_refused(
    service: Any, provider: OidcProvider, claims: dict[str, Any], says: str
) -> None:
    provider.claims = claims
    with service() as client:
        answer = log_in(client)
        assert answer.status_code == 400 and says in answer.text
        assert client.get("/docs").status_code == 401


def test_an_id_token_that_the_provider_has_not_signed_is_refused(service: Any, provider: OidcProvider) -> None:
    stranger = jwk.RSAKey.generate_key(2048, {"kid": "one"}, private=True)
    with service() as client:
        for signer, headers in (
            (stranger, {}),
            (stranger, {"kid": "two"}),
            (None, {"alg": "HS256"}),
            (None, {"alg": "none"}),
        ):
            provider.signer, provider.headers = signer, headers
            answer = log_in(client)
            assert answer.status_code == 400 and "not signed by the provider" in answer.text, headers
        provider.signer, provider.headers = None, {}
        assert log_in(client).status_code == 303


def test_a_provider_may_change_its_keys(service: Any, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skate.plugin.oidc.AGAIN_S", 0)
    with service() as client:
        assert log_in(client).status_code == 303
        client.cookies.clear()
        new = jwk.ECKey.generate_key("P-256", {"kid": "two", "use": "sig"}, private=True)
        provider.signer, provider.headers, provider.published = new, {"kid": "two", "alg": "ES256"}, [new]
        assert log_in(client).status_code == 303


@pytest.mark.parametrize(
    ("rules", "who", "enters"),
    [
        ({"allow_emails": ["ada@example.org"]}, {}, True),
        ({"allow_emails": ["eve@example.org"]}, {}, False),
        ({"allow_emails": ["ada@example.org"]}, {"email_verified": False}, False),
        ({"allow_emails": ["ada@example.org"]}, {"email_verified": None}, False),
        ({"allow_domains": ["example.org"]}, {}, True),
        ({"allow_domains": ["@EXAMPLE.org"]}, {"email": "Ada@Example.Org"}, True),
        ({"allow_domains": ["example.org"]}, {"email": "ada@evil.example.org"}, False),
        ({"allow_domains": ["example.org"]}, {"email": "ada@evil.com@example.org"}, False),
        ({"allow_domains": ["example.org"]}, {"email": "example.org"}, False),
        ({"allow_claims": {"groups": ["dev", "ops"]}}, {"groups": ["x", "ops"]}, True),
        ({"allow_claims": {"groups": ["dev"]}}, {"groups": "dev"}, True),
        ({"allow_claims": {"groups": ["dev"]}}, {"groups": "developers"}, False),
        ({"allow_claims": {"groups": ["dev"], "hd": ["x"]}}, {"groups": ["dev"]}, False),
        ({"allow_everyone": True}, {"email": None}, True),
    ],
)
def test_who_may_enter(
    service: Any, provider: OidcProvider, rules: dict[str, Any], who: dict[str, Any], enters: bool
) -> None:
    provider.who |= who
    with service(**({"allow_emails": []} | rules)) as client:
        answer = log_in(client)
        assert answer.status_code == (303 if enters else 403)
        assert client.get("/docs").status_code == (200 if enters else 401)


def test_what_the_token_lacks_is_asked_for(service: Any, provider: OidcProvider) -> None:
    provider.who = {"sub": "u1"}
    provider.more = {"email": "ada@example.org", "email_verified": True}
    with service() as client:
        assert log_in(client).status_code == 303
    provider.more["sub"] = "somebody else"
    with service() as client:
        answer = log_in(client)
        assert answer.status_code == 400 and "another user" in answer.text


ASTRAY = [
    "https://evil.example/docs", "//evil.example/docs", "/\\evil.example", "\\\\evil", "@evil.example", "/docs x",
    ".evil.example/", "/docs/../../evil", "/docs#@evil", "/docs\r\nSet-Cookie: a=b", "/%2f%2fevil.example", "",
    "/api/v1/open", "javascript:alert(1)", "/oauth/logout", "///evil.example", "/docs\u2028", "http:/evil.example",
]  # fmt: skip


@pytest.mark.parametrize("wanted", ASTRAY)
def test_a_login_leads_back_to_its_own_pages_alone(service: Any, wanted: str) -> None:
    with service() as client:
        sent = client.get("/oauth/login", params={"next": wanted})
        answer = client.get(come_back(sent.headers["location"]))
        assert answer.headers["location"] == BASE + "/docs"


def test_sessions_end_and_cannot_be_forged(
    service: Any, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(client: TestClient, cookie: str) -> int:
        return client.get("/docs", headers={"cookie": f"skate_session={cookie}"}).status_code

    with service(session_seconds=100) as client:
        begin(client)
        begun = client.cookies["skate_login"]
        log_in(client)
        session = client.cookies["skate_session"]
        client.cookies.clear()
        assert reads(client, session) == 200
        body, _, mac = session.partition(".")
        for forged in (begun, body, f"{body}.", f"x{body}.{mac}", f"{body}.{mac}x", "", ".", "a" * 9000, f"e30.{mac}"):
            assert reads(client, forged) == 401, forged
        assert reads(client, f"forged; skate_session={session}") == 200
        real = time.time
        monkeypatch.setattr(login_module, "_now", lambda: real() + 101)
        assert reads(client, session) == 401
        assert client.get("/docs", headers={"cookie": f"skate_session={session}", **HTML}).status_code == 303
        monkeypatch.undo()
        assert reads(client, session) == 200
    for changed in ({"allow_emails": ["eve@example.org"]}, {"client_secret": "another"}):
        with service(**changed) as client:
            assert reads(client, session) == 401


def test_a_login_that_takes_too_long_is_begun_anew(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as client:
        back = come_back(begin(client))
        real = time.time
        monkeypatch.setattr(login_module, "_now", lambda: real() + 601)
        answer = client.get(back)
        assert answer.status_code == 400 and "too long ago" in answer.text


def test_who_logs_out_is_out(service: Any) -> None:
    with service() as client:
        log_in(client)
        session = client.cookies["skate_session"]
        assert "<button>" in client.get("/oauth/logout").text
        assert client.get("/docs").status_code == 200
        assert client.post("/oauth/logout", headers={"origin": "https://evil.example"}).status_code == 403
        assert client.get("/docs").status_code == 200
        assert client.post("/oauth/logout", headers={"origin": BASE}).status_code == 200
        assert "skate_session" not in client.cookies
        kept = {"cookie": f"skate_session={session}"}  # by whoever has a copy
        assert client.get("/docs", headers=kept).status_code == 401


def test_over_https_cookies_are_for_https_alone(service: Any) -> None:
    with service("https://docs.example.org") as client:
        answer = log_in(client)
        assert answer.headers["location"] == "https://docs.example.org/docs"
        for cookie in answer.headers.get_list("set-cookie"):
            assert cookie.startswith("__Host-skate_") and "Secure" in cookie and "Path=/;" in cookie
            assert "Domain" not in cookie
        assert client.get("/docs").status_code == 200


def test_headers_of_others_lead_nobody_astray(service: Any) -> None:
    lies = {
        "host": "evil.example",
        "x-forwarded-host": "evil.example",
        "x-forwarded-proto": "https",
        "x-forwarded-prefix": "/evil",
        "x-original-url": "/api/v1/open",
        "x-rewrite-url": "/api/v1/open",
    }
    with service() as client:
        away = client.get("/docs", headers=HTML | lies)
        assert away.headers["location"] == BASE + "/oauth/login?next=/docs"
        sent = client.get("/oauth/login", headers=lies)
        assert parse_qs(urlsplit(sent.headers["location"]).query)["redirect_uri"] == [BASE + "/oauth/callback"]
        assert "evil" not in sent.headers["location"]
        assert client.get("/docs", headers=lies).status_code == 401


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"issuer": ""}, "needs an issuer"),
        ({"issuer": "http://id.example.org"}, "issuer must be an https:// URL"),
        ({"client_id": ""}, "needs client_id"),
        ({"public_url": ""}, "needs public_url"),
        ({"public_url": "https://u:p@x.example"}, "needs public_url"),
        ({"public_url": "ftp://x"}, "needs public_url"),
        ({"client_secret": ""}, "needs client_secret or"),
        ({"cookie_secret": "hush-hush"}, "32 letters"),
        ({"scopes": ["email"]}, "'openid'"),
        ({"allow_emails": []}, "says of nobody"),
        ({"paths": []}, "paths is empty"),
        ({"paths": ["docs"]}, "must be a path"),
        ({"paths": ["/oauth/login"]}, "part of"),
        ({"alow_emails": ["x"]}, "Did you mean 'allow_emails'"),
        ({"client_secret": ["hush-hush"]}, "not shown here"),
        ({"session_seconds": 0}, "session_seconds"),
    ],
)
def test_a_table_that_cannot_work_is_refused_at_the_start(service: Any, table: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        service(**table)
    assert says in str(caught.value) and "hush-hush" not in str(caught.value) and CLIENT_SECRET not in str(caught.value)


def test_a_missing_extra_is_named(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joserfc", None)
    with pytest.raises(ImportError, match=r'pip install "skate-ray\[plugin-oauth\]"'):
        service()


def test_nothing_of_a_login_is_written_down(
    service: Any, provider: OidcProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with service(cookie_secret="c" * 16 + "ookie-sesame" * 3) as client:
        back = come_back(begin(client))
        code = parse_qs(urlsplit(back).query)["code"][0]
        client.get(back)
        page = client.get("/docs").text
        session = client.cookies["skate_session"]
    lines = "\n".join([page, *(str(vars(record)) for record in caplog.records if record.name.startswith("skate"))])
    for secret in (CLIENT_SECRET, "ookie-sesame", code, session, "at-secret"):
        assert secret not in lines
    assert "ada@example.org" in caplog.text  # who came in
    loaded = load_with_origins(flags=settings(provider))
    assert CLIENT_SECRET not in str(shown(loaded))
