"""Serve under mixed load while replicas are killed, an application is updated, and it is scaled up and down.

    python -m skate.testing.serve_soak --seconds 300

Counts the requests that failed though they were not in flight on a replica that was killed; there must be none. The
memory of the processes that stay (program, proxy, controller) must not grow. Exits with 1 if either fails.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from typing import Any

import click
import psutil

import skate
from skate import serve
from skate.serve import context, proxy

GROWTH_MB = 48.0
"""Megabytes by which a process may grow after the first third of the time."""
PATIENCE = 30.0
"""Seconds for one request."""


class Failed(Exception):
    """A request had no good answer."""


def application(generation: int) -> Any:
    """An ASGI application: short and long requests, bodies, streams."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path, size, more = scope["path"], 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        if path == "/slow":
            await asyncio.sleep(0.05)
        elif path == "/pid":
            size = os.getpid()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-generation", b"%d" % generation)]})
        for _ in range(20 if path == "/stream" else 0):
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"%d" % size})

    return app


class Client:
    """A connection that is used for many requests, one at a time."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, path: str, body: bytes = b"") -> bytes:
        """One request; its answer's body. Raises Failed, OSError or EOFError."""
        reused = self.writer is not None and self.reader is not None and not self.reader.at_eof()
        if not reused:
            await self.close()
            self.reader, self.writer = await asyncio.open_connection(*self.address)
        try:
            return await self._exchange(path, body)
        except (OSError, EOFError):
            await self.close()
            raise

    async def _exchange(self, path: str, body: bytes) -> bytes:
        assert self.reader is not None
        assert self.writer is not None
        head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: soak\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()
        first, *headers = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in headers if line)
        found = b""
        if "content-length" in fields:
            found = await self.reader.readexactly(int(fields["content-length"]))
        else:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                found += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        if fields.get("connection") == "close":
            await self.close()
        if " 200 " not in first + " ":
            raise Failed(f"{first}: {found[:200]!r}")
        return found

    async def close(self) -> None:
        """Close the connection."""
        if self.writer is not None:
            self.writer.close()
            self.reader = self.writer = None


class Load:
    """Clients that ask without a pause, and what came of it."""

    def __init__(self, address: tuple[str, int], clients: int, seed: int) -> None:
        self.address = address
        self.clients = clients
        self.seed = seed
        self.kills: list[float] = []
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.in_flight = 0
        """Requests that died with their replica."""
        self.again = 0
        """Requests on a connection that a killed replica had taken along unused, made again as HTTP has it."""
        self.stopping = False
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="soak-load")

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(random.Random(self.seed + number)) for number in range(self.clients)))

    async def _client(self, dice: random.Random) -> None:
        client = Client(self.address)
        while not self.stopping:
            path, body = dice.choice(
                [("/short", b""), ("/short", b""), ("/slow", b""), ("/stream", b""), ("/body", b"x")]
            )
            body *= dice.randrange(1, 200_000)
            await self._ask(client, path, body)
            if dice.random() < 0.05:
                await client.close()
        await client.close()

    async def _ask(self, client: Client, path: str, body: bytes) -> None:
        for attempt in range(2):
            began = time.monotonic()
            fresh = client.writer is None
            try:
                found = await asyncio.wait_for(client.ask(path, body), PATIENCE)
            except (OSError, EOFError, Failed, TimeoutError) as error:
                if any(began - 0.02 <= kill for kill in self.kills[-20:]):
                    self.in_flight += 1
                elif not fresh and attempt == 0 and any(began - 1.0 <= kill for kill in self.kills[-20:]):
                    self.again += 1
                    await client.close()
                    continue
                else:
                    self.failures.append(f"{path} after {time.monotonic() - began:.3f} s: {error!r}")
                await client.close()
                return
            want = len(body) if body else 0
            if path == "/stream":
                found = found[20_000:]
            if int(found) != want:
                self.failures.append(f"{path}: {found!r} in place of {want}")
            self.done[path] += 1
            return


def deploy(generation: int, replicas: int) -> None:
    """Run the application anew: another generation replaces the replicas, another number adds or ends some."""
    made = serve.deployment(
        serve.ingress(application(generation))(),
        name="Soak",
        version=str(generation),
        num_replicas=replicas,
        max_ongoing_requests=100,
        graceful_shutdown_wait_loop_s=0.05,
    )
    serve.run(made.bind(), name="soak")


def memory(pids: dict[str, int]) -> dict[str, float]:
    """Megabytes that these processes have to themselves."""
    return {name: psutil.Process(pid).memory_full_info().uss / 1e6 for name, pid in pids.items()}


def kill_one(address: tuple[str, int], load: Load) -> None:
    """Kill the replica that answers next."""

    async def pid() -> int:
        client = Client(address)
        try:
            return int(await asyncio.wait_for(client.ask("/pid"), 10))
        finally:
            await client.close()

    try:
        victim = asyncio.run(pid())
    except (OSError, EOFError, Failed, TimeoutError) as error:
        load.failures.append(f"/pid: {error!r}")
        return
    load.kills.append(time.monotonic())
    os.kill(victim, signal.SIGKILL)
    load.kills.append(time.monotonic())


def disturb(load: Load, seconds: float, every: float, dice: random.Random) -> dict[str, list[float]]:
    """Kill, update and scale for so many seconds; the memory that processes had on the way."""
    front = skate.get_actor(proxy.NAME, namespace=context.NAMESPACE)
    controller = context.controller()
    pids = {"program": os.getpid(), "proxy": skate.get(front.figures.remote())["pid"]}
    pids["controller"] = skate.get(controller.__ray_call__.remote(_pid))
    seen: dict[str, list[float]] = {name: [] for name in pids}
    end = time.monotonic() + seconds
    generation, step = 0, 0
    while time.monotonic() < end:
        time.sleep(every * dice.uniform(0.7, 1.3))
        step += 1
        if step % 5 == 3:
            generation += 1
            deploy(generation, 3)
        elif step % 5 == 0:
            deploy(generation, dice.choice([1, 2, 4]))
        else:
            kill_one(load.address, load)
        for name, now in memory(pids).items():
            seen[name].append(now)
        print(
            f"{end - time.monotonic():6.1f} s left, {sum(load.done.values())} answers, {len(load.kills) // 2} kills, "
            f"{load.in_flight} died with their replica, {load.again} made again, {len(load.failures)} failed",
            flush=True,
        )
    return seen


def _pid(_: Any) -> int:
    return os.getpid()


@click.command()
@click.option("--seconds", default=300.0, show_default=True, help="How long.")
@click.option("--clients", default=16, show_default=True, help="Connections that ask without a pause.")
@click.option("--every", default=3.0, show_default=True, help="Seconds between two disturbances.")
@click.option("--seed", default=1, show_default=True, help="For another course of events.")
def main(seconds: float, clients: int, every: float, seed: int) -> None:
    """Serve under load while replicas are killed, updated and scaled."""
    skate.init(num_cpus=4, log_to_driver=True)
    serve.start(http_options={"port": 0})
    deploy(0, 3)
    front = skate.get_actor(proxy.NAME, namespace=context.NAMESPACE)
    load = Load(skate.get(front.address.remote()), clients, seed)
    load.thread.start()
    try:
        seen = disturb(load, seconds, every, random.Random(seed))
    finally:
        load.stopping = True
        load.thread.join(PATIENCE + 5)
        serve.shutdown()
        skate.shutdown()
    sys.exit(report(load, seen))


def report(load: Load, seen: dict[str, list[float]]) -> int:
    """Say what came of it; 0 if all is well."""
    print(f"answers: {dict(load.done)}")
    for failure in load.failures[:20]:
        print(f"failed: {failure}")
    grown = []
    for name, values in seen.items():
        early = max(values[: max(len(values) // 3, 1)])
        late = max(values[-max(len(values) // 3, 1) :])
        print(f"memory of the {name}: {early:.1f} MB in the first third, {late:.1f} MB in the last")
        if late - early > GROWTH_MB:
            grown.append(name)
    print(f"{len(load.failures)} requests failed that were in flight on no killed replica; grown: {grown or 'none'}")
    return 1 if load.failures or grown or not load.done else 0


if __name__ == "__main__":
    main()
