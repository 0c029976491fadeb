"""The proxy: the actor that has the listening socket, and knows from the controller who serves what.

If it dies it is restarted. Meanwhile replicas go on serving the connections that they have, and hold the listening
socket, so that new connections wait rather than being refused; the new proxy gets all of them back.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import ssl
import sys
import zlib
from typing import Any

import skate
from skate import exceptions
from skate.serve import context, measures
from skate.serve.config import HTTPOptions, gRPCOptions
from skate.serve.connections import Settings
from skate.serve.handle import DeploymentHandle
from skate.serve.http_entry import Entry
from skate.serve.http_loop import FastLoop
from skate.serve.http_routes import Target
from skate.serve.listener import LISTEN_S, OVERDUE_S, RETRY_S
from skate.util.metrics_registry import Table

log = logging.getLogger("skate.serve")

NAME = context.PROXY
GREETING_S = 1.0
"""Seconds for replicas to hand over what they hold for a proxy before."""


def socket_path(folder: str, replica: str) -> str:
    """Where a replica is found by the proxy of its machine."""
    return os.path.join(folder, f"serve-{zlib.crc32(replica.encode()):08x}-{replica[-24:]}")


def tls_context(options: HTTPOptions) -> ssl.SSLContext | None:
    """What HTTPS needs, from the files that the options name; None without them. Errors name the files."""
    if not options.ssl_certfile:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        made.load_cert_chain(options.ssl_certfile, options.ssl_keyfile, options.ssl_keyfile_password)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"http_options.ssl_certfile {options.ssl_certfile!r} and ssl_keyfile {options.ssl_keyfile!r} "
            f"cannot be used: {error}"
        ) from None
    if options.ssl_ca_certs:
        try:
            made.load_verify_locations(options.ssl_ca_certs)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"http_options.ssl_ca_certs {options.ssl_ca_certs!r} cannot be used: {error}") from None
        made.verify_mode = ssl.CERT_REQUIRED
    made.set_alpn_protocols(["http/1.1"])
    return made


def start_proxy(options: HTTPOptions, grpc: gRPCOptions | None = None, node: str = "") -> Any:
    """The proxy's handle; it is started where there is none. ImportError names what is missing.

    Args:
        node: where it is to be; empty: at the head.
    """
    for module in ("uvicorn", "httptools", "starlette", "websockets"):
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"HTTP needs {module}: pip install 'skate-ray[serve]'")
    if grpc is not None and not grpc.grpc_servicer_functions:
        grpc = None  # as in Ray: nothing is served then
    if grpc is not None and importlib.util.find_spec("grpc") is None:
        raise ImportError("grpc_options need grpcio: pip install 'skate-ray[grpc]'")
    # The program has imported what its applications need: replicas start with it, and with what serves HTTP.
    frameworks = [name for name in ("starlette.responses", "fastapi") if name in sys.modules]
    skate.util.preload("skate.serve.http_front", "skate.serve.http_side", *frameworks)
    own = {"num_cpus": 0, "lifetime": "detached", "max_restarts": -1, "max_concurrency": 100_000}
    there = skate.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False) if node else None
    place = {"scheduling_strategy": there} if there else context.at_home(soft=False)
    name = f"{NAME}:{node}" if node else NAME
    return (
        skate.remote(Proxy)
        .options(**own, **place, name=name, namespace=context.NAMESPACE, get_if_exists=True)
        .remote(FastLoop(), options, grpc, name)
    )


class Proxy:
    """One proxy. `address` answers once it listens, or raises why it cannot."""

    def __init__(self, loop: FastLoop, options: HTTPOptions, grpc: gRPCOptions | None = None, name: str = NAME) -> None:
        from skate.serve.http_front import Front

        self.name = name
        self.options = options
        self.grpc: Any = None
        self.grpc_port = 0
        if grpc is not None:
            from skate.serve.grpc_proxy import GRPCFront

            self.grpc = GRPCFront(grpc, _handle, self._ingress, lambda: [app for app, _ in self._targets()])
        self.folder = context.session_folder()
        self.loop = asyncio.get_running_loop()
        context.loop = self.loop
        self.entry = Entry(_handle)
        self.entry.ready = False
        self.front = Front(self.entry, self._demand)
        self.front.here.context = tls_context(options)
        self.versions: dict[tuple[str, ...], int] = {("routes",): -1}
        self.published: dict[Target, Any] = {}
        self.heard = asyncio.Event()
        self.where: tuple[str, int] = ("", 0)
        self.started = self.loop.create_task(self._start())
        self.tasks = {self.loop.create_task(self._follow())}

    async def _start(self) -> None:
        vault = skate.get_actor(context.VAULT, namespace=context.NAMESPACE)
        kept, _ = await vault.everything.remote()
        await self._hear(await context.controller().listen.remote(dict(self.versions), 0.0))
        await self._hear(await context.controller().listen.remote(dict(self.versions), 0.0))
        await self._greeted()
        port = self.options.port or kept.get("proxy:port", 0)
        self.where = self.front.listen(self.options.host or "127.0.0.1", port)
        if self.name == NAME:
            vault.put.remote("proxy:port", self.where[1])
        if self.grpc is not None:
            self.grpc_port = await self.grpc.start(self.options.host or "127.0.0.1")

    async def _greeted(self) -> None:
        """Wait until the replicas have handed over what they hold."""
        deadline = self.loop.time() + GREETING_S
        while self.loop.time() < deadline:
            backends = [one for group in self.front.backends.values() for one in group.values()]
            if all(one.ready for one in backends):
                return
            await asyncio.sleep(0.005)

    async def _follow(self) -> None:
        """Hear of changes for as long as there is a proxy."""
        await asyncio.wait([self.started])
        while True:
            try:
                async with asyncio.timeout(LISTEN_S + OVERDUE_S):  # a call may be lost with a controller that dies
                    told = await context.controller().listen.remote(dict(self.versions), LISTEN_S)
            except (exceptions.RayError, RuntimeError, TimeoutError):
                await asyncio.sleep(RETRY_S)
                continue
            await self._hear(told)

    async def _hear(self, told: dict[tuple[str, ...], tuple[int, Any]]) -> None:
        for key, (version, news) in told.items():
            self.versions[key] = version
            if key == ("routes",):
                self._take_routes({prefix: tuple(found[:2]) for prefix, found in news.items()})
            elif key[0] == "replicas":
                self.published[key[1], key[2]] = news
        for target, published in self.published.items():
            self.front.join(target, {entry.name: socket_path(self.folder, entry.name) for entry in published.replicas})
        self.heard.set()

    def _take_routes(self, routes: dict[str, Target]) -> None:
        options = self.options
        self.entry.ready = True
        self.front.take(
            Settings(
                routes,
                options.root_path,
                options.request_timeout_s,
                float(options.keep_alive_timeout_s),
                options.max_body_bytes,
            )
        )
        wanted = {("replicas", *target) for target in routes.values()}
        for key in [key for key in self.versions if key[0] == "replicas" and key not in wanted]:
            del self.versions[key]
            self.published.pop((key[1], key[2]), None)
        for key in wanted:
            self.versions.setdefault(key, -1)

    def _demand(self, target: Target, count: int) -> None:
        """Tell the controller that connections wait, so that an application without replicas gets one."""
        try:
            context.controller().waiting.remote(*target, self.name, count)
        except (exceptions.RayError, RuntimeError):
            return  # it is told again while they wait

    def _targets(self) -> list[Target]:
        return list(self.entry.routes.table.values())

    async def _ingress(self, app: str) -> Target | None:
        """The ingress of an application, which may be one without a route."""
        known = dict(self._targets())
        if app not in known:
            rows = (await context.controller().status.remote())["applications"]
            known = {name: row["ingress"] for name, row in rows.items()}
        return (app, known[app]) if app in known else None

    async def grpc_address(self) -> tuple[str, int]:
        """Where gRPC is served; port 0: nowhere."""
        await asyncio.shield(self.started)
        return self.where[0], self.grpc_port

    async def address(self) -> tuple[str, int]:
        """Where it listens. Raises OSError when it cannot."""
        await asyncio.shield(self.started)
        return self.where

    async def routed(self, app: str, prefix: str) -> None:
        """Answers once requests for a route prefix go to an application, and its replicas are known."""
        await asyncio.shield(self.started)
        while True:
            target = self.entry.routes.table.get(prefix)
            if target is not None and target[0] == app and target in self.published:
                backends = self.front.backends.get(target, {})
                if all(backend.ready for backend in backends.values()):
                    return
            self.heard.clear()
            await asyncio.wait([asyncio.ensure_future(self.heard.wait())], timeout=0.01)

    async def figures(self) -> dict[str, int]:
        """What it has in hand."""
        front = self.front
        return {
            "connections": len(front.clients),
            "held": sum(len(line) for line in front.held.values()),
            "accepted": front.door.accepted,
            "pid": os.getpid(),
        }

    async def whereabouts(self) -> dict[str, Any]:
        """Which actor, process and node this is."""
        return context.whereabouts()

    async def measured(self) -> Table:
        """What was measured in this process."""
        return measures.table()

    async def stop(self) -> None:
        """Close everything."""
        for task in (*self.tasks, self.started):
            task.cancel()
        if self.grpc is not None:
            await self.grpc.stop()
        self.front.stop()


def _handle(app: str, deployment: str) -> DeploymentHandle[Any]:
    return DeploymentHandle(deployment, app)
