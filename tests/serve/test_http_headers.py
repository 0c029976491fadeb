"""What a request's headers and version ask for, and what handlers see of them."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from starlette.exceptions import HTTPException
from starlette.requests import Request
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import skate
from skate import serve
from skate.serve import admin
from skate.serve.http_entry import Hints, identify

api = FastAPI()


@serve.deployment(max_ongoing_requests=100)
@serve.ingress(api)
class Sockets:
    @api.get("/slash/")
    async def slash(self) -> str:
        return "slash"

    @api.websocket("/raises")
    async def raises(self, websocket: WebSocket) -> None:
        raise RuntimeError("the secret reason")


@serve.deployment(max_ongoing_requests=100)
class Plain:
    def __init__(self) -> None:
        self.ended: list[str] = []

    async def __call__(self, request: Request) -> Any:
        what = request.url.path.rpartition("/")[2]
        if what == "stream":
            return self.parts()
        if what == "refuse":
            raise HTTPException(422, {"field": "name"})  # type: ignore[arg-type]  # FastAPI's takes any detail
        if what == "sleep":
            try:
                await asyncio.sleep(float(request.query_params["s"]))
                self.ended.append("slept")
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise
        if what == "ended":
            return self.ended
        if what == "seen":
            return {"client": request.client.host if request.client else "", "url": str(request.url)}
        return {"id": request.headers["x-request-id"]}

    async def parts(self) -> Any:
        yield "one,"
        await asyncio.sleep(0.01)
        yield "two"


@serve.deployment
async def other() -> str:
    return "other"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    skate.init(num_cpus=2)
    serve.start(http_options={"port": 0, "request_timeout_s": 30})
    serve.run(Plain.bind(), name="plain", route_prefix="/plain")
    serve.run(Sockets.bind(), name="sockets", route_prefix="/sockets")
    serve.run(other.bind(), name="other", route_prefix="/other")
    yield serve.get_http_address()
    serve.shutdown()
    skate.shutdown()


@pytest.fixture(params=["connection", "handle"])
def client(url: str, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client whose connection belongs to the replica, or to another application's."""
    with httpx.Client(base_url=url, timeout=30) as client:
        if request.param == "handle":
            assert client.get("/other").text == "other"
        yield client


def test_handlers_see_the_id_that_the_answer_has(client: httpx.Client) -> None:
    answer = client.get("/plain/x")
    assert answer.json() == {"id": answer.headers["x-request-id"]}
    answer = client.get("/plain/x", headers={"X-Request-ID": "mine"})
    assert answer.json() == {"id": "mine"} and answer.headers.get_list("x-request-id") == ["mine"]
    answer = client.get("/plain/x", headers={"X-Request-ID": "long" * 100})
    assert answer.json() == {"id": answer.headers["x-request-id"]} and len(answer.headers["x-request-id"]) < 100


def test_a_client_may_wait_for_less_than_is_usual(client: httpx.Client) -> None:
    answer = client.get("/plain/sleep?s=20", headers={"X-Request-Timeout-Seconds": "0.1"})
    assert answer.status_code == 408 and "timed out after 0.1s" in answer.text
    answer = client.get("/plain/sleep?s=0.01", headers={"X-Request-Timeout-Seconds": "soon"})
    assert answer.status_code == 200


def test_a_request_may_outlive_its_client(client: httpx.Client, eventually: Callable[..., None]) -> None:
    def ended() -> list[str]:
        found: list[str] = client.get("/plain/ended").json()
        return found

    before = ended()
    for headers in ({}, {"X-Request-Disconnect-Disabled": "?1"}):
        with pytest.raises(httpx.ReadTimeout):
            client.get("/plain/sleep?s=1.5", headers=headers, timeout=0.3)
    eventually(lambda: len(ended()) == len(before) + 2, 20)
    assert sorted(ended()[len(before) :]) == ["cancelled", "slept"]


def test_a_proxy_in_front_tells_of_the_client(client: httpx.Client) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7", "Host": "example.org"}
    seen = client.get("/plain/seen", headers=headers).json()
    assert seen == {"client": "192.0.2.7", "url": "https://example.org/plain/seen"}
    slash = client.get("/sockets/slash", headers=headers)
    assert slash.headers["location"] == "https://example.org/sockets/slash/"
    seen = client.get("/plain/seen", headers={"Host": "example.org"}).json()
    assert seen == {"client": "127.0.0.1", "url": "http://example.org/plain/seen"}


def ask(url: str, text: str) -> bytes:
    """All that is answered until the connection ends."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(text.encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_an_answer_in_http_1_0_has_no_chunks(url: str) -> None:
    head, _, body = ask(url, "GET /plain/stream HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert body == b"one,two"
    assert b"transfer-encoding" not in head and b"connection: close" in head
    _, _, body = ask(url, "GET /plain/stream HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")
    assert body == b"4\r\none,\r\n3\r\ntwo\r\n0\r\n\r\n"


def test_what_an_error_says_of_itself_is_json_if_it_is_no_text(client: httpx.Client) -> None:
    answer = client.get("/plain/refuse")
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/json"
    assert answer.json() == {"detail": {"field": "name"}}


def test_a_websocket_handler_that_raises_before_it_accepts_is_500(url: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws{url.removeprefix('http')}/sockets/raises")
    assert refused.value.response.status_code == 500
    assert refused.value.response.headers["x-request-id"]
    assert b"secret" not in (refused.value.response.body or b"")


def test_where_the_documentation_is(url: str) -> None:
    apps = admin.details()["applications"]
    assert apps["sockets"]["docs_path"] == "/sockets/docs" and apps["plain"]["docs_path"] is None
    assert httpx.get(url + apps["sockets"]["docs_path"]).status_code == 200


def test_health_and_routes_say_that_they_are_not_known_yet() -> None:
    from skate.serve.http_entry import Entry

    async def main() -> list[int]:
        entry = Entry(lambda app, deployment: None)
        entry.ready = False
        transport = httpx.ASGITransport(entry)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            return [(await client.get(path)).status_code for path in ("/-/healthz", "/-/routes")]

    assert asyncio.run(main()) == [503, 503]


@pytest.mark.parametrize(
    ("given", "usual", "wanted"),
    [(b"2.5", 9.0, 2.5), (b"0", 9.0, None), (b"-1", 9.0, None), (b"nan", 9.0, None), (b"inf", 9.0, None),
     (b"1e999", 9.0, None), (b"soon", 9.0, 9.0), (b"", 9.0, 9.0), (b"3", None, 3.0)],
)  # fmt: skip
def test_times_that_requests_ask_for(given: bytes, usual: float | None, wanted: float | None) -> None:
    headers = [(b"host", b"t"), (b"x-request-timeout-seconds", given)]
    _, _, hints = identify(headers)
    assert hints is not None and hints.timeout(usual) == wanted


def test_what_no_header_asks_for() -> None:
    headers = [(b"host", b"t"), (b"serve-multiplexed-model-id", b"m")]
    request_id, model, hints = identify(headers)
    assert (model, hints) == ("m", None) and headers[-1] == (b"x-request-id", request_id.encode())
    assert re.fullmatch("[0-9a-f]{32}", request_id)
    assert Hints().timeout(4.0) == 4.0
