"""A plugin as FrameX's public documentation teaches to write them runs after its imports alone were changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")

from fastapi.testclient import TestClient

from skate.plugin import run
from skate.plugin.consts import API_STR

# the names are those that such plugins import from framex.consts, framex.plugin, framex.plugin.model, framex.utils
PROVIDER = """
import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from pydantic import BaseModel

from skate.plugin.consts import VERSION
from skate.plugin import BasePlugin, PluginMetadata, get_plugin_config, on_register, on_request
from skate.plugin.model import ApiType
from skate.plugin.sse import StreamEventType as StreamEnventType, make_stream_event

__plugin_meta__ = PluginMetadata(
    name="provider",
    version=VERSION,
    description="Offers a route of each kind",
    author="you",
    url="https://example.org/provider",
    required_remote_apis=[],
)


class ProviderConfig(BaseModel):
    greeting: str = "hello"
    ingress_config: dict[str, Any] = {"max_ongoing_requests": 60}


settings = get_plugin_config("provider", ProviderConfig)


class NoteModel(BaseModel):
    id: int
    name: str


@on_register(**settings.ingress_config)
class ProviderPlugin(BasePlugin):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.started = False

    async def on_start(self) -> None:
        self.started = True

    @on_request("/note", methods=["GET"])
    async def note(self, message: str) -> str:
        return f"{settings.greeting} {message}, {self.started}"

    @on_request("/note_model", methods=["POST"])
    async def note_model(self, message: str, model: NoteModel) -> str:
        return f"{message},{model.model_dump()}"

    @on_request("/api/v1/note_stream", methods=["GET"], stream=True)
    async def note_stream(self, message: str) -> AsyncGenerator[str, None]:
        for letter in f"to {message}":
            yield make_stream_event(StreamEnventType.MESSAGE_CHUNK, letter)
            await asyncio.sleep(0)
        yield make_stream_event(StreamEnventType.FINISH)

    @on_request("/status", methods=["GET"], raw_response=True)
    async def status(self) -> dict[str, str]:
        return {"status": "ok"}

    @on_request("/both", methods=["GET"], call_type=ApiType.ALL)
    async def both(self, message: str) -> str:
        return message

    @on_request(call_type=ApiType.FUNC)
    async def confess(self, message: str) -> str:
        return f"received: {message}"
"""
CONSUMER = """
import time
from typing import Any

from skate.plugin.consts import VERSION
from skate.plugin import BasePlugin, PluginMetadata, on_register, on_request, remote

__plugin_meta__ = PluginMetadata(
    name="consumer",
    version=VERSION,
    description="Calls the other one",
    author="you",
    url="https://example.org/consumer",
    required_remote_apis=[
        "/api/v1/note",
        "provider.ProviderPlugin.confess",
        "/api/v1/note_stream",
        "/api/v1/note_model",
    ],
)


@remote()
def sleep_well() -> str:
    time.sleep(0.01)
    return "slept"


class Worker:
    @remote()
    def compute(self, n: int) -> int:
        return sum(i * i for i in range(n))


class Tools:
    @remote()
    @staticmethod
    def convert(text: str) -> str:
        return text.upper()


@on_register()
class ConsumerPlugin(BasePlugin):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @on_request("/all", methods=["GET"])
    async def all(self, message: str) -> list[Any]:
        def content(chunk: str) -> str:
            return chunk.split('"content": "')[-1].split('"')[0]

        note = await self._call_remote_api("/api/v1/note", message=message)
        stream = await self._call_remote_api("/api/v1/note_stream", message=message)
        text = "".join([content(chunk) for chunk in stream if "message_chunk" in chunk])
        confess = await self._call_remote_api("provider.ProviderPlugin.confess", message=message)
        model = await self._call_remote_api("/api/v1/note_model", message=message, model={"id": 1, "name": "n"})
        return [note, text, confess, model]

    @on_request("/work", methods=["GET"])
    async def work(self) -> list[Any]:
        return [await sleep_well.remote(), await Worker().compute.remote(10), await Tools.convert.remote("x")]
"""


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_such_plugins_run(place: Path, engine: str) -> None:
    (place / "provider.py").write_text(PROVIDER)
    (place / "consumer.py").write_text(CONSUMER)
    (place / "config.toml").write_text(
        'load_plugins = ["provider", "consumer"]\nbase_ingress_config = {max_ongoing_requests = 10}\n'
        "[server]\nuse_ray = false\ningress_config = {max_ongoing_requests = 60}\n"
        '[plugins.provider]\ngreeting = "good day"\n'
    )
    with TestClient(run(test_mode=True, engine=engine, num_cpus=2, strict=True)) as client:
        params = {"message": "you"}
        note = client.get(f"{API_STR}/note", params=params).json()
        assert (note["status"], note["data"]) == (200, "good day you, True")
        model = client.post(f"{API_STR}/note_model", params=params, json={"id": 1, "name": "n"}).json()
        assert model["data"] == "you,{'id': 1, 'name': 'n'}"
        assert client.get(f"{API_STR}/status").json() == {"status": "ok"}
        assert client.get(f"{API_STR}/both", params=params).json()["data"] == "you"
        with client.stream("GET", f"{API_STR}/note_stream", params=params) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert {line for line in lines if line.startswith("event: ")} == {"event: message_chunk", "event: finish"}
        chunks = [json.loads(line.removeprefix("data: ")).get("content", "") for line in lines if line[:5] == "data:"]
        assert "".join(chunks) == "to you"
        assert client.get(f"{API_STR}/all", params=params).json()["data"] == [
            "good day you, True",
            "to you",
            "received: you",
            "you,{'id': 1, 'name': 'n'}",
        ]
        assert client.get(f"{API_STR}/work").json()["data"] == ["slept", 285, "X"]


HABITS = """
import asyncio
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request

from skate.plugin import BasePlugin, PluginMetadata, call_plugin_api, on_proxy, on_register, on_request
from skate.plugin import register_proxy_func, remote
from skate.plugin.consts import VERSION

__plugin_meta__ = PluginMetadata(
    name="habits", version=VERSION, description="d", author="a", url="https://example.org",
    required_remote_apis=["/api/v1/by_default", "/api/v1/echo", "echo.EchoPlugin.confess"],
)


class Body(BaseModel):
    text: str


def key_of(request: Request, context: Any, request_kwargs: dict[str, Any]) -> str:
    assert isinstance(context.keys(), list)
    return f"{request.url.path}:{request_kwargs['project']}"


@on_proxy()
async def look_up(number, name):
    return f"{name} {number}"


@remote()
async def later(a: int, b: str) -> str:
    await asyncio.sleep(0)
    return f"{a}, {b}"


class Tools:
    @remote()
    @classmethod
    def name(cls, more: str) -> str:
        return cls.__name__ + more


@on_register()
class HabitsPlugin(BasePlugin):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.asked = 0

    async def on_start(self) -> None:
        register_proxy_func(look_up)

    @on_request("/by_default")
    async def by_default(self, message: str) -> str:
        return message

    @on_request("no_slash", methods=["GET"])
    async def no_slash(self) -> None:
        return None

    @on_request("/body", methods=["POST"])
    async def body(self, model: Body) -> dict[str, str]:
        return {"text": model.text}

    @on_request("/report", methods=["POST"], cache={"key_builder": key_of, "ttl": 300})
    async def report(self, project: str, other: int = 0) -> int:
        self.asked += 1
        return self.asked

    @on_request("/work", methods=["GET"])
    async def work(self) -> list[Any]:
        return [await later.remote(1, "x"), await Tools.name.remote("!"), await look_up(number=3, name="no")]

    @on_request("/others", methods=["GET"])
    async def others(self, message: str) -> list[Any]:
        refused = ""
        try:
            await call_plugin_api("/api/v1/report", project="p")
        except RuntimeError as error:
            refused = str(error)
        return [
            await call_plugin_api("/api/v1/echo", message=message),
            await self._call_remote_api("echo.EchoPlugin.confess", message=message),
            await self._call_remote_api("/api/v1/by_default", message=message),
            "required_remote_apis" in refused,
        ]
"""


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_habits_of_such_plugins_are_served(place: Path, engine: str) -> None:
    (place / "habits.py").write_text(HABITS)
    (place / "config.toml").write_text("[server]\nuse_ray = false\ndashboard_port = 8260\n[cache]\nenabled = true\n")
    from skate import plugin as framex

    framex.load_builtin_plugins("echo")
    framex.load_plugins("habits")
    app = framex.run(test_mode=True, engine=engine, num_cpus=2, dashboard_host="127.0.0.1")
    with TestClient(app) as client:
        assert client.get(f"{API_STR}/by_default?message=x").json()["data"] == "x"
        assert client.get(f"{API_STR}/no_slash").json() == {"status": 200, "message": "success", "data": None}
        assert client.post(f"{API_STR}/body", json={"text": "t"}).json()["data"] == {"text": "t"}
        reports = [client.post(f"{API_STR}/report?project={name}&other={n}") for n, name in enumerate("aab")]
        assert [each.json()["data"] for each in reports] == [1, 1, 2]
        assert [each.headers["x-skate-cache-status"] for each in reports] == ["MISS", "HIT", "MISS"]
        assert client.get(f"{API_STR}/work").json()["data"] == ["1, x", "Tools!", "no 3"]
        assert client.get(f"{API_STR}/others?message=m").json()["data"] == ["m", "Got your message: m", "m", True]
        assert {client.get(path).status_code for path in ("/docs", "/redoc", "/health")} == {200}
        missing = client.get(f"{API_STR}/by_default")
        assert (missing.status_code, missing.json()["status"]) == (422, 422)
