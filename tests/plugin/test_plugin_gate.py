"""Keys by path, tricks with paths, caches, limits, logs, metrics, pages: what stands around the routes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")

from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from plugin_services import Write, data

from skate.plugin import run
from skate.plugin.auth import Rules, is_strange
from skate.plugin.front import own_prefixes
from skate.plugin.logs import Lines

RULES = {
    "/api/v1/base/version": ["version-key"],
    "/api/v1/base/*": ["service-key", "second"],
    "/api/v1/base/deep/*": ["d"],
}
PLUGIN = """
@on_register()
class P(BasePlugin):
    calls = 0
    @on_request("/base/{what}", methods=["GET"])
    async def base(self, what: str) -> str: return what
    @on_request("/base", methods=["GET"])
    async def root(self) -> str: return "root"
    @on_request("/base/deep/{rest:path}", methods=["GET", "POST"])
    async def deep(self, rest: str) -> str: return rest
    @on_request("/open", methods=["GET"])
    async def open(self) -> str: return "open"
    @on_request("/fails", methods=["GET"])
    async def fails(self) -> str: raise RuntimeError("password=sesame")
    @on_request("/count", methods=["GET", "POST"], cache={"ttl": 100})
    async def count(self, x: int = 0) -> int:
        self.calls += 1
        return self.calls
    @on_request("/keyed", methods=["GET"], cache={"key_builder": lambda request, context, kwargs: len(context.keys())})
    async def keyed(self) -> int:
        self.calls += 1
        return self.calls
"""


def client_of(**flags: Any) -> TestClient:
    app = run(test_mode=True, engine="inline", load_plugins=["p"], strict=True, flags=flags)
    return TestClient(app, raise_server_exceptions=True)


@pytest.mark.parametrize(
    ("path", "key", "passes"),
    [
        ("/api/v1/base/version", "version-key", True),
        ("/api/v1/base/version", "service-key", False),  # the exact rule wins
        ("/api/v1/base/version/", "service-key", False),
        ("/api/v1/base/x", "service-key", True),
        ("/api/v1/base/x", "second", True),
        ("/api/v1/base/x", "Bearer second", True),
        ("/api/v1/base/x", "bearer  second ", True),
        ("/api/v1/base/x", "Basic second", False),
        ("/api/v1/base/x", "", False),
        ("/api/v1/base/x", "Bearer", False),
        ("/api/v1/base", "", False),  # what lists a folder is as closed as what is in it
        ("/api/v1/base/deep/x", "service-key", False),  # the longest prefix wins
        ("/api/v1/base/deep/x/y", "d", True),
        ("/api/v1/baseline", "", True),
        ("/api/v1/open", "", True),
    ],
)
def test_rules(path: str, key: str, passes: bool) -> None:
    assert Rules(RULES).allows(path, key.encode()) is passes


def test_wrong_rules_are_refused() -> None:
    for rules in ({"x": ["k"]}, {"/a/*/b": ["k"]}, {"/x": [""]}):
        with pytest.raises(ValueError, match=r"\[auth.rules\]"):
            Rules(rules)


TRICKS = [
    "/api/v1/base/x",
    "//api/v1/base/x",
    "/api/v1//base/x",
    "/api/v1/./base/x",
    "/api/v1/open/../base/x",
    "/api/v1/open/%2e%2e/base/x",
    "/api/v1/open/..%2fbase/x",
    "/api%2fv1%2fbase%2fx",
    "/api/v1/base%2fx",
    "/api/v1/b%61se/x",
    "/api/v1/base/x/",
    "/api/v1\\base\\x",
    "/api/v1/base/x%00",
    "/api/v1/base/x;y=1",
    "/api/v1/base/deep/..%2f..%2fopen",
    "/API/V1/BASE/x",
]


def test_no_way_of_writing_a_path_passes_the_rules(write: Write) -> None:
    write(p=PLUGIN)
    with client_of(**{"auth.rules": RULES}) as client:
        assert data(client.get("/api/v1/base/x", headers={"authorization": "service-key"})) == "x"
        assert client.head("/api/v1/base/x").status_code == 401
        for path in TRICKS:
            request = client.build_request("GET", "http://testserver/")
            request.url = request.url.copy_with(raw_path=path.encode())
            answer = client.send(request, follow_redirects=True)
            assert answer.status_code in (400, 401, 404), (path, answer.status_code)
            assert answer.status_code != 200 and '"data":"' not in answer.text
        assert client.get("/api/v1/base/x").headers["www-authenticate"] == "Bearer"


@given(st.text(alphabet="ab/.\\%\x00\n", max_size=12))
def test_a_path_that_is_not_strange_has_one_reading(path: str) -> None:
    import posixpath

    path = "/" + path
    if not is_strange(path):
        assert posixpath.normpath(path).rstrip("/") == path.rstrip("/") or path == "/"


def test_the_cache_is_used_passed_by_and_renewed(write: Write) -> None:
    write(p=PLUGIN)
    with client_of(**{"cache.enabled": True}) as client:

        def ask(action: str = "use", **params: Any) -> tuple[int, str]:
            answer = client.get("/api/v1/count", params=params, headers={"X-Skate-Cache": action})
            return data(answer), answer.headers["x-skate-cache-status"]

        assert [ask(), ask(), ask(x=1), ask("bypass"), ask("refresh"), ask(), ask(x=1)] == [
            (1, "MISS"), (1, "HIT"), (2, "MISS"), (3, "BYPASS"), (4, "REFRESH"), (4, "HIT"), (2, "HIT")
        ]  # fmt: skip
        assert client.get("/api/v1/count", headers={"X-Skate-Cache": "sometimes"}).status_code == 400
        assert data(client.post("/api/v1/count")) == 5  # another method, another key
        first, second = client.get("/api/v1/keyed"), client.get("/api/v1/keyed")
        assert data(first) + 1 == data(second)  # the builder's keys differ
        assert first.headers["x-skate-cache-key"] != second.headers["x-skate-cache-key"]


def test_a_cache_in_files_outlives_the_service(write: Write, place: Path) -> None:
    write(p=PLUGIN)
    flags = {"cache.enabled": True, "cache.mode": "file", "cache.file_dir": "kept", "cache.max_size": 3}
    with client_of(**flags) as client:
        assert data(client.get("/api/v1/count?x=1")) == 1
    with client_of(**flags) as client:
        assert client.get("/api/v1/count?x=1").headers["x-skate-cache-status"] == "HIT"
        (file,) = (place / "kept").glob("*.json")
        file.write_text("broken")
        assert client.get("/api/v1/count?x=1").headers["x-skate-cache-status"] == "MISS"
        for number in range(5):
            client.get(f"/api/v1/count?x={number}")
        assert len(list((place / "kept").iterdir())) == 3


def test_without_the_cache_a_route_says_that_it_is_off(write: Write) -> None:
    write(p=PLUGIN)
    with client_of() as client:
        answers = [client.get("/api/v1/count"), client.get("/api/v1/count")]
        assert [data(each) for each in answers] == [1, 2]
        assert {each.headers["x-skate-cache-status"] for each in answers} == {"DISABLED"}


def test_an_answer_that_cannot_be_kept_is_given_all_the_same(write: Write, place: Path) -> None:
    write(p=PLUGIN)
    (place / "kept").write_text("a file where the folder should be")
    with client_of(**{"cache.enabled": True, "cache.mode": "file", "cache.file_dir": "kept"}) as client:
        assert [data(client.get("/api/v1/count")), data(client.get("/api/v1/count"))] == [1, 2]


def test_secrets_are_in_no_answer_page_or_log(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    write(p=PLUGIN)
    flags = {
        "auth.rules": {"/api/v1/base/*": ["sesame"]},
        "plugins.p": {"client_secret": "sesame", "url": "a://b:sesame@c"},
    }
    with client_of(**flags) as client:
        answers = [
            client.get(path, headers={"authorization": "sesame"})
            for path in (
                "/docs",
                "/api/v1/openapi.json",
                "/metrics",
                "/ready",
                "/api/v1/base/x?key=sesame",
                "/api/v1/fails",
            )
        ]
    assert answers[-1].status_code == 500
    assert not [answer.url for answer in answers if "sesame" in answer.text]
    assert "engine.name" in answers[0].text and "inline" in answers[0].text
    lines = [Lines(True).format(record) for record in caplog.records if record.name.endswith("access")]
    assert lines and not any("sesame" in line for line in lines)
    assert json.loads(lines[0])["path"] == "/docs" and json.loads(lines[0])["status"] == 200


def test_a_request_has_one_id_in_log_and_answer(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    write(p=PLUGIN)
    with client_of() as client:
        mine = client.get("/api/v1/fails", headers={"x-request-id": "mine-1"})
        assert mine.headers["x-request-id"] == "mine-1" and "mine-1" in mine.json()["message"]
        forged = client.get("/api/v1/open", headers={"x-request-id": "a b\tc"})
        assert forged.headers["x-request-id"] != "a b\tc"
    assert "RuntimeError" in caplog.text


def test_a_line_of_the_log_cannot_be_forged() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "request", (), None)
    record.fields = {"path": "/a\nforged", "status": 200}  # type: ignore[attr-defined]
    assert Lines(False).format(record).count("\n") == 0


def test_quiet_paths_are_not_logged(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    write(p=PLUGIN)
    with client_of(**{"server.excluded_log_paths": ["/health", "/api/v1/base/*"]}) as client:
        for path in ("/health", "/api/v1/base/x", "/api/v1/open"):
            client.get(path)
    paths = [record.fields["path"] for record in caplog.records if hasattr(record, "fields")]  # type: ignore[attr-defined]
    assert paths == ["/api/v1/open"]


def test_other_origins_may_call_if_they_are_listed(write: Write) -> None:
    write(p=PLUGIN)
    flags = {"cors.allow_origins": ["https://a.example"], "auth.rules": {"/api/v1/open": ["k"]}}
    asks = {"origin": "https://a.example", "access-control-request-method": "GET"}
    with client_of(**flags) as client:
        allowed = client.options("/api/v1/open", headers=asks)
        assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "https://a.example"
        assert client.options("/api/v1/open", headers={**asks, "origin": "https://b.example"}).status_code == 400
        refused = client.get("/api/v1/open", headers={"origin": "https://a.example"})
        assert refused.status_code == 401 and "access-control-allow-origin" in refused.headers


def test_a_limit_of_all_requests_is_kept_and_health_passes_it(write: Write) -> None:
    from concurrent.futures import ThreadPoolExecutor

    write(
        p="""
        import asyncio
        @on_register()
        class P(BasePlugin):
            @on_request("/slow", methods=["GET"])
            async def slow(self) -> str:
                await asyncio.sleep(0.7)
                return "done"
        """
    )
    flags = {"server.ingress_config": {"max_ongoing_requests": 1, "max_queued_requests": 1}}
    with client_of(**flags) as client, ThreadPoolExecutor(6) as threads:
        slow = [threads.submit(client.get, "/api/v1/slow") for _ in range(5)]
        assert client.get("/health").status_code == 200
        statuses = sorted(each.result().status_code for each in slow)
    assert statuses.count(200) >= 1 and statuses[-1] == 503


def test_a_request_that_takes_too_long_is_answered(write: Write) -> None:
    write(p="import asyncio" + PLUGIN.replace('return "open"', "await asyncio.sleep(9)"))
    with client_of(**{"server.request_timeout_s": 0.1}) as client:
        assert client.get("/api/v1/open").status_code == 504


def test_prefixes_belong_to_one_plugin_only() -> None:
    def own(**paths: str) -> dict[str, list[str]]:
        return own_prefixes({path: frozenset(who.split()) for path, who in paths.items()})

    assert own(**{"/a/x": "one", "/a/y/{n}": "two", "/docs": "gate"}) == {
        "one": ["/a/x"],
        "two": ["/a/y"],
        "gate": ["/docs"],
    }
    assert own(**{"/a": "one", "/a/b": "one"}) == {"one": ["/a"]}
    assert own(**{"/a": "one", "/a/b": "two"}) == {"two": ["/a/b"]}
    assert own(**{"/a/{x}": "one", "/a/b": "two"}) == {}
    assert own(**{"/{x}": "one", "/b": "two"}) == {}
    assert own(**{"/a": "one two"}) == {}
