"""Tokens of authorization servers, before the gateway and behind it; and rights that names do not get around."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_peers import HEADERS, Client, calculator, on_loop, program, serving, words
from mcp_types import CreateMessageResult, TextContent

from skate.serve import mcp
from skate.serve.mcp.messages import RpcError
from skate.serve.mcp.rights import Rights

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
RESOURCE = "https://tools.example.com/mcp"
SECRET = "client-secret:with/odd&signs"


def public(key: Any, number: str) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": number, "use": "sig"}


class Issuer:
    """An authorization server, in so far as resource servers and clients see it."""

    def __init__(self) -> None:
        self.url = ""
        self.keys = [public(RSA, "one")]
        self.asked: list[str] = []
        self.known: dict[str, dict[str, Any]] = {}
        self.given = 0
        self.lifetime = 3600.0
        self.down = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        path = scope["path"]
        self.asked.append(path)
        form = {key: values[0] for key, values in parse_qs((await receive()).get("body", b"").decode()).items()}
        status, found = (503, {}) if self.down else self.answer(path, form, dict(scope["headers"]))
        body = json.dumps(found).encode()
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]}
        )
        await send({"type": "http.response.body", "body": body})

    def answer(self, path: str, form: dict[str, str], headers: dict[bytes, bytes]) -> tuple[int, Any]:
        if path == "/.well-known/oauth-authorization-server":
            names = {"jwks_uri": "keys", "token_endpoint": "token", "introspection_endpoint": "look"}
            return 200, {"issuer": self.url, **{name: f"{self.url}/{where}" for name, where in names.items()}}
        if path == "/keys":
            return 200, {"keys": self.keys}
        if path not in ("/token", "/look"):
            return 404, {}
        basic = base64.b64decode(headers.get(b"authorization", b"").partition(b" ")[2]).decode()
        if [unquote(part) for part in basic.split(":")] != ["gateway", SECRET]:
            return 401, {"error": "invalid_client"}
        if path == "/look":
            return 200, self.known.get(form["token"], {"active": False})
        self.given += 1
        return 200, {
            "access_token": self.token(sub="gateway", aud=form["resource"], number=self.given),
            "token_type": "Bearer",
            "expires_in": self.lifetime,
        }

    def token(self, key: Any = RSA, number_of_key: str = "one", algorithm: str = "RS256", **claims: Any) -> str:
        now = time.time()
        said = {"iss": self.url, "aud": RESOURCE, "sub": "ada", "client_id": "ide", "iat": now, "exp": now + 600}
        said = {name: value for name, value in {**said, **claims}.items() if value is not None}
        return jwt.encode(said, key, algorithm, headers={"kid": number_of_key})


def local(url: str) -> str:
    """The address of a server without its path."""
    return url.removesuffix("/mcp")


def asks(http: httpx2.AsyncClient, url: str) -> Callable[..., Any]:
    async def ask(token: str | None, body: Any = INITIALIZE, **headers: str) -> httpx2.Response:
        bearer = {} if token is None else {"authorization": f"Bearer {token}"}
        return await http.post(url, json=body, headers={**bearer, **headers})

    return ask


@pytest.mark.parametrize("kind", ["app", "gateway"])
@on_loop
async def test_only_tokens_for_this_server_that_are_signed_and_valid_open_it(kind: str) -> None:
    issuer = Issuer()
    async with serving(issuer) as behind, httpx2.AsyncClient(headers=HEADERS) as http:
        issuer.url = local(behind)
        access = mcp.Access(verifiers=[mcp.Jwt(issuer.url, RESOURCE)], resource=RESOURCE)
        app = (
            mcp.app(calculator, access=access)
            if kind == "app"
            else mcp.gateway({"a": mcp.app(calculator)}, access=access)
        )
        async with serving(app) as url:
            ask = asks(http, url)
            assert (await ask(issuer.token())).status_code == 200
            assert (await ask(issuer.token(aud=["https://x", RESOURCE], client_id=None))).status_code == 200
            head, body, signature = issuer.token().split(".")
            none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
            wrong = {
                "another's key": issuer.token(OTHER),
                "unknown key": issuer.token(number_of_key="two"),
                "another server's": issuer.token(aud="https://other.example.com/mcp"),
                "a longer audience": issuer.token(aud=RESOURCE + "/x"),
                "no audience": issuer.token(aud=None),
                "another issuer's": issuer.token(iss="https://evil.example"),
                "over": issuer.token(exp=time.time() - 60),
                "without an end": issuer.token(exp=None),
                "not yet": issuer.token(nbf=time.time() + 300),
                "nobody's": issuer.token(sub=None, client_id=None),
                "unsigned": f"{none}.{body}.",
                "a shared secret": jwt.encode({"iss": issuer.url}, "s" * 32, "HS256", headers={"kid": "one"}),
                "a changed body": f"{head}.{body[:-4]}AAAA.{signature}",
                "garbage": "a.b.c",
                "dots": "....",
                "long": "x" * 30_000,
            }
            for what, token in wrong.items():
                answer = await ask(token)
                assert answer.status_code == 401, what
                assert 'error="invalid_token"' in answer.headers["www-authenticate"], what
            answer = await ask(None)
            assert answer.status_code == 401
            named = 'resource_metadata="https://tools.example.com/.well-known/oauth-protected-resource/mcp"'
            assert answer.headers["www-authenticate"] == f"Bearer {named}"
            for path in ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"):
                told = (await http.get(local(url) + path)).json()
                assert told == {
                    "resource": RESOURCE, "authorization_servers": [issuer.url], "bearer_methods_supported": ["header"],
                }  # fmt: skip
            assert issuer.asked.count("/keys") == 1  # unknown keys do not have them fetched each time


@on_loop
async def test_new_keys_are_found_and_the_algorithm_must_be_the_keys() -> None:
    issuer = Issuer()
    async with serving(issuer) as behind, httpx2.AsyncClient(headers=HEADERS) as http:
        issuer.url = local(behind)
        verifier = mcp.Jwt(issuer.url, RESOURCE, keys=f"{issuer.url}/keys")
        app = mcp.gateway({"a": mcp.app(calculator)}, access=mcp.Access(verifiers=[verifier]))
        async with serving(app) as url:
            ask = asks(http, url)
            assert (await ask(issuer.token())).status_code == 200
            issuer.keys = [public(CURVE, "curve"), public(RSA, "one")]
            fresh = issuer.token(CURVE, "curve", "ES256")
            assert (await ask(fresh)).status_code == 401  # keys were fetched just now
            verifier._fetched -= 60
            assert (await ask(fresh)).status_code == 200
            assert (await ask(issuer.token(CURVE, "one", "ES256"))).status_code == 401
            assert (await ask(issuer.token(algorithm="PS512"))).status_code == 200


@on_loop
async def test_while_the_authorization_server_is_away_nothing_opens_but_what_is_known() -> None:
    issuer = Issuer()
    async with serving(issuer) as behind, httpx2.AsyncClient(headers=HEADERS) as http:
        issuer.url, issuer.down = local(behind), True
        static = mcp.Token("a-secret-of-16-characters", "static")
        access = mcp.Access([static], verifiers=[mcp.Jwt(issuer.url, RESOURCE)])
        async with serving(mcp.gateway({"a": mcp.app(calculator)}, access=access)) as url:
            ask = asks(http, url)
            answer = await ask(issuer.token())
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert (await ask(static.secret)).status_code == 200
            issuer.down = False
            assert (await ask(issuer.token())).status_code == 200


@on_loop
async def test_scopes_decide_what_a_token_opens() -> None:
    issuer = Issuer()
    async with serving(issuer) as behind, httpx2.AsyncClient(headers=HEADERS) as http:
        issuer.url = local(behind)
        verifiers = [
            mcp.Jwt(issuer.url, RESOURCE, scopes=["tools:all"]),
            mcp.Jwt(issuer.url, RESOURCE, scopes=["tools:add"], tools=["a__add"], resources=[]),
        ]
        access = mcp.Access(verifiers=verifiers, resource=RESOURCE)
        async with serving(mcp.gateway({"a": mcp.app(calculator)}, access=access)) as url:
            ask = asks(http, url)
            answer = await ask(issuer.token(scope="other"))
            assert answer.status_code == 403
            assert 'error="insufficient_scope", scope="tools:all tools:add"' in answer.headers["www-authenticate"]
            for scopes, count in ((["x", "tools:all"], 5), (["tools:add"], 1)):
                bearer = {"authorization": f"Bearer {issuer.token(scope=' '.join(scopes))}"}
                async with (
                    httpx2.AsyncClient(headers=bearer) as own,
                    Client(streamable_http_client(url, http_client=own), mode="legacy") as client,
                ):
                    assert len((await client.list_tools()).tools) == count


@pytest.mark.parametrize("kind", ["app", "bridge", "gateway"])
@on_loop
async def test_a_session_is_its_subjects_whatever_token_it_shows(kind: str, tmp_path: Path) -> None:
    issuer = Issuer()
    async with serving(issuer) as behind, httpx2.AsyncClient(headers=HEADERS) as http:
        issuer.url = local(behind)
        tokens = [mcp.Token("a-secret-of-16-characters", "same name"), mcp.Token("another-secret-of-them", "same name")]
        access = mcp.Access(tokens, verifiers=[mcp.Jwt(issuer.url, RESOURCE)])
        app = {
            "app": mcp.app(calculator, access=access),
            "bridge": mcp.bridge(program(tmp_path), access=access),
            "gateway": mcp.gateway({"a": mcp.app(calculator)}, access=access),
        }[kind]
        async with serving(app) as url:
            ask = asks(http, url)
            for mine, others in (
                ([issuer.token(), issuer.token(iat=1)], [issuer.token(sub="eve"), issuer.token(client_id="x")]),
                ([tokens[0].secret], [tokens[1].secret, issuer.token(), issuer.token(sub="same name")]),
            ):
                session = {"mcp-session-id": (await ask(mine[0])).headers["mcp-session-id"]}
                for other in others:
                    assert (await ask(other, PING, **session)).status_code == 404
                    bearer = {"authorization": f"Bearer {other}", **session}
                    assert (await http.get(url, headers=bearer)).status_code == 404
                    assert (await http.delete(url, headers=bearer)).status_code == 404
                for token in mine:
                    assert (await ask(token, PING, **session)).status_code == 200


@on_loop
async def test_tools_of_an_application_find_out_who_asks_but_not_the_token() -> None:
    server = MCPServer("who", log_level="WARNING")

    @server.tool()
    def who() -> str:
        found = get_access_token()
        assert found is not None
        return f"{found.client_id} {found.token!r}"

    token = mcp.Token("a-secret-of-16-characters", "ada")
    bearer = {"authorization": f"Bearer {token.secret}"}
    async with (
        serving(mcp.app(server, access=mcp.Access([token]))) as url,
        httpx2.AsyncClient(headers=bearer) as http,
        Client(streamable_http_client(url, http_client=http), mode="legacy") as client,
    ):
        found = words(await client.call_tool("who", {}))
        assert found.endswith(" ''") and token.secret not in found


@on_loop
async def test_tokens_that_say_nothing_are_looked_up_and_believed_for_a_while() -> None:
    issuer = Issuer()
    async with serving(issuer) as behind, httpx2.AsyncClient(headers=HEADERS) as http:
        issuer.url = local(behind)
        verifier = mcp.Introspection(
            f"{issuer.url}/look", issuer.url, "gateway", SECRET, audience=RESOURCE, scopes=["tools"]
        )
        good = {"active": True, "sub": "ada", "scope": "tools more", "aud": RESOURCE}
        issuer.known = {
            "good": good,
            "inactive": {**good, "active": False},
            "text": {**good, "active": "true"},
            "over": {**good, "exp": time.time() - 1},
            "another's": {**good, "iss": "https://evil.example"},
            "elsewhere": {**good, "aud": "https://x"},
            "poor": {**good, "scope": "more"},
            "nobody": {"active": True, "scope": "tools", "aud": RESOURCE},
        }
        async with serving(mcp.gateway({"a": mcp.app(calculator)}, access=mcp.Access(verifiers=[verifier]))) as url:
            ask = asks(http, url)
            found = {token: (await ask(token)).status_code for token in (*issuer.known, "unknown")}
            assert found.pop("good") == 200 and found.pop("poor") == 403 and set(found.values()) == {401}
            asked = len(issuer.asked)
            assert (await ask("good")).status_code == 200 and len(issuer.asked) == asked


@on_loop
async def test_the_gateway_gets_tokens_for_its_servers_and_new_ones_in_time() -> None:
    issuer = Issuer()
    async with serving(issuer) as there:
        issuer.url = local(there)
        access = mcp.Access(verifiers=[mcp.Jwt(issuer.url, "placeholder")])
        behind = mcp.app(calculator, access=access)
        async with serving(behind) as far:
            access.verifiers[0].audience = [far]  # type: ignore[attr-defined]
            credentials = mcp.ClientCredentials("gateway", SECRET, issuer=issuer.url)
            gateway = mcp.gateway({"far": mcp.remote(far, credentials=credentials)})
            async with serving(gateway) as url, Client(url, mode="legacy") as client:
                for n in range(3):
                    added = await client.call_tool("far__add", {"a": n, "b": 1})
                    assert added.structured_content == {"result": n + 1}
                assert issuer.given == 1
                access.verifiers[0]._seen.clear()
                issuer.keys = [public(OTHER, "other")]  # what was given is not believed any more
                access.verifiers[0]._keys = [public(OTHER, "other")]  # type: ignore[attr-defined]
                with pytest.raises(MCPError):
                    await client.call_tool("far__add", {"a": 1, "b": 1})
                assert issuer.given == 2  # it tried with a new one, once


@on_loop
async def test_a_server_whose_tokens_cannot_be_had_is_down_and_says_why() -> None:
    issuer = Issuer()
    async with serving(issuer) as there:
        issuer.url = local(there)
        credentials = mcp.ClientCredentials("gateway", "wrong secret", token_url=f"{issuer.url}/token")
        servers = {"far": mcp.remote("http://127.0.0.1:1/mcp", credentials=credentials), "good": mcp.app(calculator)}
        gateway = mcp.gateway(servers)
        async with serving(gateway) as url, Client(url, mode="legacy") as client:
            assert {tool.name.partition("__")[0] for tool in (await client.list_tools()).tools} == {"good"}
            with pytest.raises(MCPError, match="down"):
                await client.call_tool("far__add", {})
            failure = str(gateway.status()["far"]["failure"])
            assert "HTTP 401: invalid_client" in failure and "wrong secret" not in failure


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: mcp.Jwt("https://i", "a", algorithms=["HS256"]), "HS256"),
        (lambda: mcp.Jwt("https://i", "a", algorithms=["none"]), "none"),
        (lambda: mcp.Jwt("https://i", ""), "audience"),
        (lambda: mcp.Jwt("https://i", "a", keys={"a": 1}), "JSON Web Keys"),
        (lambda: mcp.Jwt("https://i", "a", scopes="a b"), "scopes is a list"),
        (lambda: mcp.Jwt("https://i", "a", tools="x"), "list of patterns"),
        (lambda: mcp.Introspection("https://i/look", "https://i", "me"), "needs a secret"),
        (lambda: mcp.Introspection("https://i/look", "https://i", "me", env="NO_SUCH"), "NO_SUCH"),
        (lambda: mcp.ClientCredentials("me", "secret"), "token_url or an issuer"),
        (lambda: mcp.ClientCredentials("me", token_url="https://x"), "needs a secret"),
        (lambda: mcp.Access(verifiers=["x"]), "Jwt or Introspection"),  # type: ignore[list-item]
        (lambda: mcp.Access(resource="tools"), "resource is an address"),
        (lambda: mcp.Access(hosts="localhost"), "hosts is a list"),
        (
            lambda: mcp.remote(
                "http://x/", headers={"Authorization": "y"},
                credentials=mcp.ClientCredentials("a", "b", token_url="https://x"),
            ),
            "not from both",
        ),
        (lambda: mcp.app(calculator, access=mcp.Access([mcp.Token("x" * 16, tools=["a"])])), "behind a gateway"),
        (lambda: mcp.gateway({"a": "http://x/"}, acess=None), "no such option: acess; there are access, path"),  # type: ignore[call-arg]
        (lambda: mcp.gateway({"a": "http://x/"}, path="mcp"), "path must begin"),
        (lambda: mcp.bridge(["x"], max_sessions=0), "max_sessions must be above 0"),
        (lambda: mcp.bridge(["x"], stateless=1), "stateless must be a bool"),  # type: ignore[arg-type]
        (lambda: mcp.app(calculator, session_idle=float("inf")), "finite"),
        (lambda: mcp.app(calculator, max_body="4"), "max_body must be a number"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_wrong_options_are_named_at_once(make: Callable[[], Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        make()


# names


@pytest.mark.parametrize(
    ("patterns", "yes", "no"),
    [
        (
            ["files__read"],
            ["files__read"],
            ["files__reads", "Files__read", "files__Read", "xfiles__read"],
        ),
        (
            ["a__*"],
            ["a__", "a__x", "a__b__c", "a__\n"],
            ["a_b__x", "A__x", "aa__x", "\uff41__x", "a_\u200b_x"],
        ),
        (["a__read[1]"], ["a__read[1]"], ["a__read1", "a__read"]),
        (["a__[!x]"], ["a__[!x]"], ["a__y"]),
        (["a__?"], ["a__x", "a__\u00e9"], ["a__xy", "a__e\u0301", "a__"]),
        ([], [], ["", "a", "*"]),
    ],
)
def test_patterns_mean_what_they_say(patterns: list[str], yes: list[str], no: list[str]) -> None:
    rights = Rights(patterns)
    assert all(rights.may("tools", name) and rights.may("prompts", name) for name in yes)
    assert not any(rights.may("tools", name) for name in no)
    assert not Rights(patterns, prompts=[]).may("prompts", "a__x")
    assert not rights.may("tools", "a__" + "x" * 10_000)


@pytest.mark.parametrize(
    "uri",
    [
        "files+file:///public/../secret",
        "files+file:///public/%2e%2e/secret",
        "files+file:///public/%252e%252e/secret",
        "files+file:///public/..%2fsecret",
        "files+file:///public/.%2E\\secret",
        "files+file:///public/..;/secret",
        "files+file:///public/..",
        "files+file:///public/./../secret",
        "files+file:///public?x=..",
        "files+file:///publicity",
        "FILES+file:///public/a",
        "files+FILE:///public/a",
        "files+file:///Public/a",
        "file+file:///public/a",
        "xfiles+file:///public/a",
    ],
)
def test_addresses_do_not_climb_out_of_what_is_allowed(uri: str) -> None:
    rights = Rights(resources=["files+file:///public/*"])
    assert rights.may("resources", "files+file:///public/a..b/c.%20d")
    assert not rights.may("resources", uri)


@on_loop
async def test_a_name_that_is_given_twice_is_the_one_that_was_looked_at(tmp_path: Path) -> None:
    extra = """
import json as _json
def first(pairs):
    out = {}
    for k, v in pairs: out.setdefault(k, v)
    return out
class json:
    dumps = staticmethod(_json.dumps)
    loads = staticmethod(lambda line: _json.loads(line, object_pairs_hook=first))
"""
    token = mcp.Token("a-secret-of-16-characters", tools=["pid"])
    app = mcp.bridge(program(tmp_path, extra), access=mcp.Access([token]))
    headers = {**HEADERS, "authorization": f"Bearer {token.secret}"}
    async with serving(app) as url, httpx2.AsyncClient(headers=headers) as http:
        session = {"mcp-session-id": (await http.post(url, json=INITIALIZE)).headers["mcp-session-id"]}

        async def ask(text: str) -> Any:
            body = f'{{"jsonrpc": "2.0", "id": 1, {text}}}'
            return (await http.post(url, content=body, headers=session)).json()

        found = await ask('"method": "tools/call", "params": {"name": "exit", "name": "pid"}')
        assert found["result"]["content"][0]["text"].isdigit()
        found = await ask('"method": "tools/call", "params": {"name": "pid", "name": "exit"}')
        assert found["error"]["message"] == "Unknown name 'exit'"
        found = await ask('"method": "tools/list", "method": "tools/call", "params": {"name": "\\u0065xit"}')
        assert found["error"]["message"] == "Unknown name 'exit'"
        for method in ("Tools/Call", "tasks/list", "tools/call "):  # what is not known is not passed on
            found = await ask(f'"method": "{method}", "params": {{"name": "exit"}}')
            assert found["error"]["code"] == -32601
        assert [tool["name"] for tool in (await ask('"method": "tools/list"'))["result"]["tools"]] == ["pid"]


@on_loop
async def test_callers_of_one_name_never_share_what_a_server_keeps() -> None:
    server = MCPServer("counter", log_level="WARNING")
    seen: dict[Any, int] = {}

    @server.tool()
    def session(ctx: Context) -> str:
        number = ctx.request_context.request.headers["mcp-session-id"]
        seen[number] = seen.get(number, 0) + 1
        return str(number)

    async def model(_context: Any, _params: Any) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text=""), model="m")

    tokens = [mcp.Token("a-secret-of-16-characters"), mcp.Token("another-secret-of-them")]
    async with serving(mcp.gateway({"c": mcp.app(server)}, access=mcp.Access(tokens))) as url:
        found = []
        for token in (*tokens, *tokens):
            async with (
                httpx2.AsyncClient(headers={"authorization": f"Bearer {token.secret}"}) as http,
                Client(streamable_http_client(url, http_client=http), mode="auto", sampling_callback=model) as client,
            ):
                found.append(words(await client.call_tool("c__session", {})))
        assert found[0] == found[2] and found[1] == found[3] and found[0] != found[1]


@on_loop
async def test_origins_that_only_look_local_are_refused() -> None:
    access = mcp.Access()
    local_ones = ("http://localhost", "http://localhost:3000", "https://127.0.0.1:8", "http://[::1]:9")
    assert all(access.allows_origin(origin) for origin in local_ones)
    for origin in (
        "http://localhost:x@evil.example", "http://localhost@evil.example", "http://localhost.evil.example", "null", "",
        "file://localhost", "http://localhost:80/evil", "http://localhost:80.evil.example", "http://127.0.0.1.evil.example",
        "http://[::1].evil.example", "http://[::1]x", "localhost",
    ):  # fmt: skip
        assert not access.allows_origin(origin), origin
    named = mcp.Access(hosts=["Tools.Example.com"])
    named.check({b"host": b"tools.example.COM:80"})
    with pytest.raises(Exception, match="421"):
        named.check({b"host": b"tools.example.com.evil"})


def test_errors_keep_what_a_process_wrote_to_themselves() -> None:
    error = RpcError(-32000, "it ended", words="PASSWORD=x")
    assert b"PASSWORD" not in error.packed() and error.words == "PASSWORD=x"
