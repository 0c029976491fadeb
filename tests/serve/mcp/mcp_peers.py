"""What the tests of MCP share: servers, hostile programs, and running applications for the official client."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPDeprecationWarning

HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
BOTH = ("legacy", "auto")
"""How the official client begins: with `initialize` and a session, or (revision 2026-07-28) without."""


def on_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is a coroutine, ended after 40 seconds."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(40):
                await test(*args, **kwargs)

        with warnings.catch_warnings():
            # parts of the protocol that it calls old, and that servers use all the same
            warnings.simplefilter("ignore", MCPDeprecationWarning)
            asyncio.run(bounded())

    return run


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """The application behind a real server; its address."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=2))
    task = asyncio.create_task(server.serve([listener]))
    while not server.started and not task.done():
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        await task
        listener.close()


def calculator() -> MCPServer:
    """A server with something of everything."""
    server = MCPServer("calculator", instructions="It can add.")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    @server.tool()
    async def count(to: int, ctx: Context) -> str:
        """Count, telling each step."""
        for step in range(to):
            await ctx.report_progress(step + 1, to, f"at {step}")
        return f"counted to {to}"

    @server.tool()
    async def sleep(seconds: float) -> str:
        """Take a while."""
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            CANCELLED.append(seconds)
            raise
        return "woke"

    @server.tool()
    async def ask(question: str, ctx: Context) -> str:
        """Have the client's model answer."""
        from mcp_types import SamplingMessage, TextContent

        said = await ctx.session.create_message(
            messages=[SamplingMessage(role="user", content=TextContent(type="text", text=question))], max_tokens=10
        )
        return f"the model says {said.content.text}"

    @server.tool()
    def fail() -> str:
        """Raise."""
        raise ValueError("as it was told to")

    @server.resource("note://one")
    def note() -> str:
        return "the first note"

    @server.resource("note://{name}/text")
    def any_note(name: str) -> str:
        return f"the note {name}"

    @server.prompt()
    def greet(name: str) -> str:
        return f"Say hello to {name}."

    return server


CANCELLED: list[float] = []
"""What was being slept when it was cancelled."""

PROGRAM = """
import json, os, sys, time
def say(message): print(json.dumps(message), flush=True)
def answer(id, result): say({"jsonrpc": "2.0", "id": id, "result": result})
def text(words): return {"content": [{"type": "text", "text": words}]}
def tool(name, **more): return {"name": name, "inputSchema": {"type": "object"}, **more}
TOOLS = [tool("pid"), tool("exit"), tool("hang")]
def handle(m): pass
CAPABILITIES = {"tools": {"listChanged": True}}
%s
for line in sys.stdin:
    m = json.loads(line)
    method, id = m.get("method"), m.get("id")
    name = (m.get("params") or {}).get("name")
    if handle(m): continue
    if method == "initialize":
        answer(id, {"protocolVersion": m["params"]["protocolVersion"], "capabilities": CAPABILITIES,
                    "serverInfo": {"name": "rude", "version": "1"}})
    elif method == "ping": answer(id, {})
    elif method == "tools/list": answer(id, {"tools": TOOLS})
    elif name == "pid": answer(id, text(str(os.getpid())))
    elif name == "exit": os._exit(3)
    elif name == "hang": time.sleep(1000)
    elif id is not None: say({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no " + method}})
"""
"""A server without the SDK, starts in 20 ms; `handle` returns True for what it has answered in its own way."""


def program(folder: Path, extra: str = "") -> list[str]:
    """The command of such a server, with lines of its own."""
    path = folder / f"server_{abs(hash(extra))}.py"
    path.write_text(PROGRAM.replace("%s", extra))
    return [sys.executable, "-I", "-S", str(path)]


def words(result: Any) -> str:
    """The text of a tool's answer."""
    return result.content[0].text


__all__ = ["BOTH", "CANCELLED", "HEADERS", "Client", "calculator", "on_loop", "program", "serving", "words"]
