"""Proxies on further machines, the controller's part: each machine that has replicas gets one, beside that of the head.

A machine is told by its host name: several nodes on one share the proxy that it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import skate
from skate import exceptions
from skate.serve import context

LOOK_S = 1.0
"""Seconds between two looks at where replicas are."""
AGAIN_S = 30.0
"""Seconds before a machine where no proxy could be started is tried again."""


def machines_without(rows: Iterable[Mapping[str, Any]], used: Iterable[str], known: Iterable[str]) -> list[str]:
    """For each machine that has replicas and no proxy, the node where it is to have one. Pure.

    Args:
        rows: the cluster's nodes.
        used: ids of the nodes that have replicas.
        known: ids of the nodes that have proxies. The head counts as one.
    """
    alive = {row["NodeID"]: row for row in rows if row["Alive"]}
    host = {node: str(row["NodeManagerHostname"]) for node, row in alive.items()}
    served = {host[node] for node, row in alive.items() if context.HEAD in row["Resources"]}
    served |= {host[node] for node in known if node in host}
    wanted: dict[str, str] = {}
    for node in sorted(set(used)):
        if node in host and host[node] not in served:
            wanted.setdefault(host[node], node)
    return list(wanted.values())


class Fronts:
    """See the module.

    Args:
        used: gives the nodes that have replicas.
        settings: what serve was started with.
    """

    def __init__(self, used: Callable[[], set[str]], settings: Callable[[], dict[str, Any]]) -> None:
        self.used = used
        self.settings = settings
        self.seen: set[str] = set()
        """The nodes that had replicas when nothing was missing."""
        self.tried: dict[str, float] = {}
        """Nodes where a proxy was started, and when."""

    async def watch(self) -> None:
        """Start what is missing, for as long as serve runs."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except (exceptions.RayError, RuntimeError, ValueError) as error:
                print(f"serve: no proxy could be started on another machine: {error}")

    async def look(self) -> None:
        """Start what is missing now."""
        used = self.used()
        if used == self.seen or not self._wanted():
            return
        rows = skate.nodes()
        if not machines_without(rows, used, ()):
            self.seen = used  # there is but one machine
            return
        there = context.proxies()
        if context.PROXY not in there:
            return  # no application has a route
        known = [name.partition(":")[2] for name in there if name != context.PROXY]
        now = asyncio.get_running_loop().time()
        missing = machines_without(rows, used, known)
        for node in missing:
            if now - self.tried.get(node, -AGAIN_S) >= AGAIN_S:
                self.tried[node] = now
                await self._start(node)
        if not missing:
            self.seen = used

    def _wanted(self) -> bool:
        settings = self.settings()
        location = (settings.get("http") or {}).get("location") or settings.get("location") or "EveryNode"
        return bool(location == "EveryNode")

    async def _start(self, node: str) -> None:
        from skate.serve.config import HTTPOptions, gRPCOptions
        from skate.serve.proxy import start_proxy

        http, grpc = self.settings().get("http") or {}, self.settings().get("grpc")
        options = HTTPOptions.read(http, "http_options")
        front = start_proxy(options, gRPCOptions.read(grpc, "grpc_options") if grpc else None, node)
        try:
            await front.address.remote()
        except exceptions.RayError as error:
            skate.kill(front)
            print(f"serve: the proxy of node {node} cannot listen: {str(error).strip().splitlines()[-1]}")
