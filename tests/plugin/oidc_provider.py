"""An OpenID Connect provider for tests: real keys, on loopback, and as wrong as a test wants it to be."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

from joserfc import jwk, jwt

CLIENT_ID, CLIENT_SECRET = "skate-docs", "s3same/open+now"


class OidcProvider:
    """Lets `who` in at once, whoever asks. What tests change: `who`, `claims`, `headers`, `signer`, `broken`."""

    def __init__(self) -> None:
        self.key = jwk.RSAKey.generate_key(2048, {"kid": "one", "use": "sig"}, private=True)
        self.published = [self.key]
        self.codes: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        """Paths that were asked for."""
        self.reset()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.answer(self, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                provider.answer(self, {name: each[0] for name, each in parse_qs(body).items()})

            def log_message(self, *_: Any) -> None:
                """Tests are quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def reset(self) -> None:
        """Be as a provider should be."""
        self.who: dict[str, Any] = {"sub": "u1", "email": "ada@example.org", "email_verified": True}
        self.claims: dict[str, Any] = {}
        self.headers: dict[str, Any] = {}
        self.signer: Any = None
        self.broken: dict[str, tuple[int, bytes]] = {}
        self.document: dict[str, Any] = {}
        self.slow = ""
        self.more: dict[str, Any] = {}
        self.published = [self.key]
        self.asked.clear()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)

    def answer(self, request: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        path, _, query = request.path.partition("?")
        self.asked.append(path)
        given = {name: each[0] for name, each in parse_qs(query).items()}
        status, headers, body = 200, {"content-type": "application/json"}, b"{}"
        if path == self.slow:
            time.sleep(1)
        if path in self.broken:
            status, body = self.broken[path]
        elif path == "/.well-known/openid-configuration":
            body = json.dumps(self.discovery()).encode()
        elif path == "/jwks":
            body = json.dumps({"keys": [key.as_dict(private=False) for key in self.published]}).encode()
        elif path == "/authorize":
            status, headers = 302, {"location": self.authorize(given)}
        elif path == "/userinfo":
            body = json.dumps({"sub": self.who["sub"], **self.more}).encode()
        elif path == "/token":
            status, found = self.token(form, request.headers.get("authorization", ""))
            body = json.dumps(found).encode()
        request.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            **self.document,
        }

    def authorize(self, given: dict[str, str]) -> str:
        assert given["response_type"] == "code" and given["client_id"] == CLIENT_ID
        assert given["code_challenge_method"] == "S256" and "openid" in given["scope"].split()
        code = secrets.token_urlsafe(8)
        self.codes[code] = given
        return given["redirect_uri"] + "?" + urlencode({"code": code, "state": given["state"], "iss": self.issuer})

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        scheme, _, pair = authorization.partition(" ")
        name, _, secret = base64.b64decode(pair).decode().partition(":")
        if scheme != "Basic" or (unquote(name), unquote(secret)) != (CLIENT_ID, CLIENT_SECRET):
            return 401, {"error": "invalid_client"}
        begun = self.codes.pop(form.get("code", ""), None)  # a code is good for once
        hashed = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = _base64(hashed)
        if begun is None or begun["code_challenge"] != challenge or begun["redirect_uri"] != form["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": begun["nonce"]}
        claims |= self.who | self.claims
        headers = {"alg": "RS256", "kid": "one"} | self.headers
        if headers["alg"] in ("none", "HS256"):  # no library signs so
            token = ".".join(_base64(json.dumps(part).encode()) for part in (headers, claims))
            key = self.key.as_pem(private=False)  # the public one, taken for a shared one
            signature = hmac.new(key, token.encode(), hashlib.sha256).digest() if headers["alg"] == "HS256" else b""
            token += "." + _base64(signature)
        else:
            token = jwt.encode(headers, claims, self.signer or self.key, algorithms=[headers["alg"]])
        return 200, {"access_token": "at-secret", "token_type": "Bearer", "id_token": token}


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
