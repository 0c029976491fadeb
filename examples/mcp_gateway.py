"""Many MCP servers under one address: a deployment, a process that is bridged, and one that is down.

The gateway shows their tools under the servers' names, lets each token use only what it may, and does without the
server that fails.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError

import skate
from skate import serve
from skate.serve import mcp

SECRETS = {"editor": "the-editors-own-secret", "reader": "the-readers-own-secret"}


def notes() -> MCPServer:
    server = MCPServer("notes", log_level="WARNING")
    written = ["buy milk"]

    @server.tool()
    def read() -> list[str]:
        return written

    @server.tool()
    def write(text: str) -> int:
        written.append(text)
        return len(written)

    return server


def words() -> MCPServer:
    server = MCPServer("words", log_level="WARNING")

    @server.tool()
    def count(text: str) -> int:
        return len(text.split())

    return server


def gateway() -> Any:
    return mcp.gateway(
        {
            "notes": mcp.deployment(notes),
            "words": mcp.bridge([sys.executable, __file__, "stdio"]),
            "lost": "http://127.0.0.1:1/mcp",
        },
        access=mcp.Access(
            tokens=[
                mcp.Token(SECRETS["editor"], "editor"),
                mcp.Token(SECRETS["reader"], "reader", tools=["*__read", "words__*"]),
            ]
        ),
    )


async def use(address: str, who: str) -> list[str]:
    """What a client sees and may do."""
    headers = {"authorization": f"Bearer {SECRETS[who]}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(address, http_client=http)) as client,
    ):
        tools = [tool.name for tool in (await client.list_tools()).tools]
        print(f"{who}: {tools}")
        counted = await client.call_tool("words__count", {"text": "to be or not to be"})
        assert counted.structured_content == {"result": 6}
        try:
            await client.call_tool("notes__write", {"text": "read mail"})
            print(f"{who} wrote a note")
        except MCPError as error:
            print(f"{who} may not write: {error}")
        try:
            await client.call_tool("lost__anything", {})
        except MCPError as error:
            print(f"{who}: {error}")
        return tools


def main() -> None:
    if sys.argv[1:] == ["stdio"]:  # this is the process behind the bridge
        words().run("stdio")
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    skate.init(num_cpus=4)
    serve.start(http_options={"port": port})
    serve.run(mcp.deployment(gateway()), name="gateway", route_prefix="/")
    address = f"http://127.0.0.1:{port}/mcp"
    assert asyncio.run(use(address, "editor")) == ["notes__read", "notes__write", "words__count"]
    assert asyncio.run(use(address, "reader")) == ["notes__read", "words__count"]
    serve.shutdown()
    skate.shutdown()
    print("mcp_gateway: two servers under one address, the third one is down")


if __name__ == "__main__":
    main()
