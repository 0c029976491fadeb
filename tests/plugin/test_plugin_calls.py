"""Routes take what their methods take, plugins call what they declared, and `remote` work leaves the loop free."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")

from fastapi.testclient import TestClient
from plugin_services import Write, data

from skate.plugin import ApiNotFoundError, ArgumentsError, call_plugin_api, remote, run
from skate.plugin.errors import BusyError
from skate.plugin.limits import Limit


def service(**options: Any) -> Any:
    return run(test_mode=True, engine="inline", strict=True, **options)


PARAMETERS = """
from typing import Annotated, Literal
from fastapi import File, Form, Header, HTTPException, Query, UploadFile
from fastapi.responses import PlainTextResponse

class Item(BaseModel):
    name: str
    parent: "Item | None" = None

@on_register()
class P(BasePlugin):
    @on_request("/items/{number}", methods=["GET"])
    async def items(self, number: int, kind: Literal["a", "b"] = "a", tags: Annotated[list[str], Query()] = []) -> list:
        return [number, kind, tags]

    @on_request("/make", methods=["POST"])
    async def make(self, item: Item, times: int = 1) -> list[Item]:
        return [item] * times

    @on_request("/upload", methods=["POST"])
    async def upload(self, file: Annotated[UploadFile, File()], note: Annotated[str, Form()]) -> dict:
        return {"name": file.filename, "bytes": len(await file.read()), "note": note}

    @on_request("/raw", methods=["GET"], raw_response=True)
    def raw(self, x_key: Annotated[str, Header()] = "none") -> dict:
        return {"key": x_key}

    @on_request("/plain", methods=["GET", "PUT"], api_prefix=False)
    async def plain(self): return PlainTextResponse("as it is", 201)

    @on_request("/odd", methods=["GET"])
    async def odd(self) -> object: return object()

    @on_request("/teapot", methods=["GET"])
    async def teapot(self): raise HTTPException(418, "short", headers={"x-spout": "1"})

    @on_request("/counts", methods=["GET"], stream=True)
    def counts(self, most: int):
        for number in range(most):
            if number == 3:
                raise ValueError("secret detail")
            yield {"number": number}

    @on_request("/early", methods=["GET"], stream=True)
    async def early(self):
        raise HTTPException(403, "not you")
        yield
"""


def test_parameters_become_those_of_the_route(write: Write) -> None:
    write(p=PARAMETERS)
    with TestClient(service(load_plugins=["p"])) as client:
        assert data(client.get("/api/v1/items/5?kind=b&tags=x&tags=y")) == [5, "b", ["x", "y"]]
        assert client.get("/api/v1/items/five").status_code == 422
        made = client.post("/api/v1/make?times=2", json={"name": "n", "parent": {"name": "m"}})
        assert data(made)[1] == {"name": "n", "parent": {"name": "m", "parent": None}}
        upload = client.post("/api/v1/upload", files={"file": ("a.txt", b"abc")}, data={"note": "hi"})
        assert data(upload) == {"name": "a.txt", "bytes": 3, "note": "hi"}
        assert client.get("/api/v1/raw", headers={"x-key": "k"}).json() == {"key": "k"}
        assert (client.put("/plain").text, client.get("/plain").status_code) == ("as it is", 201)
        teapot = client.get("/api/v1/teapot")
        assert (teapot.status_code, teapot.json()["message"], teapot.headers["x-spout"]) == (418, "short", "1")
        assert client.get("/api/v1/odd").status_code == 500


def test_a_streams_error_is_an_event_and_tells_nothing(write: Write) -> None:
    write(p=PARAMETERS)
    with TestClient(service(load_plugins=["p"])) as client:
        text = client.get("/api/v1/counts?most=9").text
        assert text.startswith('data: {"number":0}\n\ndata: {"number":1}\n\n')
        assert text.count("event: error") == 1 and "secret" not in text
        assert client.get("/api/v1/early").status_code == 403


CALLER = """
class Ask(BaseModel):
    x: int

@on_register()
class Caller(BasePlugin):
    @on_request("/ask", methods=["GET"])
    async def ask(self, api: str, how: str = "") -> object:
        arguments = {"": {}, "model": {"item": {"name": "n"}}, "wrong": {"item": {"nome": 1}}, "more": {"x": 1}}[how]
        try:
            return await self._call_remote_api(api, **arguments)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    @on_request("/sum", methods=["GET"])
    async def sum(self, sync: bool) -> object:
        stream = await call_plugin_api("/api/v1/counts", most=3)
        if sync:
            return [item["number"] for item in stream]
        return [item["number"] async for item in stream]

    @on_request("/first", methods=["GET"])
    async def first(self) -> object:
        stream = await call_plugin_api("/api/v1/endless")
        async for item in stream:
            await stream.aclose()
            return item
"""
CALLED = (
    PARAMETERS
    + """
    @on_request(call_type=ApiType.FUNC)
    async def thing(self) -> object: return Item(name="thing")

    @on_request("/both", methods=["GET"], call_type=ApiType.ALL)
    async def both(self) -> Item: return Item(name="both")

    @on_request("/endless", methods=["GET"], stream=True)
    async def endless(self):
        try:
            while True:
                yield 1
        finally:
            open("closed", "w").close()
"""
)


def test_plugins_call_by_path_and_by_name_what_they_declared(write: Write, place: Path) -> None:
    write(p=CALLED)
    allowed = ["/api/v1/make", "p.P.thing", "/api/v1/both", "p.P.both", "/api/v1/counts", "/api/v1/endless"]
    write(allowed, caller=CALLER)

    with TestClient(service(load_plugins=["p", "caller"])) as client:

        def ask(api: str, how: str = "") -> Any:
            return data(client.get("/api/v1/ask", params={"api": api, "how": how}))

        assert ask("/api/v1/make", "model") == [{"name": "n", "parent": None}]
        assert ask("/api/v1/both") == {"name": "both", "parent": None}
        assert "name='both'" in str(ask("p.P.both")) or ask("p.P.both") == {"name": "both", "parent": None}
        assert ask("p.P.thing") == {"name": "thing", "parent": None}
        assert ask("/api/v1/make", "wrong").startswith("ArgumentsError: p.P.make: item does not fit: name: Field requ")
        assert ask("/api/v1/make", "more").startswith("ArgumentsError: p.P.make(item")
        assert ask("/api/v1/items/{number}").startswith("ApiNotAllowedError: Plugin 'caller' calls '/api/v1/items")
        assert data(client.get("/api/v1/sum?sync=false")) == data(client.get("/api/v1/sum?sync=true")) == [0, 1, 2]
        assert data(client.get("/api/v1/first")) == 1 and (place / "closed").exists()


def test_the_program_itself_may_call_all_and_wrong_names_are_told(write: Write) -> None:
    write(p=CALLED)
    app = service(load_plugins=["p"])

    async def main() -> Any:
        await app.state.service.start()
        try:
            assert await call_plugin_api("/api/v1/both") == {"name": "both", "parent": None}
            with pytest.raises(ApiNotFoundError, match=r"no API '/api/v1/bot'\. Is '/api/v1/both' meant"):
                await call_plugin_api("/api/v1/bot")
            with pytest.raises(ArgumentsError, match="missing a required argument: 'item'"):
                await call_plugin_api("/api/v1/make")
        finally:
            await app.state.service.stop()

    asyncio.run(main())


@remote()
def blocking(seconds: float) -> str:
    time.sleep(seconds)
    return threading.current_thread().name


@remote()
def meet(barrier: threading.Barrier) -> bool:
    return barrier.wait(60) >= 0


@remote()
async def asynchronous(value: int, *, more: int = 0) -> int:
    await asyncio.sleep(0)
    return value + more


class Worker:
    def __init__(self, base: int) -> None:
        self.base = base

    @remote()
    def add(self, value: int) -> int:
        return self.base + value

    @remote()
    @staticmethod
    def upper(text: str) -> str:
        return text.upper()

    @remote()
    @classmethod
    def name(cls) -> str:
        return cls.__name__


def test_remote_takes_functions_and_methods_of_every_kind() -> None:
    async def main() -> None:
        assert await blocking.remote(0) != threading.current_thread().name
        assert await asynchronous.remote(1, more=2) == 3
        assert await Worker(10).add.remote(5) == 15 == Worker(10).add(5)
        assert await Worker.upper.remote("x") == "X" == Worker.upper("x")
        assert await Worker.name.remote() == "Worker" == Worker(1).name()
        with pytest.raises(TypeError, match="too many positional"):
            await blocking.remote(1, 2)

    asyncio.run(main())


def test_remote_work_runs_side_by_side() -> None:
    async def main() -> list[bool]:
        barrier = threading.Barrier(4)
        return await asyncio.gather(*[meet.remote(barrier) for _ in range(4)])

    assert asyncio.run(main()) == [True] * 4


def test_a_limit_lets_so_many_in_and_keeps_the_order() -> None:
    async def main() -> None:
        limit = Limit("x", 2, 2)
        order: list[int] = []

        async def one(number: int) -> None:
            await limit.enter()
            assert limit.ongoing <= 2
            await asyncio.sleep(0.01)
            order.append(number)
            limit.leave()

        tasks = [asyncio.create_task(one(number)) for number in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="2 requests are in progress and 2 wait"):
            await limit.enter()
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 3] and limit.ongoing == 0 and not limit.waiting

    asyncio.run(main())


SLOW = """
import asyncio
@on_register(max_ongoing_requests=1, max_queued_requests=1)
class Slow(BasePlugin):
    now = most = 0
    @on_request("/slow", methods=["GET"])
    async def slow(self) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.7)
        self.now -= 1
        return self.most
"""


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_a_plugins_limit_holds_and_what_is_too_much_is_refused(write: Write, engine: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    write(slow=SLOW)
    app = run(test_mode=True, engine=engine, num_cpus=2, load_plugins=["slow"], strict=True)
    with TestClient(app) as client, ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: client.get("/api/v1/slow"), range(6)))
    good = [answer for answer in answers if answer.status_code == 200]
    assert 1 <= len(good) < 6 and {data(answer) for answer in good} == {1}
    assert {answer.status_code for answer in answers} == {200, 503}
