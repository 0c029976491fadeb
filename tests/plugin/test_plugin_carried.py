"""Methods that take the request, the answer's head, files and background tasks do so wherever they run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")

from fastapi.testclient import TestClient
from plugin_services import Write, data

from skate.plugin import PluginLoadError, run

TAKES = """
from typing import Annotated
from fastapi import BackgroundTasks, Depends, Form, Query, Request, Response, UploadFile
from fastapi.responses import StreamingResponse

def key_of(request: Request) -> str:
    return request.headers.get("x-key", "none")

class Item(BaseModel):
    name: str

def note(text: str) -> None:
    with open("notes", "a") as file:
        file.write(text)

async def fail() -> None:
    raise ValueError("only the log hears of it")

@on_register()
class P(BasePlugin):
    @on_request("/seen/{part}", methods=["POST"])
    async def seen(self, request: Request, part: str, item: Item, key: str = Depends(key_of)) -> dict:
        return {
            "method": request.method, "path": request.url.path, "query": dict(request.query_params), "part": part,
            "params": request.path_params, "header": request.headers["x-other"], "cookie": request.cookies["c"],
            "body": (await request.body()).decode(), "json": await request.json(), "item": item.name, "key": key,
            "host": request.url.hostname, "client": request.client.host, "gone": await request.is_disconnected(),
        }

    @on_request("/form", methods=["POST"])
    async def form(self, request: Request, text: Annotated[str, Form()], file: UploadFile) -> list:
        form = await request.form()
        again = await form["file"].read()
        return [text, form["text"], file.filename, (await file.read() or again).decode(), file.content_type]

    @on_request("/chunks", methods=["POST"])
    async def chunks(self, request: Request) -> str:
        return b"".join([part async for part in request.stream()]).decode()

    @on_request("/lines", methods=["GET"], stream=True)
    async def lines(self, request: Request, tasks: BackgroundTasks):
        tasks.add_task(note, "streamed ")
        yield request.headers["x-other"]

    @on_request("/head", methods=["GET"])
    async def head(self, response: Response, set_it: bool = True) -> str:
        if set_it:
            response.status_code = 202
            response.headers["x-made"] = "here"
            response.set_cookie("a", "1")
            response.set_cookie("b", "2")
        return "made"

    @on_request("/later", methods=["GET"])
    async def later(self, tasks: BackgroundTasks, text: str) -> str:
        tasks.add_task(note, text)
        tasks.add_task(fail)
        return "soon"

    @on_request("/pieces", methods=["GET"])
    async def pieces(self) -> StreamingResponse:
        async def parts():
            yield "one "
            yield b"two"
        return StreamingResponse(parts(), 203, media_type="text/plain", headers={"x-made": "there"})

    @on_request("/limited", methods=["GET"])
    async def limited(self, most: int = Query(10, ge=1), tags: list[str] = Query([]), must: str = Query()) -> list:
        return [most, tags, must]

    @on_request("/needy", methods=["GET"])
    async def needy(self, key: str = Depends(key_of)) -> str:
        return key
"""
ASKS = """
@on_register()
class A(BasePlugin):
    @on_request("/asks", methods=["GET"])
    async def asks(self, api: str, arguments: str) -> object:
        import json
        try:
            return await call_plugin_api(api, **json.loads(arguments))
        except ArgumentsError as error:
            return str(error)
"""


@pytest.fixture(params=["inline", "local"])
def client(request: pytest.FixtureRequest, write: Write) -> Iterator[TestClient]:
    write(p=TAKES)
    write(["/api/v1/limited", "/api/v1/needy", "/api/v1/chunks"], a=ASKS)
    app = run(test_mode=True, engine=request.param, num_cpus=2, load_plugins=["p", "a"], strict=True)
    with TestClient(app, raise_server_exceptions=False) as made:
        yield made


def test_the_request_is_the_same_everywhere(client: TestClient) -> None:
    headers = {"x-other": "o", "x-key": "k", "cookie": "c=crumb"}
    answer = client.post("/api/v1/seen/x?a=1", json={"name": "n"}, headers=headers)
    body = '{"name":"n"}'
    assert data(answer) == {
        "method": "POST", "path": "/api/v1/seen/x", "query": {"a": "1"}, "part": "x", "params": {"part": "x"},
        "header": "o", "cookie": "crumb", "body": body, "json": {"name": "n"}, "item": "n", "key": "k",
        "host": "testserver", "client": "testclient", "gone": False,
    }  # fmt: skip
    file = {"file": ("a.txt", b"abc", "text/x-mine")}
    assert data(client.post("/api/v1/form", data={"text": "t"}, files=file)) == [
        "t",
        "t",
        "a.txt",
        "abc",
        "text/x-mine",
    ]
    assert data(client.post("/api/v1/chunks", content=b"x" * 100_000)) == "x" * 100_000
    assert client.get("/api/v1/lines", headers=headers).text == "data: o\n\n"


def test_what_is_set_of_the_answer_comes_back(client: TestClient) -> None:
    answer = client.get("/api/v1/head")
    assert (answer.status_code, answer.json()["data"], answer.headers["x-made"]) == (202, "made", "here")
    assert dict(answer.cookies) == {"a": "1", "b": "2"}
    assert client.get("/api/v1/head?set_it=false").status_code == 200
    pieces = client.get("/api/v1/pieces")
    assert (pieces.status_code, pieces.text, pieces.headers["x-made"]) == (203, "one two", "there")


def test_background_tasks_run_after_the_answer(client: TestClient, place: Path) -> None:
    assert data(client.get("/api/v1/later?text=noted")) == "soon"
    client.get("/api/v1/lines", headers={"x-other": "o"})
    deadline = time.monotonic() + 60
    either = {"notedstreamed ", "streamed noted"}  # those of two requests have no order
    while not ((place / "notes").exists() and (place / "notes").read_text() in either):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert client.get("/api/v1/later?text=").status_code == 200  # the task that failed took nothing with it


def test_defaults_that_only_describe_are_filled_in_for_plugins(client: TestClient) -> None:
    def asks(api: str, arguments: str) -> Any:
        return data(client.get("/api/v1/asks", params={"api": api, "arguments": arguments}))

    assert asks("/api/v1/limited", '{"must": "m"}') == [10, [], "m"]
    assert asks("/api/v1/limited", '{"must": "m", "most": 3}') == [3, [], "m"]
    assert "missing a required argument: 'must'" in asks("/api/v1/limited", "{}")
    assert "key is what only an HTTP request brings" in asks("/api/v1/needy", "{}")
    assert "missing a required argument: 'request'" in asks("/api/v1/chunks", "{}")


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ('@on_request("/x")\n    async def x(self, socket: WebSocket): ...', "asks for a WebSocket"),
        ('@on_request("/x", stream=True)\n    async def x(self, response: Response): yield', "sent before a stream"),
        ('@on_request("/x", cache={})\n    async def x(self, request: Request): ...', "needs cache={'key_builder'"),
        ('@on_request("/x")\n    async def x(self, what: "Unknown"): ...', "cannot be resolved"),
        ('@on_request("/x")\n    async def x(self, what: object.__class__.mro): ...', ""),
        ('@on_request("/x", nonsense=1)\n    async def x(self): ...', "nonsense"),
    ],
)
def test_what_cannot_be_a_route_is_told_of_its_plugin_alone(write: Write, method: str, says: str) -> None:
    text = "from fastapi import Request, Response, WebSocket\n@on_register()\nclass P(BasePlugin):\n    " + method
    write(p=text)
    with pytest.raises(PluginLoadError, match=f"p: .*{says}"):
        run(test_mode=True, load_plugins=["p"], strict=True)
    assert run(test_mode=True, load_plugins=["p"], load_builtin_plugins=["echo"]) is not None
