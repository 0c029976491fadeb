"""Upstream services: what is published, what is sent, what is tried again; functions that run on another service."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")

from fastapi.testclient import TestClient
from plugin_services import Write
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from skate.configuration import Config
from skate.plugin import PluginError, PluginLoadError, on_proxy, proxied, register_proxy_func, run, settings
from skate.plugin.catalog import UpstreamApi
from skate.plugin.documents import read_document
from skate.plugin.errors import UpstreamError
from skate.plugin.proxied import FUNCTIONS, Verifier, full_name, signed
from skate.plugin.upstream import UpstreamRules, Upstreams, compose

Answers = Callable[[str, str, dict[str, str], bytes], tuple[int, str, bytes]]


class Upstream:
    """A service whose answers a test makes up; it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: Answers = lambda *_: (200, "application/json", b"{}")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.asked.append((self.command, self.path, headers, body))
                status, kind, content = outer.answer(self.command, self.path, headers, body)
                if status == 0:  # breaks off
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

            def log_message(self, *_: Any) -> None:
                """Tests read `asked`."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()


DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {
        "/api/v1/a": {"get": {"responses": {"200": {"content": {"application/json": {}}}}}, "summary": "not a method"},
        "/api/v1/b/{n}": {
            "parameters": [{"name": "n", "in": "path"}],
            "put": {
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Item"}}}}
            },
        },
        "/api/v1/admin/x": {"get": {}},
    },
    "components": {
        "schemas": {"Item": {"properties": {"size": {"type": "integer"}, "in": {"$ref": "#/components/schemas/Item"}}}}
    },
}


def service(upstream: Upstream, **proxy: Any) -> Any:
    plain = upstream.answer
    upstream.answer = lambda *_: (200, "application/json", json.dumps(DOCUMENT).encode())
    flags = {f"plugins.proxy.{name}": value for name, value in {"proxy_urls": [upstream.url], **proxy}.items()}
    app = run(test_mode=True, engine="inline", load_builtin_plugins=["proxy"], strict=True, flags=flags)
    upstream.answer = plain
    upstream.asked.clear()
    return app


def test_rules_say_what_is_published() -> None:
    rules = UpstreamRules(enable=["/api/v1/*"], disable=["/api/v1/admin/*", "*/secret"])
    paths = ["/api/v1/x", "/api/v1", "/other", "/api/v1/admin/x", "/api/v1/admin", "/api/v1/a/secret"]
    assert [path for path in paths if rules.allows(path)] == ["/api/v1/x", "/api/v1"]


def test_what_a_document_refers_to_is_found() -> None:
    components = {
        "parameters": {"Limit": {"name": "limit", "in": "query"}, "Loop": {"$ref": "#/components/parameters/Loop"}},
        "requestBodies": {"Item": {"content": {"application/json": {"schema": {"properties": {"size": {}}}}}}},
        "responses": {"Lines": {"content": {"text/event-stream": {}}}},
    }
    names = ("Limit", "Loop", "Missing")
    operation = {
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in names],
        "requestBody": {"$ref": "#/components/requestBodies/Item"},
        "responses": {"200": {"$ref": "#/components/responses/Lines"}},
    }
    document = {"paths": {"/a": {"post": operation}}, "components": components}
    (api,), _ = read_document("http://x", document, UpstreamRules(), frozenset())
    assert (api.parameters, api.body, api.body_fields, api.stream) == (
        {"limit": "query"}, "application/json", {"size"}, True
    )  # fmt: skip
    assert "$ref" not in str(api.operation)


def test_an_upstream_that_is_away_is_named(place: Any) -> None:
    with pytest.raises(PluginLoadError, match=r"proxy of http://127.0.0.1:1: http://127.0.0.1:1/api/v1/openapi.json: "):
        run(test_mode=True, load_builtin_plugins=["proxy"], strict=True,
            flags={"plugins.proxy.proxy_urls": ["http://127.0.0.1:1"]})  # fmt: skip


def test_schemas_keep_apart_and_disabled_routes_stay_away(upstream: Upstream, place: Any) -> None:
    rules = {upstream.url: {"disable": ["/api/v1/admin/*"]}}
    with TestClient(service(upstream, proxy_urls=rules)) as client:
        document = client.get("/api/v1/openapi.json").json()
        assert sorted(document["paths"]) == ["/api/v1/a", "/api/v1/b/{n}"]
        (name,) = document["components"]["schemas"]
        body = document["paths"]["/api/v1/b/{n}"]["put"]["requestBody"]
        assert name.endswith("__Item") and body["content"]["application/json"]["schema"]["$ref"].endswith(name)
        assert client.get("/api/v1/admin/x").status_code == 404


def test_requests_are_forwarded_as_they_are_but_for_keys(upstream: Upstream, place: Any) -> None:
    upstream.answer = lambda *_: (201, "text/x", b"there")
    keys = {"/api/v1/b/*": ["upstreams-key", "not sent"]}
    with TestClient(service(upstream, auth={"rules": keys})) as client:
        sent = client.put(
            "/api/v1/b/a%20b?q=1&q=%2F",
            content=b"\x00raw",
            headers={"authorization": "mine", "te": "trailers", "x-y": "z"},
        )
        assert (sent.status_code, sent.text, sent.headers["content-type"]) == (201, "there", "text/x")
        client.get("/api/v1/a", headers={"authorization": "mine"})
    (method, path, headers, body), (_, _, others, _) = upstream.asked
    assert (method, path, body) == ("PUT", "/api/v1/b/a%20b?q=1&q=%2F", b"\x00raw")
    assert headers["authorization"] == "upstreams-key" and headers["x-y"] == "z" and "te" not in headers
    assert headers["host"] == upstream.url.removeprefix("http://")
    assert others["authorization"] == "mine"
    assert headers["x-request-id"] == sent.headers["x-request-id"]


def test_our_own_keys_are_not_passed_on(upstream: Upstream, place: Any) -> None:
    app = service(upstream)
    with TestClient(app) as client:
        client.get("/api/v1/a", headers={"authorization": "k"})
    assert upstream.asked[0][2]["authorization"] == "k"
    flags = {"plugins.proxy.proxy_urls": [upstream.url], "auth.rules": {"/api/v1/a": ["ours"]}}
    upstream.answer = lambda *_: (200, "application/json", json.dumps(DOCUMENT).encode())
    with TestClient(run(test_mode=True, load_builtin_plugins=["proxy"], flags=flags)) as client:
        upstream.asked.clear()
        assert client.get("/api/v1/a", headers={"authorization": "ours"}).status_code == 200
    assert "authorization" not in upstream.asked[0][2]


def test_what_may_be_repeated_is(upstream: Upstream, place: Any) -> None:
    answers = iter([(503, "text/plain", b""), (0, "", b""), (200, "text/plain", b"third")])
    upstream.answer = lambda *_: next(answers)
    with TestClient(service(upstream)) as client:
        assert client.get("/api/v1/a").text == "third"
        assert len(upstream.asked) == 3
        upstream.answer = lambda *_: (503, "text/plain", b"busy")
        assert client.get("/api/v1/a").status_code == 503  # the last answer is passed on


def ask(config: Config, api: UpstreamApi, **kwargs: Any) -> Any:
    async def main() -> Any:
        upstreams = Upstreams(config)
        try:
            found = await upstreams.call(api, kwargs)
            return [item async for item in found] if hasattr(found, "__aiter__") else found
        finally:
            await upstreams.close()

    return asyncio.run(main())


def test_a_client_that_goes_away_leaves_its_place(upstream: Upstream, place: Any) -> None:
    app = service(upstream, ingress_config={"max_ongoing_requests": 1})
    scope = {
        "type": "http", "method": "GET", "path": "/api/v1/a", "raw_path": b"/api/v1/a", "query_string": b"",
        "headers": [], "http_version": "1.1", "scheme": "http", "asgi": {"version": "3.0", "spec_version": "2.4"},
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def gone(_: Any) -> None:
        raise OSError("the client has gone")

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.portal is not None
        for _ in range(2):
            with pytest.raises(ClientDisconnect):
                client.portal.call(app, {**scope}, receive, gone)
        assert client.get("/api/v1/a").status_code == 200


def test_headers_of_one_connection_go_no_further(upstream: Upstream, place: Any) -> None:
    with TestClient(service(upstream)) as client:
        answer = client.get("/api/v1/a", headers={"connection": "x-mine, close", "x-mine": "1", "x-other": "2"})
        assert answer.status_code == 200
        assert "x-mine" not in upstream.asked[-1][2] and upstream.asked[-1][2]["x-other"] == "2"


def test_a_post_is_sent_once(upstream: Upstream) -> None:
    upstream.answer = lambda *_: (0, "", b"")
    with pytest.raises(UpstreamError, match="broke off") as caught:
        ask(Config(), UpstreamApi(upstream.url, "/x", "POST", body="application/json"), a=1)
    assert caught.value.status == 502 and len(upstream.asked) == 1


def test_one_that_takes_too_long_is_given_up(upstream: Upstream) -> None:
    def slow(*_: Any) -> tuple[int, str, bytes]:
        time.sleep(0.5)
        return 200, "text/plain", b""

    upstream.answer = slow
    config = Config(plugins={"proxy": {"timeout": 0.1}})
    with pytest.raises(UpstreamError, match=r"did not answer within 0\.1 s") as caught:
        ask(config, UpstreamApi(upstream.url, "/x?key=sesame", "GET"))
    assert caught.value.status == 504 and "sesame" not in str(caught.value)


def test_plugins_get_values_out_of_envelopes_and_events(upstream: Upstream) -> None:
    api = UpstreamApi(upstream.url, "/x", "GET")
    for content, value in ((b'{"status": 200, "data": [1]}', [1]), (b'{"data": 1}', {"data": 1}), (b"[2]", [2])):
        upstream.answer = lambda *_, content=content: (200, "application/json", content)
        assert ask(Config(), api) == value
    upstream.answer = lambda *_: (200, "text/event-stream", b"event: a\ndata: 1\n\ndata: 2\n\ndata: 3")
    assert ask(Config(), api) == ["event: a\ndata: 1\n\n", "data: 2\n\n", "data: 3\n\n"]
    upstream.answer = lambda *_: (418, "application/json", b'{"message": "short"}')
    with pytest.raises(UpstreamError, match="answered 418: short"):
        ask(Config(), api)


class Item(BaseModel):
    size: int


def test_arguments_go_where_the_document_says() -> None:
    where = {"n": "path", "q": "query", "h": "header"}
    api = UpstreamApi("http://u", "/b/{n}", "PUT", where, "application/json", frozenset({"size"}))
    method, url, headers, content = compose(api, {"n": "a/../b", "q": [1, "x y"], "h": "v", "size": 3})
    assert (method, url) == ("PUT", "http://u/b/a%2F..%2Fb?q=1&q=x%20y") or url.endswith("q=1&q=x+y")
    assert ("h", "v") in headers and json.loads(content or b"") == {"size": 3}
    assert json.loads(compose(api, {"n": 1, "model": Item(size=4)})[3] or b"") == {"size": 4}  # the whole body
    assert compose(UpstreamApi("http://u", "/x", "GET"), {"any": 1})[1] == "http://u/x?any=1"
    form = UpstreamApi("http://u", "/x", "POST", {}, "multipart/form-data", frozenset({"f", "t"}), frozenset({"f"}))
    content = compose(form, {"f": b"bytes", "t": "text"})[3] or b""
    assert b'name="f"; filename="f"' in content and b'name="t"\r\n' in content


# ---------------------------------------------------------------------- functions


class Row(BaseModel):
    id: int
    tags: list[str]


@on_proxy()
async def look_up(row: Row, times: int = 1) -> list[Row]:
    return [Row(id=row.id + 1, tags=row.tags)] * times


@on_proxy()
def failing() -> None:
    raise RuntimeError("sesame")


PROXIED = f"""
from {__name__} import failing, look_up
@on_register()
class P(BasePlugin):
    async def on_start(self):
        register_proxy_func(look_up)
        await register_proxy_func(failing)
"""


def test_a_function_runs_here_where_nothing_is_configured(place: Any) -> None:
    assert asyncio.run(look_up(Row(id=1, tags=["x"]), times=2)) == [Row(id=2, tags=["x"])] * 2
    with pytest.raises(TypeError, match="is not marked with @on_proxy"):
        register_proxy_func(len)


def test_a_function_runs_on_another_service(write: Write, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skate.plugin.proxied.FUNCTIONS", FUNCTIONS)
    write(p=PROXIED)
    names = [full_name(look_up), full_name(failing)]
    there = {"plugins.proxy.secret": "sesame-1"}
    app = run(test_mode=True, engine="inline", load_plugins=["p"], strict=True, flags=there)
    with TestClient(app) as client:

        def pass_on(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
            answer = client.request(method, path, headers=headers, content=body)
            return answer.status_code, "application/json", answer.content

        upstream.answer = pass_on
        table = {"secret": "sesame-1", "proxy_functions": {upstream.url: names}}
        settings.use(Config(plugins={"proxy": table}))
        assert asyncio.run(_away(look_up, Row(id=1, tags=[]), times=2)) == [Row(id=2, tags=[])] * 2
        assert b"pickle" not in upstream.asked[0][3] and "sesame-1" not in str(upstream.asked)
        with pytest.raises(PluginError, match="500 Internal error") as caught:
            asyncio.run(_away(failing))
        assert "sesame" not in str(caught.value)
        settings.use(Config(plugins={"proxy": {**table, "secret": "wrong"}}))
        with pytest.raises(PluginError, match="401 the call is not signed"):
            asyncio.run(_away(failing))
        body = json.dumps({"function": "os.system", "arguments": {"command": "true"}}).encode()
        headers = dict(signed("sesame-1", body))
        assert client.post("/api/v1/proxy/remote", content=body, headers=headers).status_code == 404
        assert client.post("/api/v1/proxy/remote", content=body, headers=headers).status_code == 401  # once only
        wrong = json.dumps({"function": names[0], "arguments": {"row": {"id": "x"}}}).encode()
        assert (
            client.post("/api/v1/proxy/remote", content=wrong, headers=dict(signed("sesame-1", wrong))).status_code
            == 422
        )
        assert client.post("/api/v1/proxy/remote", content=b"x").status_code == 401
    FUNCTIONS.clear()


async def _away(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function as another service would, whose runtime is not this one."""
    from skate.plugin import calls

    here, calls._runtime = calls._runtime, None
    try:
        return await function(*args, **kwargs)
    finally:
        calls._runtime = here


def test_without_a_secret_no_calls_are_taken(write: Write) -> None:
    write(p=PROXIED)
    with TestClient(run(test_mode=True, engine="inline", load_plugins=["p"])) as client:
        assert client.post("/api/v1/proxy/remote", content=b"{}").status_code == 404
    FUNCTIONS.clear()


def test_signatures_are_for_one_body_one_time_and_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier("s")

    def refuses(body: bytes = b"body", **changed: str) -> str:
        headers = {**dict(signed("s", b"body")), **{name.replace("_", "-"): value for name, value in changed.items()}}
        return verifier.refuses(headers["x-skate-time"], headers["x-skate-nonce"], headers["x-skate-signature"], body)

    def at(seconds: float) -> None:
        monkeypatch.setattr(proxied.time, "time", lambda: now + seconds)

    now = time.time()
    unsigned = "not signed as it should be"
    assert not refuses() and unsigned in refuses(b"other")
    assert unsigned in refuses(x_skate_time=str(time.time() - 1)) and unsigned in refuses(x_skate_signature="é")
    headers = dict(signed("s", b"body"))
    assert not refuses(**headers) and "taken already" in refuses(**headers)
    for skew, says in ((-100.0, "signed .100 s ago"), (100.0, "signed -100 s ago"), (-5.0, "this service began")):
        at(skew)
        headers = dict(signed("s", b"body"))
        at(0)
        assert re.search(says, refuses(**headers))
    at(5.0)
    ahead = dict(signed("s", b"body"))
    at(0)
    assert not refuses(**ahead)  # a clock that is ahead a little
    at(200.0)
    assert not refuses() and len(verifier._seen) == 1  # what cannot come again is forgotten
    for odd in ("nan", "soon", "inf"):
        signature = proxied._signature("s", odd, "n", b"body")
        assert verifier.refuses(odd, "n", signature, b"body")
