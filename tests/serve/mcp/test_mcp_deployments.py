"""MCP servers as deployments of serve, on worker processes and in this process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.shared.exceptions import MCPError
from mcp_peers import BOTH, HEADERS, Client, calculator, on_loop, program, words

import skate
from skate import serve
from skate.serve import mcp

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
HERE = str(Path(__file__).parent)
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "pid"}}


def build() -> Any:
    """The calculator, with a tool that tells its process; quiet."""
    import logging

    server = calculator()
    logging.disable(logging.INFO)

    @server.tool()
    def pid() -> int:
        return os.getpid()

    @server.tool()
    def die() -> None:
        os._exit(5)

    return server


@pytest.fixture
def base() -> Iterator[str]:
    """Serve on worker processes; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # workers find the functions of this file by its name
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([HERE, *sys.path])}}
    skate.init(num_cpus=2, runtime_env=environment)
    serve.start(http_options={"port": port})
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        skate.shutdown()


@pytest.mark.slow
def test_sessions_find_their_replica(base: str) -> None:
    serve.run(mcp.deployment(build, num_replicas=2), name="calc", route_prefix="/calc")
    url = f"{base}/calc"
    pids = {}
    for _ in range(12):  # each request has a connection of its own, which any replica may get
        begun = httpx2.post(url, json=INITIALIZE, headers=HEADERS)
        session = {**HEADERS, "mcp-session-id": begun.headers["mcp-session-id"]}
        found = {httpx2.post(url, json=CALL, headers=session).text.partition("data: {")[2] for _ in range(6)}
        assert len(found) == 1 and '"error"' not in found.copy().pop()
        pids[found.pop()] = session
        if len(pids) == 2:
            break
    assert len(pids) == 2
    for session in pids.values():
        assert httpx2.delete(url, headers=session).status_code == 200
        assert httpx2.post(url, json=CALL, headers=session).status_code == 404
    lost = {**HEADERS, "mcp-session-id": "0" * 16 + ".x"}
    for wrong in (lost, {**lost, "mcp-session-id": "../../x.y"}):
        assert httpx2.post(url, json=CALL, headers=wrong).status_code == 404


@pytest.mark.slow
def test_a_gateway_reaches_deployments_bridges_and_addresses(base: str, tmp_path: Path) -> None:
    serve.run(mcp.deployment(mcp.app(build, stateless=True)), name="far", route_prefix="/far")
    servers = {
        "own": mcp.deployment(build, num_replicas=2),
        "far": f"{base}/far",
        "rude": mcp.bridge(program(tmp_path)),
        "gone": "http://127.0.0.1:1/mcp",
    }
    serve.run(mcp.deployment(mcp.gateway(servers)), name="gateway", route_prefix="/gateway")

    @on_loop
    async def use() -> None:
        for mode in BOTH:
            async with Client(f"{base}/gateway", mode=mode, sampling_callback=model) as client:
                names = {tool.name.partition("__")[0] for tool in (await client.list_tools()).tools}
                assert names == {"own", "far", "rude"}
                for name in ("own", "far"):
                    added = await client.call_tool(f"{name}__add", {"a": 1, "b": 2})
                    assert added.structured_content == {"result": 3}
                    steps: list[float] = []

                    async def step(done: float, of: Any, text: Any, steps: list[float] = steps) -> None:
                        steps.append(done)

                    await client.call_tool(f"{name}__count", {"to": 3}, progress_callback=step)
                    assert steps == [1, 2, 3]
                assert words(await client.call_tool("own__ask", {"question": "x"})) == "the model says <x>"
                assert words(await client.call_tool("rude__pid", {})).isdigit()
                pids = {str((await client.call_tool("own__pid", {})).structured_content) for _ in range(5)}
                assert len(pids) == 1 or mode == "auto"  # a session stays with its replica

    use()


@pytest.mark.slow
def test_a_replica_that_dies_fails_its_calls_and_nothing_else(base: str) -> None:
    gateway = mcp.gateway({"own": mcp.deployment(build), "other": mcp.deployment(build, name="Other")})
    serve.run(mcp.deployment(gateway), name="gateway", route_prefix="/")

    @on_loop
    async def use() -> None:
        for mode in BOTH:
            async with Client(f"{base}/mcp", mode=mode) as client:
                before = (await client.call_tool("own__pid", {})).structured_content
                with pytest.raises(MCPError, match="own"):
                    await client.call_tool("own__die", {})
                added = await client.call_tool("other__add", {"a": 1, "b": 2})
                assert added.structured_content == {"result": 3}
                async with asyncio.timeout(15):
                    while True:
                        try:
                            assert (await client.call_tool("own__pid", {})).structured_content != before
                            break
                        except MCPError:
                            await asyncio.sleep(0.05)

    use()


async def model(_context: Any, params: Any) -> Any:
    from mcp_types import CreateMessageResult, TextContent

    said = TextContent(type="text", text=f"<{params.messages[0].content.text}>")
    return CreateMessageResult(role="assistant", content=said, model="echo")


INLINE = """
import asyncio, os
import httpx2, skate
from mcp_peers import HEADERS
from skate import serve
from skate.serve import mcp
from test_mcp_deployments import CALL, INITIALIZE, build

skate.init()
serve.start(proxy_location="Disabled")
gateway = mcp.gateway({"own": mcp.deployment(build)}, access=mcp.Access(hosts=["test"]))
serve.run(mcp.deployment(gateway), name="gateway", route_prefix="/")
app = serve.get_asgi_app("gateway")

async def ask():
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test", headers=HEADERS) as http:
        begun = await http.post("/mcp", json=INITIALIZE)
        session = {"mcp-session-id": begun.headers["mcp-session-id"]}
        call = {**CALL, "params": {"name": "own__pid"}}
        return (await http.post("/mcp", json=call, headers=session)).json()

found = asyncio.run(ask())
assert found["result"]["structuredContent"] == {"result": os.getpid()}, found
serve.shutdown()
skate.shutdown()
print("answered in this process")
"""


@pytest.mark.slow
def test_in_one_process_a_test_client_needs_no_socket() -> None:
    environment = {**os.environ, "SKATE_ENGINE": "inline", "PYTHONPATH": os.pathsep.join([HERE, *sys.path])}
    done = subprocess.run([sys.executable, "-c", INLINE], env=environment, capture_output=True, text=True, timeout=40)
    assert (done.returncode, done.stdout) == (0, "answered in this process\n"), done.stderr


@pytest.mark.parametrize("wrong", [3, None, "module"])
def test_what_is_no_server_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError):
        mcp.deployment(wrong)


def test_a_gateway_with_deployments_says_how_it_runs() -> None:
    gateway = mcp.gateway({"own": mcp.deployment(build)})
    with pytest.raises(RuntimeError, match=r"serve\.run\(mcp\.deployment\(gateway\)\)"):
        gateway._make()


@pytest.mark.slow
def test_sessions_survive_scaling_up_and_end_with_their_replica(base: str) -> None:
    serve.run(mcp.deployment(build, num_replicas=1, version="1"), name="calc", route_prefix="/calc")
    url = f"{base}/calc"

    def begin() -> dict[str, str]:
        begun = httpx2.post(url, json=INITIALIZE, headers=HEADERS)
        return {**HEADERS, "mcp-session-id": begun.headers["mcp-session-id"]}

    def pid_of(session: dict[str, str]) -> int | None:
        answer = httpx2.post(url, json=CALL, headers=session, timeout=20)
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        return int(json.loads(answer.text.partition("data: ")[2])["result"]["content"][0]["text"])

    first = begin()
    pid = pid_of(first)
    assert pid is not None
    serve.run(mcp.deployment(build, num_replicas=2, version="1"), name="calc", route_prefix="/calc")
    others: dict[int, dict[str, str]] = {}
    deadline = time.monotonic() + 20
    while not set(others) - {pid}:
        assert time.monotonic() < deadline
        session = begin()
        found = pid_of(session)
        assert found is not None
        others[found] = session
        assert pid_of(first) == pid
    assert {pid_of(first) for _ in range(20)} == {pid}  # whichever replica the request comes to
    os.kill(pid, signal.SIGKILL)
    while True:  # an answer that was under way may still break off
        assert time.monotonic() < deadline
        try:
            if pid_of(first) is None:
                break
        except (httpx2.HTTPError, AssertionError):
            time.sleep(0.05)
    again = begin()  # what a client does then
    assert pid_of(again) not in (None, pid)
    for other, session in others.items():
        assert other == pid or pid_of(session) == other
    assert {pid_of(first) for _ in range(10)} == {None}
