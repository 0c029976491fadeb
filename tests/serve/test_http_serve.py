"""HTTP of applications as programs see it: served by a proxy and replicas, and called without a socket."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse

import skate
from skate import serve
from skate.serve import proxy

pytestmark = pytest.mark.filterwarnings("ignore")

api = FastAPI()


def twice(number: int = 1) -> int:
    return 2 * number


@serve.deployment(max_ongoing_requests=100)
@serve.ingress(api)
class Api:
    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0

    @api.get("/count")
    def count(self) -> dict[str, int]:
        self.calls += 1
        return {"calls": self.calls}

    @api.get("/twice")
    async def twice(self, found: int = Depends(twice)) -> int:
        return found

    @api.post("/echo")
    async def echo(self, body: dict[str, Any]) -> dict[str, Any]:
        return body

    @api.get("/where")
    async def where(self, request: Request) -> dict[str, Any]:
        return {"root_path": request.scope["root_path"], "path": request.scope["path"], "url": str(request.url)}

    @api.post("/size")
    async def size(self, request: Request) -> int:
        return sum([len(part) async for part in request.stream()])

    @api.get("/raise")
    async def fail(self) -> None:
        raise RuntimeError("the secret reason")

    @api.get("/hang")
    async def hang(self) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @api.get("/cancelled")
    async def how_many_cancelled(self) -> int:
        return self.cancelled

    @api.get("/events")
    async def events(self, pause: float = 0.0) -> StreamingResponse:
        async def events() -> Any:
            for number in range(5):
                yield f"id: {number}\ndata: {json.dumps({'n': number})}\n\n"
                await asyncio.sleep(pause)
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @api.websocket("/ws")
    async def talk(self, websocket: WebSocket) -> None:
        await websocket.accept()
        while (text := await websocket.receive_text()) != "bye":
            await websocket.send_text(f"heard {text}")
        await websocket.close(4000)


@serve.deployment
class Anything:
    """What a deployment without an ingress may return."""

    async def __call__(self, request: Request) -> Any:
        kind = request.url.path.rpartition("/")[2]
        if kind == "json":
            return {"got": await request.json()}
        if kind == "response":
            return PlainTextResponse("made", status_code=201, headers={"x-own": "1"})
        if kind == "chunks":
            return self.chunks()
        return {"none": None, "str": "text", "bytes": b"raw", "list": [1, {"a": None}], "number": 1.5}[kind]

    async def chunks(self) -> Any:
        for part in ("a", b"b", {"c": 1}):
            yield part


@serve.deployment
def blocking(request: Request) -> Iterator[str]:
    for number in range(3):
        time.sleep(0.1)
        yield f"{number};"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    skate.init(num_cpus=2)
    serve.start(http_options={"port": 0})
    serve.run(Anything.bind())
    serve.run(Api.bind(), name="api", route_prefix="/api")
    serve.run(blocking.bind(), name="blocking", route_prefix="/api/blocking")
    host, port = skate.get(skate.get_actor(proxy.NAME, namespace="serve").address.remote())
    yield f"http://{host}:{port}"
    serve.shutdown()
    skate.shutdown()


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as made:
        yield made


@pytest.mark.parametrize(
    ("kind", "body", "content_type"),
    [
        ("none", b"", "text/plain"),
        ("str", b"text", "text/plain; charset=utf-8"),
        ("bytes", b"raw", "text/plain"),
        ("list", b'[1,{"a":null}]', "application/json"),
        ("number", b"1.5", "application/json"),
        ("chunks", b'ab{"c":1}', "text/plain; charset=utf-8"),
    ],
)
def test_what_a_handler_returns_becomes_the_answer(
    client: httpx.Client, kind: str, body: bytes, content_type: str
) -> None:
    answer = client.get(f"/{kind}")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, body, content_type)


def test_a_response_is_the_answer_as_it_is(client: httpx.Client) -> None:
    answer = client.get("/response")
    assert (answer.status_code, answer.text, answer.headers["x-own"]) == (201, "made", "1")


def test_a_malformed_body_is_the_clients_error(client: httpx.Client) -> None:
    assert client.post("/json", content=b'{"a": 1}').json() == {"got": {"a": 1}}
    answer = client.post("/json", content=b'{"a": ')
    assert answer.status_code == 400
    assert "not valid JSON" in answer.text
    assert client.post("/json", content=b"\xff\xfe").status_code == 400
    assert client.post("/api/echo", content=b"{").status_code == 422


def test_routes_that_are_methods_have_their_instance_and_dependencies(client: httpx.Client) -> None:
    first, second = (client.get("/api/count").json()["calls"] for _ in range(2))
    assert second == first + 1
    assert client.get("/api/twice", params={"number": 21}).json() == 42
    assert client.post("/api/echo", json={"a": [1]}).json() == {"a": [1]}
    assert "/count" in client.get("/api/openapi.json").json()["paths"]


def test_the_longest_route_prefix_wins_and_is_the_root_path(client: httpx.Client, url: str) -> None:
    found = client.get("/api/where").json()
    assert found == {"root_path": "/api", "path": "/api/where", "url": f"{url}/api/where"}
    assert client.get("/api/blocking").text == "0;1;2;"
    assert client.get("/-/routes").json() == {"/": "default", "/api": "api", "/api/blocking": "blocking"}
    assert client.get("/-/healthz").text == "success"


def test_requests_of_several_applications_share_a_connection(url: str) -> None:
    with httpx.Client(base_url=url, limits=httpx.Limits(max_connections=1)) as client:
        for _ in range(3):
            assert client.get("/str").text == "text"
            assert client.get("/api/twice").json() == 2
            assert client.post("/api/size", content=b"x" * 300_000).json() == 300_000


def test_a_body_in_parts_arrives_by_either_way(url: str) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(4):
            yield b"x" * 50_000
            time.sleep(0.02)

    with httpx.Client(base_url=url, limits=httpx.Limits(max_connections=1), timeout=60) as client:
        assert client.post("/api/size", content=parts()).json() == 200_000
    with httpx.Client(base_url=url, limits=httpx.Limits(max_connections=1), timeout=60) as client:
        client.get("/str")  # the connection is the other application's from here on
        assert client.post("/api/size", content=parts()).json() == 200_000


def test_request_ids_are_taken_or_made(client: httpx.Client) -> None:
    assert client.get("/str", headers={"X-Request-ID": "mine"}).headers["x-request-id"] == "mine"
    made = {client.get("/str").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    assert client.get("/nowhere/x", headers={"X-Request-ID": "mine"}).headers["x-request-id"] == "mine"


def test_an_error_has_its_trace_in_the_log_and_not_in_the_answer(
    client: httpx.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = client.get("/api/raise", headers={"X-Request-ID": "look-for-me"})
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert answer.headers["x-request-id"] == "look-for-me"
    deadline = time.monotonic() + 60
    seen = ""
    while "the secret reason" not in seen and time.monotonic() < deadline:
        time.sleep(0.05)
        seen += "".join(capfd.readouterr())
    assert "look-for-me" in seen
    assert "the secret reason" in seen


def read_events(lines: Any) -> Iterator[dict[str, str]]:
    """A reader of server-sent events, as the standard has them."""
    event: dict[str, str] = {}
    for line in lines:
        if not line:
            yield event
            event = {}
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        event[field] = f"{event[field]}\n{value}" if field in event else value


@pytest.mark.parametrize("warm", ["", "/str"], ids=["direct", "by handle"])
def test_events_arrive_as_they_are_sent(url: str, warm: str) -> None:
    with httpx.Client(base_url=url, limits=httpx.Limits(max_connections=1)) as client:
        if warm:
            client.get(warm)
        with client.stream("GET", "/api/events", params={"pause": 0.4}) as answer:
            began = time.monotonic()
            at, data = [], []
            for event in read_events(answer.iter_lines()):
                at.append(time.monotonic() - began)
                data.append(event["data"])
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert data == [*(json.dumps({"n": number}) for number in range(5)), "[DONE]"]
    assert at[0] < 1.5  # all together they take 2.0 s
    assert at[-1] - at[0] > 0.35


def test_a_blocking_generator_passes_chunks_on_at_once(client: httpx.Client) -> None:
    with client.stream("GET", "/api/blocking") as answer:
        assert next(answer.iter_raw()) == b"0;"  # and not with those that come later


def test_a_client_that_disconnects_ends_its_request(url: str) -> None:
    with httpx.Client(base_url=url) as watcher:
        before = watcher.get("/api/cancelled").json()
        for way in ("", "/str"):
            with httpx.Client(base_url=url, limits=httpx.Limits(max_connections=1)) as client:
                if way:
                    client.get(way)
                with pytest.raises(httpx.ReadTimeout):
                    client.get("/api/hang", timeout=0.3)
        deadline = time.monotonic() + 60
        while (now := watcher.get("/api/cancelled").json()) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert now == before + 2


def test_websockets(url: str) -> None:
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

    with connect(url.replace("http", "ws") + "/api/ws") as talk:
        for text in ("a", "b"):
            talk.send(text)
            assert talk.recv(timeout=60) == f"heard {text}"
        talk.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            talk.recv(timeout=60)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4000
    with pytest.raises(InvalidStatus):
        connect(url.replace("http", "ws") + "/nowhere/ws").__enter__()


def test_an_application_is_called_without_a_socket(url: str) -> None:
    from starlette.testclient import TestClient

    app = serve.get_asgi_app("api")
    with TestClient(app) as client:
        assert client.get("/twice?number=4").json() == 8
        assert client.get("/where").json()["root_path"] == ""
        with client.websocket_connect("/ws") as talk:
            talk.send_text("x")
            assert talk.receive_text() == "heard x"

    async def ask() -> Any:
        transport = httpx.ASGITransport(serve.get_asgi_app())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.get("/api/twice?number=4")).json(), (await client.get("/str")).text

    assert asyncio.run(ask()) == (8, "text")
    with pytest.raises(serve.exceptions.RayServeException, match="there are: api, blocking, default"):
        serve.get_asgi_app("none")


def test_many_clients_at_once(url: str) -> None:
    async def go() -> set[int]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
            answers = await asyncio.gather(*(client.get("/api/count") for _ in range(200)))
        assert {answer.status_code for answer in answers} == {200}
        return {answer.json()["calls"] for answer in answers}

    assert len(asyncio.run(go())) == 200


def test_a_port_that_is_taken_is_named_when_serve_starts(url: str) -> None:
    from skate.serve.http_sockets import bind

    port = int(url.rpartition(":")[2])
    with pytest.raises(OSError, match=str(port)):
        bind("127.0.0.1", port)
