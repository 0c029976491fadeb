"""Streamable HTTP as such: what is asked of requests, sessions, and who may ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp_peers import HEADERS, Client, calculator, on_loop, program, serving, words

from skate.serve import mcp

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
SECRETS = ("first-secret-0123456789", "other-secret-0123456789")


def applications(folder: Path, **options: Any) -> dict[str, Any]:
    """One of each kind."""
    return {
        "app": mcp.app(calculator, **options),
        "bridge": mcp.bridge(program(folder), **options),
        "gateway": mcp.gateway({"a": mcp.app(calculator)}, **options),
    }


kinds = pytest.mark.parametrize("kind", ["app", "bridge", "gateway"])


@kinds
@on_loop
async def test_foreign_hosts_and_origins_are_refused(kind: str, tmp_path: Path) -> None:
    async with serving(applications(tmp_path)[kind]) as url, httpx2.AsyncClient(headers=HEADERS) as http:

        async def status(**headers: str) -> int:
            return (await http.post(url, json=INITIALIZE, headers=headers)).status_code

        assert await status() == 200
        assert await status(host="evil.example") == 421
        assert await status(host="localhost:1234") == 200
        assert await status(origin="https://evil.example") == 403
        assert await status(origin="http://localhost.evil.example") == 403
        assert await status(origin="http://localhost:3000") == 200
        assert await status(origin="null") == 403
        preflight = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
        answer = await http.options(url, headers=preflight)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert (await http.options(url, headers={**preflight, "origin": "https://evil.example"})).status_code == 403


@kinds
@on_loop
async def test_hosts_and_origins_can_be_named(kind: str, tmp_path: Path) -> None:
    access = mcp.Access(hosts=["tools.example"], origins=["https://pages.example"])
    own = {**HEADERS, "host": "tools.example:80"}
    async with serving(applications(tmp_path, access=access)[kind]) as url, httpx2.AsyncClient(headers=own) as http:
        answer = await http.post(url, json=INITIALIZE, headers={"origin": "https://pages.example"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://pages.example"
        assert (await http.post(url, json=INITIALIZE, headers={"origin": "http://localhost"})).status_code == 403
        assert (await http.post(url, json=INITIALIZE, headers={"host": "localhost"})).status_code == 421


@kinds
@on_loop
async def test_without_a_known_token_nothing_is_answered(kind: str, tmp_path: Path) -> None:
    access = mcp.Access(tokens=[mcp.Token(secret) for secret in SECRETS])
    async with serving(applications(tmp_path, access=access)[kind]) as url, httpx2.AsyncClient(headers=HEADERS) as http:
        wrong = ["", "Bearer", "Bearer x", f"Basic {SECRETS[0]}", f"Bearer {SECRETS[0]}x", f"Bearer {SECRETS[0][:-1]}"]
        for header in wrong:
            answer = await http.post(url, json=INITIALIZE, headers={"authorization": header})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert SECRETS[0] not in answer.text
        for secret in SECRETS:
            answer = await http.post(url, json=INITIALIZE, headers={"authorization": f"Bearer {secret}"})
            assert answer.status_code == 200


@on_loop
async def test_a_token_sees_and_uses_only_what_it_may() -> None:
    tokens = [
        mcp.Token(SECRETS[0], "adder", tools=["a__add"], resources=["a+note://one"]),
        mcp.Token(SECRETS[1], "rest", tools=["b__*"], resources=[]),
    ]
    servers = {"a": mcp.app(calculator), "b": mcp.app(calculator)}
    async with serving(mcp.gateway(servers, access=mcp.Access(tokens=tokens))) as url:
        found = []
        for secret in SECRETS:
            bearer = {"authorization": f"Bearer {secret}"}
            async with httpx2.AsyncClient(headers={**HEADERS, **bearer}) as http:
                for mode in ("session", "none"):
                    post = await poster(http, url, mode)

                    async def asks(method: str, post: Callable[..., Any] = post, **params: Any) -> dict[str, Any]:
                        return await post(method, params)

                    tools = (await asks("tools/list"))["result"]["tools"]
                    resources = (await asks("resources/list"))["result"]["resources"]
                    found.append(({tool["name"] for tool in tools}, {each["uri"] for each in resources}))
                    mine = "a__add" if secret == SECRETS[0] else "b__add"
                    other = "b__add" if secret == SECRETS[0] else "a__add"
                    args = {"a": 1, "b": 2}
                    good = await asks("tools/call", name=mine, arguments=args)
                    assert good["result"]["structuredContent"] == {"result": 3}
                    bad = await asks("tools/call", name=other, arguments=args)
                    none = await asks("tools/call", name="b__nothing", arguments=args)
                    assert bad["error"] == {"code": -32602, "message": f"Unknown name {other!r}"}
                    assert mine == "b__add" or none["error"]["message"] == "Unknown name 'b__nothing'"
                    read = await asks("resources/read", uri="a+note://one")
                    assert ("result" in read) == (secret == SECRETS[0])
        all_of_b = {f"b__{name}" for name in ("add", "count", "sleep", "ask", "fail")}
        assert found == [({"a__add"}, {"a+note://one"})] * 2 + [(all_of_b, set())] * 2


async def poster(http: httpx2.AsyncClient, url: str, mode: str) -> Callable[..., Any]:
    """A function that asks, in a session or as revision 2026-07-28 does."""
    if mode == "session":
        begun = await http.post(url, json=INITIALIZE)
        headers = {"mcp-session-id": begun.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
    numbers = iter(range(1, 100))

    async def post(method: str, params: dict[str, Any]) -> dict[str, Any]:
        body = {"jsonrpc": "2.0", "id": next(numbers), "method": method, "params": params}
        if mode == "session":
            answer = await http.post(url, json=body, headers=headers)
        else:
            answer = await http.post(url, json=modern(body), headers=modern_headers(body))
        found: dict[str, Any] = answer.json()
        return found

    return post


def modern(body: dict[str, Any]) -> dict[str, Any]:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {**body, "params": {**body.get("params", {}), "_meta": meta}}


def modern_headers(body: dict[str, Any]) -> dict[str, str]:
    named = body.get("params", {}).get("name") or body.get("params", {}).get("uri")
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": body["method"]}
    return {**headers, "mcp-name": named} if named else headers


@pytest.mark.parametrize("kind", ["bridge", "gateway"])
@on_loop
async def test_sessions_belong_to_who_began_them_and_end(kind: str, tmp_path: Path) -> None:
    access = mcp.Access(tokens=[mcp.Token(SECRETS[0], "one"), mcp.Token(SECRETS[1], "two")])
    async with serving(applications(tmp_path, access=access)[kind]) as url, httpx2.AsyncClient(headers=HEADERS) as http:
        one, two = ({"authorization": f"Bearer {secret}"} for secret in SECRETS)
        begun = await http.post(url, json=INITIALIZE, headers=one)
        number = begun.headers["mcp-session-id"]
        assert begun.json()["result"]["protocolVersion"] == "2025-11-25"
        session = {"mcp-session-id": number}
        assert (await http.post(url, json=PING, headers={**one, **session})).json() == {
            "jsonrpc": "2.0", "id": 1, "result": {},
        }  # fmt: skip
        assert (await http.post(url, json=PING, headers={**two, **session})).status_code == 404
        assert (await http.post(url, json=PING, headers=one)).status_code == 400
        assert (await http.post(url, json=PING, headers={**one, "mcp-session-id": "x"})).status_code == 404
        assert (await http.delete(url, headers={**two, **session})).status_code == 404
        assert (await http.delete(url, headers={**one, **session})).status_code == 200
        assert (await http.post(url, json=PING, headers={**one, **session})).status_code == 404


@pytest.mark.parametrize("kind", ["bridge", "gateway"])
@on_loop
async def test_sessions_are_counted_and_unused_ones_end(kind: str, tmp_path: Path) -> None:
    app = applications(tmp_path, max_sessions=2)[kind]
    async with serving(app) as url, httpx2.AsyncClient(headers=HEADERS) as http:
        first = (await http.post(url, json=INITIALIZE)).headers["mcp-session-id"]
        assert (await http.post(url, json=INITIALIZE)).status_code == 200
        assert (await http.post(url, json=INITIALIZE)).status_code == 503
        await http.delete(url, headers={"mcp-session-id": first})
        second = (await http.post(url, json=INITIALIZE)).headers["mcp-session-id"]
        endpoint = app._endpoint
        endpoint._reaper.cancel()
        endpoint.table.idle = 0.08
        endpoint._reaper = asyncio.create_task(endpoint.table.reap())
        async with asyncio.timeout(5):
            while second in endpoint.table.sessions:
                await asyncio.sleep(0.02)
        assert (await http.post(url, json=PING, headers={"mcp-session-id": second})).status_code == 404


@pytest.mark.parametrize("kind", ["bridge", "gateway"])
@on_loop
async def test_bad_requests_get_clean_answers(kind: str, tmp_path: Path) -> None:
    async with serving(applications(tmp_path)[kind]) as url, httpx2.AsyncClient(headers=HEADERS) as http:
        number = (await http.post(url, json=INITIALIZE)).headers["mcp-session-id"]
        session = {"mcp-session-id": number}

        async def post(body: bytes | str, **headers: str) -> tuple[int, Any]:
            answer = await http.post(url, content=body, headers={**session, **headers})
            return answer.status_code, answer.json()["error"]["code"] if answer.content else None

        ping = json.dumps(PING)
        assert await post("{") == (400, -32700)
        assert await post(b"\xff") == (400, -32700)
        assert await post("[]") == (400, -32600)
        assert await post(json.dumps([PING])) == (400, -32600)
        assert await post('{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": 3}') == (400, -32600)
        assert await post("x" * 5_000_000) == (413, None)
        assert await post(ping, **{"content-type": "text/plain"}) == (415, -32600)
        assert await post(ping, accept="text/html") == (406, -32600)
        assert await post(ping, **{"mcp-protocol-version": "1999-01-01"}) == (400, -32022)
        assert (await http.post(url.replace("/mcp", "/other"), json=PING)).status_code == 404
        assert (await http.put(url, json=PING)).status_code == 405
        assert (await http.get(url, headers={**session, "accept": "application/json"})).status_code == 406
        wrong = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": 3}}
        found = (await http.post(url, json=wrong, headers=session)).json()
        assert found["id"] == 9 and "error" in found
        nothing = {"jsonrpc": "2.0", "id": "s", "method": "no/such"}
        found = (await http.post(url, json=nothing, headers=session)).json()
        assert (found["id"], found["error"]["code"]) == ("s", -32601)
        bad_start = {**INITIALIZE, "params": {"protocolVersion": 3}}
        assert (await http.post(url, json=bad_start)).json()["error"]["code"] == -32602
        for lone in ("notifications/cancelled", "notifications/roots/list_changed", "notifications/what"):
            answer = await http.post(url, json={"jsonrpc": "2.0", "method": lone}, headers=session)
            assert (answer.status_code, answer.content) == (202, b"")
        stray = {"jsonrpc": "2.0", "id": 77, "result": {}}
        assert (await http.post(url, json=stray, headers=session)).status_code == 202
        assert (await http.post(url, content=ping, headers=session)).json()["result"] == {}


@pytest.mark.parametrize("kind", ["bridge", "gateway"])
@on_loop
async def test_requests_without_sessions_must_agree_with_their_headers(kind: str, tmp_path: Path) -> None:
    async with serving(applications(tmp_path)[kind]) as url, httpx2.AsyncClient(headers=HEADERS) as http:
        body = {"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": {"name": "pid"}}

        async def post(body: dict[str, Any], **headers: str) -> tuple[int, int]:
            answer = await http.post(url, json=body, headers={**modern_headers(body), **headers})
            assert answer.json()["id"] == 4
            return answer.status_code, answer.json()["error"]["code"]

        assert await post(body) == (400, -32602)  # it does not say who asks
        assert await post(modern(body), **{"mcp-name": "other"}) == (400, -32020)
        assert await post(modern(body), **{"mcp-method": "tools/list"}) == (400, -32020)
        unknown = modern({"jsonrpc": "2.0", "id": 4, "method": "no/such"})
        assert await post(unknown) == (404, -32601)
        listed = {"jsonrpc": "2.0", "id": 4, "method": "tools/list"}
        answer = (await http.post(url, json=modern(listed), headers=modern_headers(listed))).json()["result"]
        assert (answer["resultType"], answer["cacheScope"]) == ("complete", "private")
        assert answer["tools"]
        assert (await http.get(url, headers={"mcp-protocol-version": "2026-07-28"})).status_code == 405


@pytest.mark.parametrize("kind", ["bridge", "gateway"])
@on_loop
async def test_only_one_stream_listens_and_it_ends_with_the_session(kind: str, tmp_path: Path) -> None:
    async with serving(applications(tmp_path)[kind]) as url, httpx2.AsyncClient(headers=HEADERS) as http:
        session = {"mcp-session-id": (await http.post(url, json=INITIALIZE)).headers["mcp-session-id"]}
        async with http.stream("GET", url, headers=session) as listening:
            assert listening.headers["content-type"] == "text/event-stream"
            assert (await http.get(url, headers=session)).status_code == 409
            await http.delete(url, headers=session)
            assert b'"result"' not in await listening.aread()  # it ends; what a server had to tell may have come


@on_loop
async def test_a_client_that_takes_no_streams_gets_plain_answers() -> None:
    own = {**HEADERS, "accept": "application/json"}
    async with serving(mcp.gateway({"a": mcp.app(calculator)})) as url, httpx2.AsyncClient(headers=own) as http:
        post = await poster(http, url, "session")
        asked = {"name": "a__count", "arguments": {"to": 3}, "_meta": {"progressToken": "t"}}
        found = await post("tools/call", asked)
        assert found["result"]["content"][0]["text"] == "counted to 3"


@kinds
@on_loop
async def test_the_application_is_found_below_a_prefix_and_starts_without_a_lifespan(kind: str, tmp_path: Path) -> None:
    import uvicorn

    app = applications(tmp_path)[kind]

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        scope = {**scope, "root_path": "/pre", "path": "/pre" + scope["path"].removeprefix("/pre")}
        await app(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(mounted, port=0, log_level="warning", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        for path in ("/pre", "/pre/", "/pre/mcp"):
            async with Client(f"http://127.0.0.1:{port}{path}", mode="legacy") as client:
                assert (await client.list_tools()).tools
    finally:
        await app_stopped(app)
        server.should_exit = True
        await task


async def app_stopped(app: Any) -> None:
    await (app.stop() if hasattr(app, "stop") else app._endpoint.stop())


@on_loop
async def test_an_application_that_a_test_client_calls_needs_no_socket() -> None:
    app = mcp.app(calculator, json_response=True)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", headers=HEADERS) as http:
        post = await poster(http, "/mcp", "none")
        found = await post("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
        assert found["result"]["structuredContent"] == {"result": 3}
    await app.stop()


@on_loop
async def test_a_server_that_cannot_be_made_says_so_and_is_tried_again() -> None:
    tries = []

    def build() -> Any:
        tries.append(1)
        if len(tries) < 2:
            raise ValueError("no database")
        return calculator()

    app = mcp.app(build)
    with pytest.raises(ValueError, match="no database"):
        await app.start()
    await app.start()
    async with serving(app) as url, Client(url) as client:
        assert words(await client.call_tool("count", {"to": 1})) == "counted to 1"


@pytest.mark.parametrize("secret", ["", "short"])
def test_short_secrets_are_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="at least 16 characters"):
        mcp.Token(secret)


def test_secrets_come_from_the_environment_and_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_TOKEN", SECRETS[0])
    token = mcp.Token(env="MCP_TOKEN")
    assert token.secret == SECRETS[0] and SECRETS[0] not in repr(mcp.Access(tokens=[token]))
    with pytest.raises(ValueError, match="MCP_OTHER"):
        mcp.Token(env="MCP_OTHER")
    with pytest.raises(ValueError, match="same secret"):
        mcp.Access(tokens=[token, mcp.Token(SECRETS[0])])


@on_loop
async def test_a_client_that_hangs_up_once_it_has_the_first_answer_keeps_its_session() -> None:
    app = mcp.app(calculator)
    headers = [(b"host", b"localhost"), *((name.lower().encode(), text.encode()) for name, text in HEADERS.items())]
    headers.append((b"content-type", b"application/json"))

    def asked(body: dict[str, Any], *more: tuple[bytes, bytes]) -> tuple[asyncio.Task[None], list[Any], asyncio.Event]:
        coming = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        gone, sent, answered = asyncio.Event(), [], asyncio.Event()

        async def receive() -> Any:
            if coming:
                return coming.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if message.get("body") or message.get("status", 200) != 200:
                answered.set()

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": "/mcp", "raw_path": b"/mcp", "query_string": b"", "root_path": "",
            "headers": [*headers, *more], "client": ("127.0.0.1", 1), "server": ("localhost", 80),
        }  # fmt: skip
        task = asyncio.ensure_future(app(scope, receive, send))
        task.add_done_callback(lambda _: gone.set())
        return task, sent, answered

    first, sent, answered = asked(INITIALIZE)
    await asyncio.wait_for(answered.wait(), 10)
    first.cancel()  # as serve does with the request of a client that has gone
    await asyncio.wait([first])
    session = next(text for name, text in sent[0]["headers"] if name == b"mcp-session-id")
    await asyncio.sleep(0.1)
    second, sent, answered = asked(PING, (b"mcp-session-id", session), (b"mcp-protocol-version", b"2025-11-25"))
    await asyncio.wait_for(answered.wait(), 10)
    assert sent[0]["status"] == 200
    await asyncio.wait_for(second, 10)
    await app.stop()


@pytest.mark.parametrize("kind", ["bridge", "gateway"])
@on_loop
async def test_a_session_begins_once(kind: str, tmp_path: Path) -> None:
    async with serving(applications(tmp_path)[kind]) as url, httpx2.AsyncClient(headers=HEADERS) as http:
        session = {"mcp-session-id": (await http.post(url, json=INITIALIZE)).headers["mcp-session-id"]}
        again = await http.post(url, json=INITIALIZE, headers=session)
        assert again.status_code == 400 and "mcp-session-id" not in again.headers
        lost = await http.post(url, json=INITIALIZE, headers={"mcp-session-id": "unknown"})
        assert lost.status_code == 404
        assert (await http.post(url, json=PING, headers=session)).status_code == 200


@pytest.mark.parametrize("kind", ["bridge", "gateway"])
@on_loop
async def test_larger_bodies_are_taken_where_that_is_wanted(kind: str, tmp_path: Path) -> None:
    app = applications(tmp_path, max_body=8 << 20)[kind]
    async with serving(app) as url, httpx2.AsyncClient(headers=HEADERS, timeout=20) as http:
        session = {"mcp-session-id": (await http.post(url, json=INITIALIZE)).headers["mcp-session-id"]}
        large = {**PING, "params": {"_meta": {"x": "y" * (6 << 20)}}}
        assert (await http.post(url, json=large, headers=session)).status_code == 200
        larger = {**PING, "params": {"_meta": {"x": "y" * (9 << 20)}}}
        assert (await http.post(url, json=larger, headers=session)).status_code == 413


@on_loop
async def test_a_client_that_does_not_read_has_bounded_room() -> None:
    from skate.serve.mcp import sessions
    from skate.serve.mcp.sessions import Stream

    blocked = asyncio.Event()

    async def send(_message: Any) -> None:
        await blocked.wait()

    stream = Stream(send, ())
    assert stream.put(b"x" * (sessions.UNREAD + 1))  # one alone may be larger
    assert not stream.put(b"y")
    stream.drop()
    stream = Stream(send, ())
    taken = sum(stream.put(b"z" * 100_000) for _ in range(500))
    assert 100 < taken <= sessions.UNREAD // 100_000
    stream.drop()
    blocked.set()
    await stream.done()


@on_loop
async def test_the_status_is_told_over_http() -> None:
    app = mcp.gateway({"a": mcp.app(calculator)})
    async with serving(app) as url, httpx2.AsyncClient(headers=HEADERS) as http:
        async with asyncio.timeout(20):
            while (found := (await http.get(url + "/status")).json())["a"]["state"] != "up":
                await asyncio.sleep(0.02)
        assert found == {"a": {"state": "up", "failure": None, "restarts": 0}}
        assert (await http.post(url + "/status", json=PING)).status_code == 405
