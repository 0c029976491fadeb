"""Streams that are lost and resumed: by clients of this server, and by the gateway from servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.mcpserver import Context, MCPServer
from mcp_peers import HEADERS, Client, on_loop, program, serving, words

from skate.serve import mcp
from skate.serve.mcp import trails
from skate.serve.mcp.events import EventReader, event
from skate.serve.mcp.trails import Ledger, Trails

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
SLOW = """
def handle(m):
    if m.get("method") != "tools/call" or m["params"]["name"] != "slow": return False
    token = (m["params"].get("_meta") or {}).get("progressToken")
    for n in range(1, 4):
        say({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": n}})
        time.sleep(0.4)
    say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    answer(m["id"], text("done"))
    return True
TOOLS.append(tool("slow"))
"""


def slow_server() -> MCPServer:
    server = MCPServer("slow", log_level="WARNING")

    @server.tool()
    async def slow(ctx: Context) -> str:
        for n in range(1, 4):
            await ctx.report_progress(n, 3)
            await asyncio.sleep(0.4)
        return "done"

    @server.tool()
    async def polled(ctx: Context) -> str:
        await ctx.close_sse_stream()
        await asyncio.sleep(0.2)
        return "asked again"

    return server


def applications(folder: Path) -> dict[str, Any]:
    """One of each kind, with a tool `slow` (`a__slow` for the gateway)."""
    return {
        "app": mcp.app(slow_server),
        "bridge": mcp.bridge(program(folder, SLOW)),
        "gateway": mcp.gateway({"a": mcp.app(slow_server)}),
    }


kinds = pytest.mark.parametrize("kind", ["app", "bridge", "gateway"])


def call_of(kind: str, number: int = 1) -> dict[str, Any]:
    params = {"name": "a__slow" if kind == "gateway" else "slow", "arguments": {}, "_meta": {"progressToken": "t"}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


async def begun(http: httpx2.AsyncClient, url: str) -> dict[str, str]:
    """The headers of a new session."""
    found = await http.post(url, json=INITIALIZE)
    return {"mcp-session-id": found.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}


async def events(answer: httpx2.Response, until: str) -> tuple[list[Any], str]:
    """The messages of a stream up to one that has this text in it, and the id of the last."""
    reader, found = EventReader(), []
    async for chunk in answer.aiter_bytes():
        for data in reader.feed(chunk):
            found.append(json.loads(data))
            if until in data.decode():
                return found, reader.last_id.decode()
    return found, reader.last_id.decode()


@kinds
@on_loop
async def test_a_client_that_lost_the_stream_of_its_call_comes_back_to_it(kind: str, tmp_path: Path) -> None:
    async with serving(applications(tmp_path)[kind]) as url, httpx2.AsyncClient(headers=HEADERS, timeout=20) as http:
        session = await begun(http, url)
        async with http.stream("POST", url, json=call_of(kind), headers=session) as answer:
            found, last = await events(answer, '"progress":1')
            assert last
        for _ in range(2):  # the second time all of it is over
            async with http.stream("GET", url, headers={**session, "last-event-id": last}) as answer:
                assert answer.status_code == 200
                found, end = await events(answer, '"result"')
            steps = [
                message["params"]["progress"] for message in found if message.get("method", "").endswith("progress")
            ]
            assert steps == [2, 3] and found[-1]["result"]["content"][0]["text"] == "done" and end != last


@pytest.mark.parametrize("kind", ["bridge", "gateway"])
@on_loop
async def test_ids_of_events_that_are_not_known_are_refused(kind: str, tmp_path: Path) -> None:
    async with serving(applications(tmp_path)[kind]) as url, httpx2.AsyncClient(headers=HEADERS, timeout=20) as http:
        session, other = await begun(http, url), await begun(http, url)
        async with http.stream("POST", url, json=call_of(kind), headers=session) as answer:
            _, last = await events(answer, '"result"')
        for wrong in ("x", "99-1", "1-99", "-", "1-", "-1", "1-1-1", "9" * 5000 + "-1", "\u0661-1"):
            answer = await http.get(url, headers={**session, "last-event-id": wrong.encode("utf-8")})
            assert answer.status_code == 400, wrong
        assert (await http.get(url, headers={**other, "last-event-id": last})).status_code == 400
        assert (await http.get(url, headers={"mcp-session-id": "x", "last-event-id": last})).status_code == 404


@on_loop
async def test_another_session_cannot_come_back_to_a_stream_of_an_application() -> None:
    async with serving(mcp.app(slow_server)) as url, httpx2.AsyncClient(headers=HEADERS, timeout=20) as http:
        session, other = await begun(http, url), await begun(http, url)
        async with http.stream("POST", url, json=call_of("app"), headers=session) as answer:
            _, last = await events(answer, '"progress":1')
        async with http.stream("GET", url, headers={**other, "last-event-id": last}) as answer:
            assert (await answer.aread()) == b""


@on_loop
async def test_what_was_told_while_nobody_listened_comes_with_the_next_stream(tmp_path: Path) -> None:
    app = mcp.bridge(program(tmp_path, SLOW))
    async with serving(app) as url, httpx2.AsyncClient(headers=HEADERS, timeout=20) as http:
        session = await begun(http, url)

        async def heard(**more: str) -> tuple[list[Any], str]:
            async with http.stream("GET", url, headers={**session, **more}) as answer:
                assert answer.status_code == 200
                return await events(answer, "list_changed")

        async def called() -> None:
            assert "done" in (await http.post(url, json=call_of("bridge"), headers=session)).text

        (first, last), _ = await asyncio.gather(heard(), called())
        assert len(first) == 1 and last.startswith("0-")
        (again, newest), _ = await asyncio.gather(heard(**{"last-event-id": last}), called())
        assert len(again) == 1 and newest != last
        both, _ = await heard(**{"last-event-id": "0-0"})
        assert len(both) == 1  # up to the first that was looked for
        async with http.stream("GET", url, headers=session) as one:
            assert one.status_code == 200
            assert (await http.get(url, headers=session)).status_code == 409
            async with http.stream("GET", url, headers={**session, "last-event-id": newest}) as two:
                assert two.status_code == 200  # who comes back takes over
                assert b'"result"' not in await one.aread()  # it ends


@contextlib.asynccontextmanager
async def through(url: str) -> AsyncIterator[tuple[str, Any]]:
    """A way to a server that can be cut; its address, and what cuts all its connections."""
    port = int(url.split(":")[2].partition("/")[0])
    writers: set[asyncio.StreamWriter] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        writers.update((writer, back))
        await asyncio.gather(pump(reader, back), pump(there, writer))

    def cut() -> None:
        for writer in writers:
            writer.transport.abort()
        writers.clear()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp", cut
    finally:
        server.close()
        cut()


@kinds
@on_loop
async def test_the_official_client_gets_its_answer_over_a_connection_that_is_cut(kind: str, tmp_path: Path) -> None:
    async with (
        serving(applications(tmp_path)[kind]) as url,
        through(url) as (way, cut),
        Client(way, mode="legacy") as client,
    ):
        steps = []

        async def step(done: float, *_: Any) -> None:
            steps.append(done)
            if done == 1:
                cut()

        called = await client.call_tool("a__slow" if kind == "gateway" else "slow", {}, progress_callback=step)
        assert words(called) == "done" and steps == [1, 2, 3]


@on_loop
async def test_the_gateway_gets_its_servers_answer_over_a_connection_that_is_cut() -> None:
    async with (
        serving(mcp.app(slow_server)) as behind,
        through(behind) as (way, cut),
        serving(mcp.gateway({"a": way})) as url,
        Client(url, mode="legacy") as client,
    ):
        steps = []

        async def step(done: float, *_: Any) -> None:
            steps.append(done)
            if done == 1:
                cut()

        assert words(await client.call_tool("a__slow", {}, progress_callback=step)) == "done"
        assert steps == [1, 2, 3]


@on_loop
async def test_a_server_that_lets_its_streams_end_is_asked_again() -> None:
    async with (
        serving(mcp.app(slow_server)) as behind,
        serving(mcp.gateway({"a": behind})) as url,
        Client(url, mode="legacy") as client,
    ):
        assert words(await client.call_tool("a__polled", {})) == "asked again"


# what is kept


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300)), max_size=80))
def test_no_more_is_kept_than_there_may_be_and_the_newest_is(sizes: list[tuple[int, int]]) -> None:
    ledger = Ledger(2000)
    sessions = [Trails(ledger) for _ in range(4)]
    for session, size in sizes:
        trail = sessions[session].begin()
        frame = trail.frame(b"x" * size)
        trail.end()
        assert trail.after(0) == [frame] and sessions[session].find(b"%d-1" % trail.number) == (trail, 1)
        assert ledger.size <= 2000
    assert ledger.size == sum(len(kept.frame) for each in sessions for kept in each._order)
    for each in sessions:
        each.clear()
        assert set(each._trails) == {0}
    assert ledger.size == 0


def test_one_session_cannot_take_the_room_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trails, "SESSION", 1000)
    monkeypatch.setattr(trails, "EVENTS", 10)
    ledger = Ledger(100_000)
    quiet, loud = Trails(ledger), Trails(ledger)
    kept = quiet.begin().frame(b"kept")
    for _ in range(1000):
        loud.own.frame(b"y" * 200)
    assert len(loud.own.after(0)) == 4 and quiet.find(b"1-0") is not None
    assert quiet.find(b"1-0")[0].after(0) == [kept]  # type: ignore[index]
    for _ in range(50):
        loud.own.frame(b"")
    assert len(loud.own.after(0)) == 10
    huge = loud.own.frame(b"z" * 5000)  # an answer alone may be larger
    assert loud.own.after(0) == [huge]


@given(st.binary(max_size=200).filter(lambda data: b"\n" not in data and b"\r" not in data), st.integers(1, 50))
def test_ids_are_read_back_however_the_stream_is_cut(data: bytes, size: int) -> None:
    reader, found = EventReader(), []
    stream = event(data, b"1-1") + b"retry: 1500\nid: 1-2\ndata:\n\n" + event(data, b"1-3")[:-1]
    for start in range(0, len(stream), size):
        found += reader.feed(stream[start : start + size])
    assert found == ([data] if data else []) and (reader.last_id, reader.retry) == (b"1-2", 1.5)
    reader.renew()
    assert reader.feed(event(b"{}")) == [b"{}"] and reader.last_id == b"1-2"
