"""A front and replicas' HTTP sides as plain processes, without actors: what the tests of connections are made of."""

from __future__ import annotations

import asyncio
import mmap
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from skate.serve.connections import Settings
from skate.serve.http_entry import Entry
from skate.serve.http_front import Front
from skate.serve.http_loop import use_uvloop
from skate.serve.http_replica import ReplicaHTTP

TARGET = ("app", "Ingress")
FORK = multiprocessing.get_context("fork")


class Gate:
    def __init__(self, most: int = 100) -> None:
        self.ongoing = 0
        self.max_ongoing = most
        self.waiting: deque[Any] = deque()

    def begin(self) -> None:
        self.ongoing += 1

    def end(self) -> None:
        self.ongoing -= 1
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


async def read_all(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client has gone")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def reply(send: Any, body: bytes, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def replica(path: str, name: str, make: Callable[[], Any], most: int, use: dict[str, Any]) -> None:
    """The process of a replica."""

    async def main() -> None:
        here = ReplicaHTTP(Gate(most), TARGET, name, make(), Entry(lambda *_: None), **use)
        here.listen(path)
        drained = asyncio.Event()

        async def drain() -> None:
            await here.drain(2.0)
            drained.set()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: loop.create_task(drain()))
        await drained.wait()
        await asyncio.sleep(0.05)
        here.close()

    use_uvloop()
    asyncio.run(main())
    os._exit(0)


def proxy(port: Any, paths: Any, settings: Settings, known: dict[str, str]) -> None:
    """The process of a proxy."""

    async def main() -> None:
        front = Front(Entry(lambda *_: None))
        joined = front.joined

        def count(backend: Any) -> None:
            joined(backend)
            port[4:8] = sum(one.ready for one in front.backends[TARGET].values()).to_bytes(4, "little")

        front.joined = count  # type: ignore[method-assign]
        front.take(settings)
        front.join(TARGET, known)
        await asyncio.sleep(0.1 if known else 0)
        found = front.listen("127.0.0.1", int.from_bytes(port[:4], "little"))[1]
        port[:4] = found.to_bytes(4, "little")
        loop = asyncio.get_running_loop()
        end = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, end.set)

        def join() -> None:
            if paths.poll():
                front.join(TARGET, paths.recv())

        loop.add_reader(paths.fileno(), join)
        await end.wait()
        front.stop()

    use_uvloop()
    asyncio.run(main())
    os._exit(0)


class Serving:
    """A proxy and its replicas."""

    def __init__(self, folder: str, make: Callable[[], Any], settings: Settings | None = None) -> None:
        self.folder = folder
        self.make = make
        self.settings = settings or Settings({"/": TARGET})
        self.shared = mmap.mmap(-1, mmap.PAGESIZE)
        """The port, where all processes see it."""
        self.ours, self.theirs = FORK.Pipe()
        self.replicas: dict[str, Any] = {}
        self.paths: dict[str, str] = {}
        self.proxy: Any = None
        self.start_proxy()

    @property
    def port(self) -> int:
        return int.from_bytes(self.shared[:4], "little")

    def start_proxy(self) -> None:
        self.proxy = FORK.Process(target=proxy, args=(self.shared, self.theirs, self.settings, dict(self.paths)))
        self.proxy.start()
        deadline = time.monotonic() + 60
        while not self.port:
            assert time.monotonic() < deadline, "the proxy does not listen"
            time.sleep(0.005)

    def add(self, name: str, most: int = 100, **use: Any) -> Any:
        path = os.path.join(self.folder, name)
        process = FORK.Process(target=replica, args=(path, name, self.make, most, use))
        process.start()
        deadline = time.monotonic() + 60
        while not os.path.exists(path):
            assert time.monotonic() < deadline, "the replica does not listen"
            time.sleep(0.005)
        self.replicas[name], self.paths[name] = process, path
        self.ours.send(dict(self.paths))
        deadline = time.monotonic() + 60
        while int.from_bytes(self.shared[4:8], "little") < len(self.paths):
            assert time.monotonic() < deadline, "the proxy has not heard of the replica"
            time.sleep(0.005)
        return process

    def kill(self, name: str) -> None:
        self.replicas[name].kill()
        self.replicas.pop(name).join(5)
        del self.paths[name]
        self.shared[4:8] = len(self.paths).to_bytes(4, "little")

    def close(self) -> None:
        for process in [self.proxy, *self.replicas.values()]:
            process.kill()
            process.join(5)
            process.close()
        self.ours.close()
        self.theirs.close()
        self.shared.close()
