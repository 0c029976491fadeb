"""An MCP server, written with the official SDK, as a deployment with two replicas.

The client is the official one. With a session (as revision 2025-11-25 of the protocol has it) all of a client's calls
come to one replica, whichever the connections lead to; without one (2026-07-28) any replica answers.

There is no `from __future__ import annotations` here: the SDK looks annotations up where a tool was defined, and in a
function that is sent to another process only the names that its code uses are there.
"""

import asyncio
import socket
from typing import Any

from mcp import Client
from mcp.server.mcpserver import Context, MCPServer

import skate
from skate import serve
from skate.serve import mcp


def library() -> MCPServer:
    """Make the server: called in each replica."""
    server = MCPServer("library", log_level="WARNING")
    shelves = {"dune": 3, "emma": 1, "ulysses": 0}

    @server.tool()
    def copies(title: str) -> int:
        """Tell how many copies are there."""
        return shelves[title.lower()]

    @server.tool()
    async def take_stock(ctx: Context) -> str:
        """Count everything, book by book."""
        for done, title in enumerate(shelves, 1):
            await ctx.report_progress(done, len(shelves), title)
        return f"{sum(shelves.values())} books"

    @server.resource("book://{title}")
    def book(title: str) -> str:
        return f"{title.title()}, {shelves[title]} copies"

    return server


async def use(address: str) -> list[Any]:
    found: list[Any] = []
    for mode in ("legacy", "auto"):
        async with Client(address, mode=mode) as client:
            counted: list[str | None] = []

            async def step(done: float, of: float | None, title: str | None, counted: list[Any] = counted) -> None:
                counted.append(title)

            print(f"{mode}: {[tool.name for tool in (await client.list_tools()).tools]}")
            copies = await client.call_tool("copies", {"title": "Dune"})
            stock = await client.call_tool("take_stock", {}, progress_callback=step)
            book = await client.read_resource("book://emma")
            found.append((copies.structured_content, stock.content[0].text, counted, book.contents[0].text))
    return found


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    skate.init(num_cpus=4)
    serve.start(http_options={"port": port})
    serve.run(mcp.deployment(library, num_replicas=2), name="library", route_prefix="/library")
    found = asyncio.run(use(f"http://127.0.0.1:{port}/library"))
    expected = ({"result": 3}, "4 books", ["dune", "emma", "ulysses"], "Emma, 1 copies")
    assert found == [expected, expected], found
    serve.shutdown()
    skate.shutdown()
    print("mcp_server: 4 books counted, with a session and without")


if __name__ == "__main__":
    main()
