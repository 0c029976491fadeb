"""The bridge: servers of the standard streams behind HTTP, a known one and rude ones."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp.shared.exceptions import MCPError
from mcp_peers import BOTH, Client, on_loop, program, serving, words

from skate.serve import mcp

both = pytest.mark.parametrize("mode", BOTH)
TIME = [sys.executable, "-m", "mcp_server_time", "--local-timezone", "UTC"]


async def ended(pid: int) -> None:
    async with asyncio.timeout(60):
        while psutil.pid_exists(pid):
            await asyncio.sleep(0.02)


async def refusal(url: str) -> str:
    """Why a client cannot begin."""
    try:
        async with Client(url, mode="legacy"):
            return "it began"
    except* MCPError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        said = str(error)
    return said


async def error_of(call: Any) -> str:
    with pytest.raises(MCPError) as caught:
        await call
    return str(caught.value)


@pytest.mark.slow
@both
@on_loop
async def test_a_known_server_runs_behind_the_bridge(mode: str) -> None:
    async with serving(mcp.bridge(TIME)) as url, Client(url, mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["get_current_time", "convert_time"]
        asked = {"source_timezone": "Europe/Berlin", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        assert "Asia/Tokyo" in words(await client.call_tool("convert_time", asked))
        wrong = await client.call_tool("convert_time", {**asked, "time": "noon"})
        assert wrong.is_error and "Invalid time format" in words(wrong)
        assert client.server_info is not None and client.server_info.name == "mcp-time"


@pytest.mark.slow
def test_a_server_runs_behind_the_bridge_on_uvloop(tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    text = f"""
import uvloop
from mcp_peers import Client, serving, words
from skate.serve import mcp

async def use():
    app = mcp.bridge({program(tmp_path)!r}, per_session=True)
    async with serving(app) as url, Client(url, mode="legacy") as client:
        pid = words(await client.call_tool("pid", {{}}))
        try:
            await client.call_tool("exit", {{}})
        except Exception as error:
            print(pid.isdigit(), error)

uvloop.run(use())
"""  # in a process of its own, for libuv keeps a pipe open from its first loop on
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True ") and "ended with 3" in done.stdout


@both
@on_loop
async def test_all_clients_share_one_process_which_ends_with_the_bridge(mode: str, tmp_path: Path) -> None:
    async with serving(mcp.bridge(program(tmp_path))) as url:
        pids = set()
        for _ in range(3):
            async with Client(url, mode=mode) as client:
                pids.add(words(await client.call_tool("pid", {})))
        assert len(pids) == 1
    await ended(int(pids.pop()))


@on_loop
async def test_each_session_has_a_process_which_ends_with_it(tmp_path: Path) -> None:
    async with serving(mcp.bridge(program(tmp_path), per_session=True)) as url:
        async with Client(url, mode="legacy") as one, Client(url, mode="legacy") as two:
            pids = [words(await client.call_tool("pid", {})) for client in (one, two, one, two)]
            assert pids[:2] == pids[2:] and pids[0] != pids[1]
        for pid in pids[:2]:
            await ended(int(pid))


SAMPLES = """
def handle(m):
    if (m.get("params") or {}).get("name") == "ask":
        say({"jsonrpc": "2.0", "id": "q1", "method": "sampling/createMessage", "params": {
            "messages": [{"role": "user", "content": {"type": "text", "text": "well?"}}], "maxTokens": 5}})
        answer(m["id"], text(json.loads(sys.stdin.readline())["result"]["content"]["text"]))
        return True
TOOLS.append(tool("ask"))
"""


@both
@on_loop
async def test_a_process_of_its_own_can_ask_the_clients_model(mode: str, tmp_path: Path) -> None:
    from mcp_types import CreateMessageResult, TextContent

    async def model(_context: Any, params: Any) -> CreateMessageResult:
        content = TextContent(type="text", text=f"to {params.messages[0].content.text}")
        return CreateMessageResult(role="assistant", content=content, model="m")

    app = mcp.bridge(program(tmp_path, SAMPLES), per_session=True)
    async with serving(app) as url, Client(url, mode=mode, sampling_callback=model) as client:
        assert words(await client.call_tool("ask", {})) == "to well?"


@both
@on_loop
async def test_a_process_that_dies_fails_its_calls_and_is_started_again(mode: str, tmp_path: Path) -> None:
    async with serving(mcp.bridge(program(tmp_path))) as url, Client(url, mode=mode) as client:
        first = words(await client.call_tool("pid", {}))
        assert "ended with 3" in await error_of(client.call_tool("exit", {}))
        async with asyncio.timeout(60):
            while True:
                try:
                    assert words(await client.call_tool("pid", {})) != first
                    break
                except MCPError as error:
                    assert "down" in str(error)
                    await asyncio.sleep(0.02)


@pytest.mark.slow
@on_loop
async def test_a_process_that_dies_at_once_is_left_alone_for_longer_and_longer(tmp_path: Path) -> None:
    log = tmp_path / "starts"
    extra = f"open({str(log)!r}, 'a').write('x'); sys.exit(7)"
    app = mcp.bridge(program(tmp_path, extra))
    async with serving(app) as url:
        begun = time.monotonic()
        while time.monotonic() - begun < 1.5 or len(log.read_text()) < 2:
            assert "down" in await refusal(url)
            await asyncio.sleep(0.02)
        assert 2 <= len(log.read_text()) <= 4  # after 0, 0.2, 0.6 and 1.4 s
        (status,) = app.status().values()
        assert status["state"] == "down" and "ended" in str(status["failure"])


@pytest.mark.slow
@both
@on_loop
async def test_a_call_that_hangs_ends_and_so_does_a_process_that_answers_nothing(mode: str, tmp_path: Path) -> None:
    from skate.serve.mcp import upstream

    async with serving(mcp.bridge(program(tmp_path), limits={"call": 0.3})) as url, Client(url, mode=mode) as client:
        pid = int(words(await client.call_tool("pid", {})))
        begun = time.monotonic()
        assert "no answer to tools/call in 0.3 s" in await error_of(client.call_tool("hang", {}))
        assert time.monotonic() - begun < 30
        await ended(pid)  # it did not answer a ping either
        async with asyncio.timeout(60):
            while True:
                try:
                    assert int(words(await client.call_tool("pid", {}))) != pid
                    break
                except MCPError:
                    await asyncio.sleep(0.02)
    assert upstream.ANSWERS_PING == 5.0


GARBAGE = r"""
sys.stdout.write("Starting...\n\n\x1b[31mhello\n{\n[]\n{\"jsonrpc\": \"2.0\"}\n"); sys.stdout.flush()
print("to stderr", file=sys.stderr, flush=True)
def handle(m):
    print("DEBUG", m.get("method"), flush=True)
    sys.stdout.buffer.write(b"\xff\xfe\x00\n"); sys.stdout.flush()
    say({"jsonrpc": "2.0", "id": 987654, "result": {}})
"""


@both
@on_loop
async def test_garbage_among_the_messages_is_passed_over(mode: str, tmp_path: Path) -> None:
    async with serving(mcp.bridge(program(tmp_path, GARBAGE))) as url, Client(url, mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["pid", "exit", "hang"]
        assert words(await client.call_tool("pid", {})).isdigit()


LONG = """
def handle(m):
    name = (m.get("params") or {}).get("name")
    if name == "long": answer(m["id"], text("x" * 20_000_000)); return True
    if name == "big": answer(m["id"], text("y" * 2_000_000)); return True
"""


@both
@on_loop
async def test_a_line_that_is_too_long_fails_its_call_alone(mode: str, tmp_path: Path) -> None:
    async with serving(mcp.bridge(program(tmp_path, LONG))) as url, Client(url, mode=mode) as client:
        assert "more than 16777216 bytes" in await error_of(client.call_tool("long", {}))
        assert words(await client.call_tool("big", {})) == "y" * 2_000_000
        assert words(await client.call_tool("pid", {})).isdigit()


FLOOD = """
def handle(m):
    if (m.get("params") or {}).get("name") == "flood":
        token = m["params"].get("_meta", {}).get("progressToken")
        for n in range(4_000):
            say({"jsonrpc": "2.0", "method": "notifications/progress",
                 "params": {"progressToken": token, "progress": n}})
        answer(m["id"], text("done"))
        return True
"""


@pytest.mark.slow
@both
@on_loop
async def test_a_flood_of_notifications_does_not_stop_the_answer(mode: str, tmp_path: Path) -> None:
    steps = 0

    async def step(*_: Any) -> None:
        nonlocal steps
        steps += 1

    async with serving(mcp.bridge(program(tmp_path, FLOOD))) as url, Client(url, mode=mode) as client:
        assert words(await client.call_tool("flood", {}, progress_callback=step)) == "done"
        assert 0 < steps <= 4_000


LIES = """
TOOLS = [
    tool("good"),
    {"name": "no-schema"},
    {"name": 3, "inputSchema": {}},
    {"inputSchema": {}},
    tool("good"),
    "text",
    tool("typed", outputSchema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
    tool("empty"), tool("no-object"), tool("both"),
]
def handle(m):
    name = (m.get("params") or {}).get("name")
    if name == "typed":
        say({"jsonrpc": "2.0", "id": m["id"], "result": {"content": [], "structuredContent": {"n": "many"}}})
    elif name == "empty": answer(m["id"], {})
    elif name == "no-object": answer(m["id"], [1])
    elif name == "both": say({"jsonrpc": "2.0", "id": m["id"], "error": "no object"})
    elif name == "good": answer(m["id"], text("good"))
    else: return False
    return True
"""


@both
@on_loop
async def test_lies_become_clean_errors_and_what_is_right_still_works(mode: str, tmp_path: Path) -> None:
    async with serving(mcp.bridge(program(tmp_path, LIES))) as url, Client(url, mode=mode) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == ["good", "typed", "empty", "no-object", "both"]
        assert words(await client.call_tool("good", {})) == "good"
        says = {
            "typed": "does not keep to its output schema",
            "empty": "no tool's result",
            "no-object": "no object",
            "both": "no JSON-RPC error object",
        }
        for name, text in says.items():
            assert text in await error_of(client.call_tool(name, {}))


@on_loop
async def test_wrong_answers_to_initialize_are_told(tmp_path: Path) -> None:
    answers = {
        "wrong": "{}",
        "unknown protocol": '{"protocolVersion": "1999", "capabilities": {}, "serverInfo": {}}',
        "no object": "[]",
    }
    for says, result in answers.items():
        extra = f"def handle(m):\n    answer(m['id'], json.loads('{result}')); return True"
        async with serving(mcp.bridge(program(tmp_path, extra))) as url:
            assert says in await refusal(url)


@on_loop
async def test_a_process_that_does_not_read_is_refused_more_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skate.serve.mcp import messages, stdio
    from skate.serve.mcp.messages import RpcError
    from skate.serve.mcp.peers import NOBODY

    monkeypatch.setattr(stdio, "UNREAD", 1 << 20)
    extra = """
def handle(m):
    if m.get("method") == "tools/call": time.sleep(1000)
"""
    command = stdio.Command.of(program(tmp_path, extra))
    peer = stdio.StdioPeer(command, NOBODY, lambda _: None, lambda *_: None, timeout=30)
    await peer.begin()
    big = messages.encode({"name": "pid", "x": "z" * 1_000_000})
    waiting = [asyncio.create_task(peer.request("tools/call", big)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(RpcError, match="does not read"):
        await peer.request("tools/call", big)
    await peer.close()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert {str(error) for error in ends} <= {
        "the server's process is being ended",
        "the server's process does not read what it is sent",
    }


@on_loop
async def test_a_client_whose_process_keeps_dying_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    async with serving(mcp.bridge(program(tmp_path), per_session=True)) as url, Client(url, mode="legacy") as rude:
        for _ in range(5):
            assert "ended with 3" in await error_of(rude.call_tool("exit", {}))
        async with Client(url, mode="legacy") as other:
            assert words(await other.call_tool("pid", {})).isdigit()
        assert words(await rude.call_tool("pid", {})).isdigit()


@pytest.mark.parametrize("turns", range(6))
@on_loop
async def test_a_start_that_is_given_up_leaves_nothing_behind(turns: int, tmp_path: Path) -> None:
    from skate.serve.mcp.peers import NOBODY
    from skate.serve.mcp.stdio import Command, StdioPeer

    command = Command.of(program(tmp_path, "time.sleep(1000)"))
    peer = StdioPeer(command, NOBODY, lambda _: None, lambda *_: None, timeout=60)
    starting = asyncio.create_task(peer.begin())
    for _ in range(turns):  # so far it gets; what it leaves is seen by the check for leaks
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert peer.pid is None and not peer.alive


@on_loop
async def test_a_process_that_ends_before_its_streams_are_connected_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine, where the loop comes late."""
    from skate.serve.mcp.messages import RpcError
    from skate.serve.mcp.peers import NOBODY
    from skate.serve.mcp.stdio import Command, StdioPeer

    peer = StdioPeer(Command.of(program(tmp_path, "sys.exit(4)")), NOBODY, lambda _: None, lambda _: None, timeout=60)
    loop = asyncio.get_running_loop()
    connect = loop.connect_write_pipe

    async def late(*given: Any) -> Any:
        made = await connect(*given)
        await peer._exited.wait()
        return made

    monkeypatch.setattr(loop, "connect_write_pipe", late)
    with pytest.raises(RpcError, match="the server's process ended with 4"):
        await peer.begin()
    assert peer.pid is None and not peer.alive


@on_loop
async def test_environment_and_directory_are_the_commands_own(tmp_path: Path) -> None:
    extra = """
def handle(m):
    if m.get("method") == "tools/call":
        answer(m["id"], text(os.environ.get("GREETING", "") + os.getcwd())); return True
"""
    app = mcp.bridge(program(tmp_path, extra), env={"GREETING": "hi "}, cwd=str(tmp_path))
    async with serving(app) as url, Client(url) as client:
        assert words(await client.call_tool("pid", {})) == f"hi {tmp_path}"


@pytest.mark.slow
def test_a_server_ends_when_the_process_that_bridges_it_is_killed(tmp_path: Path) -> None:
    command = program(
        tmp_path,
        "print(os.getpid(), file=open(os.environ['PID'], 'w'), flush=True)\n"
        "sys.stdin = iter(lambda: time.sleep(1000), 1)",
    )
    text = f"""
import asyncio
from skate.serve.mcp.peers import NOBODY
from skate.serve.mcp.stdio import Command, StdioPeer
peer = StdioPeer(Command.of({command!r}), NOBODY, print, print, timeout=60)
asyncio.run(peer.begin())
"""
    where = tmp_path / "pid"
    bridging = subprocess.Popen([sys.executable, "-c", text], env={**os.environ, "PID": str(where)})
    try:
        deadline = time.monotonic() + 20
        while not (where.exists() and where.read_text().strip()):
            assert time.monotonic() < deadline and bridging.poll() is None
            time.sleep(0.02)
        pid = int(where.read_text())
        assert psutil.pid_exists(pid)
    finally:
        bridging.kill()
        bridging.wait()
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
