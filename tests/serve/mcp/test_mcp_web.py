"""The small HTTP client, against servers that answer in every way there is; and what the gateway costs to load."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from mcp_peers import calculator, on_loop

from skate.serve import mcp
from skate.serve.mcp.links import AppLink, AsgiLink, LinkError, whole
from skate.serve.mcp.web import BUFFER, WebLink

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw(handler: Handler) -> AsyncIterator[WebLink]:
    """A server that is one function of its connection, and a link to it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    link = WebLink(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp?x=1", ((b"x-key", b"k"),))
    try:
        yield link
    finally:
        await link.close()
        server.close()


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def replies(*answers: bytes) -> tuple[Handler, list[bytes]]:
    """A handler that gives these answers, one for each request on a connection, then closes; and what it was asked."""
    asked: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            asked.append(await head(reader))
            writer.write(answer)
            await writer.drain()

    return handler, asked


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nok", b"ok"),  # its end is that of the connection
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n", b""),
        (b"HTTP/1.0 204 No Content\r\n\r\n", b""),
    ],
)
@on_loop
async def test_answers_of_every_form_are_read(answer: bytes, body: bytes) -> None:
    handler, asked = replies(answer)
    async with raw(handler) as link:
        response = await link.open("POST", ((b"accept", b"*/*"),), b"")
        assert response.status in (200, 202, 204)
        assert await whole(response, 100) == body
    (request,) = asked
    assert request.startswith(b"POST /mcp?x=1 HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"x-key: k\r\naccept: */*\r\ncontent-length: 0\r\n" in request


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 2",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok",
    ],
)
@on_loop
async def test_answers_that_break_off_are_errors(answer: bytes) -> None:
    handler, _ = replies(answer)
    async with raw(handler) as link:
        with pytest.raises(LinkError):
            await whole(await link.open("GET", ()), 100)


@on_loop
async def test_connections_are_used_again_and_closed_ones_are_not() -> None:
    good = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    handler, asked = replies(good, good)
    connections = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await handler(reader, writer)

    async with raw(counted) as link:
        for _ in range(6):
            response = await link.open("POST", (), b"{}")
            assert await whole(response, 100) == b"ok"
            response.release()
            await asyncio.sleep(0.01)  # the server closes after each second one
        assert (connections, len(asked)) == (3, 6)


@on_loop
async def test_an_answer_that_nobody_wants_frees_its_connection() -> None:
    stream = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 3
    ended = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(stream)
        if await reader.read(1) == b"":
            ended.set()

    async with raw(handler) as link:
        response = await link.open("GET", ())
        assert await response.chunk()
        response.release(cut=True)
        async with asyncio.timeout(5):
            await ended.wait()


@on_loop
async def test_a_body_that_is_not_read_holds_its_server_up() -> None:
    sent = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while sent < 100 * BUFFER:
            writer.write(b"x" * BUFFER)
            await writer.drain()
            sent += BUFFER

    async with raw(handler) as link:
        response = await link.open("GET", ())
        for _ in range(50):
            await asyncio.sleep(0.01)
        assert sent < 50 * BUFFER  # what sockets and buffers hold
        with pytest.raises(LinkError, match="more than"):
            await whole(response, 10)
        response.release(cut=True)


@on_loop
async def test_a_server_that_is_not_there_is_an_error() -> None:
    link = WebLink("http://127.0.0.1:1/mcp")
    with pytest.raises(LinkError, match=r"127\.0\.0\.1:1"):
        await link.open("GET", ())


@on_loop
async def test_a_server_that_has_moved_tells_where() -> None:
    from skate.serve.mcp.connectors import LinkConnector
    from skate.serve.mcp.messages import RpcError
    from skate.serve.mcp.peers import NOBODY
    from skate.serve.mcp.upstream import Limits

    handler, _ = replies(b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1/mcp/\r\ncontent-length: 0\r\n\r\n")
    async with raw(handler) as link:
        connector = LinkConnector(lambda: link)
        with pytest.raises(RpcError, match="use that address"):
            await connector.connect(NOBODY, lambda _: None, lambda *_: None, Limits())


@on_loop
async def test_an_application_that_fails_or_says_nothing_is_an_error() -> None:
    async def fails(scope: object, receive: object, send: object) -> None:
        raise ValueError("broken")

    async def silent(scope: object, receive: object, send: object) -> None:
        return

    for app, says in ((fails, "broken"), (silent, "did not answer")):
        link = AppLink(app)
        with pytest.raises(LinkError, match=says):
            await link.open("GET", ())
        await link.close()

    async def refuses(scope: object, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no disk"})

    link = AsgiLink(refuses)
    with pytest.raises(LinkError, match="no disk"):
        await link.open("GET", ())
    await link.close()


@on_loop
async def test_many_sessions_leave_nothing_behind() -> None:
    import gc
    import json

    from skate.serve.mcp.sessions import Session

    gateway = mcp.gateway({"a": mcp.app(calculator)})
    link = AppLink(gateway)
    kind = (b"content-type", b"application/json")
    begin = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}

    async def post(session: bytes | None, method: str, params: object) -> bytes:
        headers = [kind] if session is None else [kind, (b"mcp-session-id", session)]
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        response = await link.open("POST", headers, body)
        assert b'"result"' in await whole(response, 10_000)
        return response.headers[b"mcp-session-id"]

    tasks = 0
    for turn in range(60):
        number = await post(None, "initialize", begin)
        await post(number, "tools/call", {"name": "a__add", "arguments": {"a": 1, "b": 2}})
        (await link.open("DELETE", [(b"mcp-session-id", number)])).release()
        if turn == 10:
            tasks = len(asyncio.all_tasks())
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) <= tasks + 2
    gc.collect()
    assert sum(isinstance(thing, Session) for thing in gc.get_objects()) <= 2
    assert gateway._endpoint is not None
    await gateway._endpoint.stop()
    await link.close()


def test_gateways_and_bridges_do_without_the_sdk() -> None:
    code = (
        "import sys; from skate.serve import mcp; mcp.gateway({'a': mcp.bridge(['x']), 'b': 'http://x/'}).status();"
        "print([name for name in ('mcp', 'pydantic', 'uvicorn', 'starlette') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
