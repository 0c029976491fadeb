"""Tokens as they are made: server-sent events, a WebSocket, and a client that goes away.

A stand-in for a language model makes a token every few milliseconds. Clients see the first one at once, and a model
stops working for those who have gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI, WebSocket
from starlette.responses import StreamingResponse
from websockets.sync.client import connect

import skate as ray
from skate import serve

api = FastAPI()
TEXT = ["It", "is", "not", "the", "mountain", "we", "conquer", "but", "ourselves"]


@serve.deployment(max_ongoing_requests=100)
@serve.ingress(api)
class Model:
    """Makes tokens."""

    def __init__(self) -> None:
        self.made = 0

    async def tokens(self, count: int) -> AsyncIterator[str]:
        """Words, one every few milliseconds."""
        for number in range(count):
            await asyncio.sleep(0.005)
            self.made += 1
            yield TEXT[number % len(TEXT)]

    @api.get("/complete")
    async def complete(self, count: int = len(TEXT)) -> StreamingResponse:
        """Server-sent events, as clients of OpenAI's interface read them."""

        async def events() -> AsyncIterator[str]:
            async for token in self.tokens(count):
                yield f"data: {token}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @api.websocket("/talk")
    async def talk(self, websocket: WebSocket) -> None:
        """The same over a WebSocket, as many as the client asks for."""
        await websocket.accept()
        async for token in self.tokens(int(await websocket.receive_text())):
            await websocket.send_text(token)
        await websocket.close()

    @api.get("/made")
    async def how_many(self) -> int:
        """Tokens made so far."""
        return self.made


def main() -> None:
    ray.init(num_cpus=4)
    serve.start(http_options={"port": 0})
    serve.run(Model.bind())
    url = serve.get_http_address()

    began = time.perf_counter()
    words, first = [], 0.0
    with httpx.stream("GET", f"{url}/complete") as answer:
        for line in answer.iter_lines():
            if line:
                first = first or time.perf_counter() - began
                words.append(line.removeprefix("data: "))
    print(" ".join(words[:-1]), f"(the first after {first * 1000:.0f} ms)")
    assert words == [*TEXT, "[DONE]"]

    with connect(url.replace("http", "ws") + "/talk") as socket:
        socket.send("3")
        print(" ".join(socket.recv() for _ in range(3)))

    with httpx.stream("GET", f"{url}/complete", params={"count": 1_000_000}) as answer:
        next(answer.iter_raw())  # and we have seen enough
    before = httpx.get(f"{url}/made").json()
    time.sleep(0.2)
    after = httpx.get(f"{url}/made").json()
    serve.shutdown()
    ray.shutdown()
    assert after - before < 20
    print("serve_streaming: for a client that has gone no token is made")


if __name__ == "__main__":
    main()
