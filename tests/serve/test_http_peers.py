"""Clients that others have written: openai's, Node's fetch, curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.middleware.gzip import GZipMiddleware

import skate
from skate import serve

api = FastAPI()
api.add_middleware(GZipMiddleware, minimum_size=100)
WORDS = ("to", " be", " or", " not")


@serve.deployment(max_ongoing_requests=100)
@serve.ingress(api)
class Chat:
    def __init__(self) -> None:
        self.cancelled = 0

    @api.post("/v1/chat/completions")
    async def complete(self, body: dict[str, Any]) -> Any:
        if body["model"] == "none":
            return openai_error(404)
        if body.get("stream"):
            return StreamingResponse(self.chunks(body), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(WORDS)}
        return {**about(body), "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    async def chunks(self, body: dict[str, Any]) -> AsyncIterator[str]:
        try:
            for word in WORDS if body["model"] == "short" else WORDS * 1000:
                choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
                yield f"data: {json.dumps({**about(body), 'choices': [choice]})}\n\n"
                await asyncio.sleep(0.01)
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @api.get("/cancelled")
    async def how_many(self) -> int:
        return self.cancelled

    @api.api_route("/echo", methods=["POST", "PUT"])
    async def echo(self, request: Request) -> dict[str, Any]:
        size = 0
        async for part in request.stream():
            size += len(part)
        return {"method": request.method, "size": size, "kind": request.headers.get("content-type")}

    @api.get("/large")
    async def large(self) -> str:
        return "x" * 10_000


def about(body: dict[str, Any]) -> dict[str, Any]:
    kind = "chat.completion.chunk" if body.get("stream") else "chat.completion"
    return {"id": "c1", "object": kind, "created": 1, "model": body["model"]}


def openai_error(status: int) -> Any:
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": {"message": "no such model", "type": "invalid_request_error"}}, status)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    skate.init(num_cpus=2)
    serve.start(http_options={"port": 0})
    serve.run(Chat.bind(), route_prefix="/llm")
    yield serve.get_http_address() + "/llm"
    serve.shutdown()
    skate.shutdown()


def ask(client: openai.OpenAI, model: str) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": "?"}], stream=True)


def test_openai(url: str, eventually: Any) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        answer = client.chat.completions.create(model="short", messages=[{"role": "user", "content": "?"}])
        assert answer.choices[0].message.content == "to be or not"
        assert [chunk.choices[0].delta.content for chunk in ask(client, "short")] == list(WORDS)
        with pytest.raises(openai.NotFoundError, match="no such model"):
            ask(client, "none")
        long = ask(client, "long")
        assert next(iter(long)).choices[0].delta.content == "to"
        long.close()
    eventually(lambda: cancelled(url), 20)


def cancelled(url: str) -> int:
    number: int = httpx.get(f"{url}/cancelled", timeout=20).json()
    return number


NODE = """
const url = process.argv[2];
const pause = () => new Promise(done => setTimeout(done, 10));
const body = new ReadableStream({
  async start(to) {
    for (let i = 0; i < 5; i++) { to.enqueue(new Uint8Array(1000)); await pause(); }
    to.close();
  }
});
const up = await (await fetch(url + "/echo", {method: "PUT", body, duplex: "half"})).json();
const large = await fetch(url + "/large");
const text = await large.text();
const form = new FormData();
form.append("a", new Blob(["x".repeat(50000)]), "a.bin");
const posted = await (await fetch(url + "/echo", {method: "POST", body: form})).json();
const many = await Promise.all([...Array(50).keys()].map(() => fetch(url + "/large").then(found => found.text())));
const events = [];
const stop = new AbortController();
const stream = await fetch(url + "/v1/chat/completions", {
  method: "POST", headers: {"content-type": "application/json"},
  body: JSON.stringify({model: "long", stream: true}), signal: stop.signal
});
try {
  for await (const part of stream.body.pipeThrough(new TextDecoderStream())) {
    events.push(part);
    if (events.length == 3) stop.abort();
  }
} catch (error) { events.push(error.name); }
const missing = await fetch(url + "/nothing");
console.log(JSON.stringify({
  up, encoding: large.headers.get("content-encoding"), length: text.length, posted: posted.size > 50000,
  kind: posted.kind.split(";")[0], many: many.every(each => each.length == 10002), last: events.at(-1),
  first: events[0].startsWith("data: {"), missing: missing.status, id: large.headers.get("x-request-id") != null
}));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_fetch_of_node(url: str) -> None:
    node = ["node", "--input-type=module", "-e", NODE, "--", "program", url]
    found = subprocess.run(node, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == {
        "up": {"method": "PUT", "size": 5000, "kind": None},
        "encoding": "gzip",
        "length": 10_002,
        "posted": True,
        "kind": "multipart/form-data",
        "many": True,
        "last": "AbortError",
        "first": True,
        "missing": 404,
        "id": True,
    }


def curl(*arguments: str, data: bytes = b"") -> str:
    command = ["curl", "-sS", "--max-time", "30", "--noproxy", "*", *arguments]
    found = subprocess.run(command, input=data, capture_output=True, timeout=60)
    assert found.returncode == 0, found.stderr
    return found.stdout.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(url: str) -> None:
    large = b"x" * 3_000_000  # curl waits for "100 Continue" ahead of it
    wanted = {"method": "POST", "size": len(large)}
    assert json.loads(curl("--data-binary", "@-", f"{url}/echo", data=large)).items() >= wanted.items()
    chunked = curl("-H", "Transfer-Encoding: chunked", "--data-binary", "@-", f"{url}/echo", data=large)
    assert json.loads(chunked)["size"] == len(large)
    assert len(curl("--compressed", f"{url}/large")) == 10_002
    assert len(curl("--http1.0", f"{url}/large")) == 10_002
    head = curl("-I", "-X", "HEAD", f"{url}/large")
    assert head.startswith("HTTP/1.1 405") and "x-request-id" in head
    answers = curl(f"{url}/large", f"{url}/large", "-w", " %{num_connects} ")
    assert answers.split()[1::2] == ["1", "0"]  # connections that were made
    prefers_h2 = curl("--http2", f"{url}/cancelled")
    assert prefers_h2.isdigit()
