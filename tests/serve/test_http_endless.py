"""Streams without an end: held back by a client that reads slowly, ended by one that goes, by either way."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

import skate
from skate import serve

CHUNK = 65536
HERE = b""
BY_HANDLE = b"GET /other HTTP/1.1\r\nHost: t\r\n\r\n"
"""Ahead of a request: the connection then belongs to another application's replica."""


@serve.deployment(max_ongoing_requests=100)
class Endless:
    def __init__(self) -> None:
        self.made = 0

    async def __call__(self, request: Request) -> Any:
        if request.url.path.endswith("/made"):
            return {"made": self.made}
        return StreamingResponse(self.chunks()) if request.url.path.endswith("/response") else self.chunks()

    async def chunks(self) -> Any:
        while True:  # never waits for anything
            self.made += 1
            yield b"x" * CHUNK


@serve.deployment
async def other() -> str:
    return "other"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    skate.init(num_cpus=2)
    serve.start(http_options={"port": 0})
    serve.run(Endless.bind(), name="endless", route_prefix="/endless")
    serve.run(other.bind(), name="other", route_prefix="/other")
    yield serve.get_http_address()
    serve.shutdown()
    skate.shutdown()


def begin(url: str, ahead: bytes, path: str) -> socket.socket:
    """A client that has read the beginning of a stream, and reads no further."""
    host, _, port = url.removeprefix("http://").partition(":")
    client = socket.create_connection((host, int(port)), timeout=20)
    if ahead:
        client.sendall(ahead)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    client.sendall(b"GET %s HTTP/1.1\r\nHost: t\r\n\r\n" % path.encode())
    assert client.recv(100).startswith(b"HTTP/1.1 200")
    return client


def made(url: str) -> int:
    number: int = httpx.get(f"{url}/endless/made", timeout=20).json()["made"]
    return number


@pytest.mark.parametrize("ahead", [HERE, BY_HANDLE], ids=["connection", "handle"])
def test_a_client_that_does_not_read_holds_the_stream_back(url: str, ahead: bytes) -> None:
    before = made(url)
    with begin(url, ahead, "/endless/chunks"):
        seen = [made(url)]
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # until it stands still
            time.sleep(0.3)
            seen.append(made(url))
            if seen[-1] == seen[-2]:
                break
        assert seen[-1] == seen[-2]
        assert (seen[-1] - before) * CHUNK < 100 << 20


@pytest.mark.parametrize("path", ["/endless/chunks", "/endless/response"])
@pytest.mark.parametrize("ahead", [HERE, BY_HANDLE], ids=["connection", "handle"])
def test_a_client_that_goes_ends_a_stream_that_never_waits(
    url: str, ahead: bytes, path: str, eventually: Callable[..., None]
) -> None:
    begin(url, ahead, path).close()

    def stands_still() -> bool:
        first = made(url)
        time.sleep(0.2)
        return made(url) == first

    eventually(stands_still)


async def _gone(url: str) -> None:
    async with httpx.AsyncClient(timeout=20) as client, client.stream("GET", f"{url}/endless/chunks") as answer:
        async for _ in answer.aiter_bytes():
            return


def test_many_clients_that_go_leave_the_replica_as_it_was(url: str) -> None:
    async def main() -> None:
        await asyncio.gather(*(_gone(url) for _ in range(8)))

    asyncio.run(main())
    assert httpx.get(f"{url}/endless/made", timeout=20).status_code == 200
