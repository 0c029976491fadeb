"""Servers that lie in lists, are busy, die with a word, or leave children: what others and their status see of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp.shared.exceptions import MCPError
from mcp_peers import BOTH, Client, calculator, on_loop, program, serving, words
from mcp_types import CreateMessageResult, TextContent

from skate.serve import mcp
from skate.serve.mcp.entries import checked
from skate.serve.mcp.guardian import Guardian
from skate.serve.mcp.listing import Listing
from skate.serve.mcp.messages import RpcError, decode, encode
from skate.serve.mcp.names import KINDS, TOOLS, Names

both = pytest.mark.parametrize("mode", BOTH)

LIARS = """
CAPABILITIES = {"tools": {}, "prompts": {}, "resources": {}}
TOOLS = [
    tool("pid", outputSchema={"type": "nonsense"}, title=3, description=None, annotations=[], icons={}, execution="x"),
    tool("plain", description="fine", annotations={"readOnlyHint": True, "more": 1}),
    {"name": "odd", "inputSchema": {"type": "array"}},
    {"name": "", "inputSchema": {"type": "object"}},
    {"name": "deep", "inputSchema": {"type": "object", "properties": {"x": 3}}},
]
def handle(m):
    method = m.get("method")
    if method == "prompts/list":
        answer(m["id"], {"prompts": [{"name": "p", "arguments": "x", "title": "P"}, {"name": None}, 4]})
    elif method == "resources/list":
        answer(m["id"], {"resources": [{"uri": "x://1", "name": "one", "size": "big"}, {"uri": "x://2"}]})
    elif method == "resources/templates/list":
        answer(m["id"], {"resourceTemplates": [{"uriTemplate": "x://{y}", "name": "y", "mimeType": 1}, {"name": "z"}]})
    else: return False
    return True
"""


@both
@on_loop
async def test_one_wrong_item_hides_no_other(mode: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        gateway = mcp.gateway({"liar": mcp.bridge(program(tmp_path, LIARS)), "good": mcp.app(calculator)})
        url = await stack.enter_async_context(serving(gateway))
        client = await stack.enter_async_context(Client(url, mode=mode))
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}  # the official client checks all of it
        assert [name for name in tools if name.startswith("liar")] == ["liar__pid", "liar__plain"]
        assert "good__add" in tools
        assert tools["liar__plain"].annotations is not None and tools["liar__plain"].annotations.read_only_hint
        assert tools["liar__pid"].output_schema is None and tools["liar__pid"].title is None
        assert words(await client.call_tool("liar__pid", {})).isdigit()
        assert {p.name: p.title for p in (await client.list_prompts()).prompts} == {"liar__p": "P", "good__greet": None}
        assert [str(r.uri) for r in (await client.list_resources()).resources] == ["liar+x://1", "good+note://one"]
        templates = (await client.list_resource_templates()).resource_templates
        assert [t.uri_template for t in templates] == ["liar+x://{y}", "good+note://{name}/text"]


def test_ten_thousand_tools_and_their_complaints_are_told_in_short() -> None:
    listing = Listing(TOOLS, Names("it"))
    for number in range(10_000):
        listing.add(encode({"name": f"t{number}", "inputSchema": {"type": "object"}, "title": 3}))
        listing.add(encode({"name": f"t{number}", "inputSchema": {"type": "object"}}))
        listing.add(b'{"name": "' + b"x" * 1000 + b'"}')
    assert len(listing.items) == 10_000 and decode(listing.items["t9"].shown)["name"] == "it__t9"
    assert len(listing.complaints) < 2000 and "29995 more" in listing.complaints


@pytest.mark.parametrize("kind", list(KINDS.values()))
@pytest.mark.parametrize(
    "item", [b"3", b"[]", b"null", b"{}", b'{"name": 1, "uri": 1, "uriTemplate": 1}', b"\xff", b"{"]
)
def test_what_is_no_item_is_refused(kind: Any, item: bytes) -> None:
    with pytest.raises(RpcError):
        checked(kind.field, item)


async def model(_context: Any, _params: Any) -> CreateMessageResult:
    return CreateMessageResult(role="assistant", content=TextContent(type="text", text="yes"), model="m")


PICKY = """
ABLE = {}
def handle(m):
    if m.get("method") == "initialize": ABLE.update(m["params"]["capabilities"])
    elif m.get("method") == "tools/list":
        answer(m["id"], {"tools": [tool("pid")] + ([tool("ask")] if "sampling" in ABLE else []) + EXTRA})
        return True
    elif (m.get("params") or {}).get("name") == "more":
        EXTRA.append(tool("new"))
        say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        answer(m["id"], text("ok"))
        return True
EXTRA = []
"""


@pytest.mark.parametrize("behind", ["bridge", "gateway"])
@both
@on_loop
async def test_clients_are_shown_the_tools_that_only_they_can_use(mode: str, behind: str, tmp_path: Path) -> None:
    server = mcp.bridge(program(tmp_path, PICKY), per_session=True)
    prefix = "it__" if behind == "gateway" else ""
    async with serving(mcp.gateway({"it": server}) if behind == "gateway" else server) as url:
        for able, names in ((False, ["pid"]), (True, ["pid", "ask"]), (False, ["pid"])):
            async with Client(url, mode=mode, sampling_callback=model if able else None) as client:
                for _ in range(2):
                    found = [tool.name for tool in (await client.list_tools()).tools]
                    assert found == [prefix + name for name in names]


@pytest.mark.parametrize("behind", ["bridge", "gateway"])
@on_loop
async def test_what_a_session_is_given_is_that_sessions(behind: str, tmp_path: Path) -> None:
    server = mcp.bridge(program(tmp_path, PICKY), per_session=True)
    prefix = "it__" if behind == "gateway" else ""
    async with (
        serving(mcp.gateway({"it": server}) if behind == "gateway" else server) as url,
        Client(url, mode="legacy", cache=None) as one,
        Client(url, mode="legacy", cache=None) as two,
    ):
        await one.call_tool(prefix + "more", {})
        for client, names in ((one, ["pid", "new"]), (two, ["pid"])):
            found = [tool.name for tool in (await client.list_tools()).tools]
            assert found == [prefix + name for name in names]


@on_loop
async def test_the_status_says_what_a_server_said_last_and_clients_are_not_told(tmp_path: Path) -> None:
    extra = "print('no such file: settings.json', file=sys.stderr, flush=True); sys.exit(2)"
    gateway = mcp.gateway({"it": mcp.bridge(program(tmp_path, extra)), "good": mcp.app(calculator)})
    async with serving(gateway) as url, Client(url) as client:
        with pytest.raises(MCPError, match="down") as caught:
            await client.call_tool("it__pid", {})
        assert "settings.json" not in str(caught.value)
        async with asyncio.timeout(20):
            while "settings.json" not in str(gateway.status()["it"]["failure"]):
                await asyncio.sleep(0.05)
        assert gateway.status()["it"]["state"] == "down"


@on_loop
async def test_a_server_that_does_one_thing_at_a_time_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skate.serve.mcp import upstream

    monkeypatch.setattr(upstream, "ANSWERS_PING", 0.2)
    extra = """
def handle(m):
    if (m.get("params") or {}).get("name") == "long":
        time.sleep(2); answer(m["id"], text(str(os.getpid()))); return True
"""
    app = mcp.bridge(program(tmp_path, extra), limits={"health": 0.1})
    async with serving(app) as url, Client(url, mode="legacy") as client:
        pid = words(await client.call_tool("pid", {}))
        assert words(await client.call_tool("long", {})) == pid


@on_loop
async def test_a_slow_start_is_not_a_slow_call(tmp_path: Path) -> None:
    app = mcp.bridge(program(tmp_path, "time.sleep(1)"), limits={"call": 0.3})
    async with serving(app) as url, Client(url, mode="legacy") as client:
        assert words(await client.call_tool("pid", {})).isdigit()


def gone(*pids: int) -> None:
    deadline = time.monotonic() + 20
    for pid in pids:
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, pid
            time.sleep(0.02)


def test_what_a_command_started_ends_when_the_bridging_process_is_killed(tmp_path: Path) -> None:
    stubborn = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); sys.stdin = iter(lambda: time.sleep(9), 1)"
    )
    command = " ".join(
        program(tmp_path, f"print(os.getpid(), file=open('{tmp_path}/pid', 'w'), flush=True); {stubborn}")
    )
    shell = ["sh", "-c", f"exec 3<&0; {command} <&3 & wait"]
    text = f"""
import asyncio
from skate.serve.mcp.peers import NOBODY
from skate.serve.mcp.stdio import Command, StdioPeer
peer = StdioPeer(Command.of({shell!r}), NOBODY, print, print, timeout=60)
asyncio.run(peer.begin())
"""
    bridging = subprocess.Popen([sys.executable, "-c", text])
    where = tmp_path / "pid"
    try:
        deadline = time.monotonic() + 20
        while not (where.exists() and where.read_text().strip()):
            assert time.monotonic() < deadline and bridging.poll() is None
            time.sleep(0.02)
        children = [child.pid for child in psutil.Process(bridging.pid).children(recursive=True)]
        assert int(where.read_text()) in children and len(children) == 3  # the shell, its child, who watches
    finally:
        bridging.kill()
        bridging.wait()
    gone(*children)


def test_the_guardian_comes_back_if_it_is_killed_and_goes_when_it_is_not_needed() -> None:
    guardian = Guardian()
    sleepers = [subprocess.Popen(["sleep", "100"], start_new_session=True) for _ in range(2)]
    try:
        guardian.add(sleepers[0].pid)
        first = guardian._process
        assert first is not None
        first.kill()
        first.wait()
        guardian.add(sleepers[1].pid)
        second = guardian._process
        assert second is not None and second.pid != first.pid and second.stdin is not None
        second.stdin.close()  # as the end of this process would
        assert [sleeper.wait(20) for sleeper in sleepers] == [-9, -9]  # it was told of both
        second.wait(20)
        third = subprocess.Popen(["sleep", "100"], start_new_session=True)
        sleepers.append(third)
        guardian.add(third.pid)
        watching = guardian._process
        assert watching is not None
        for sleeper in sleepers:
            guardian.remove(sleeper.pid)
        gone(watching.pid)
        assert third.poll() is None and guardian._process is None
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


@on_loop
async def test_children_that_a_server_leaves_end_with_it(tmp_path: Path) -> None:
    extra = f"""
import subprocess
child = subprocess.Popen(["sleep", "100"])
open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
"""
    async with serving(mcp.bridge(program(tmp_path, extra))) as url, Client(url, mode="legacy") as client:
        child = int((tmp_path / "child").read_text())
        assert psutil.pid_exists(child)
        with pytest.raises(MCPError, match="ended with 3"):
            await client.call_tool("exit", {})
        await asyncio.to_thread(gone, child)
