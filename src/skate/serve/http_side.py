"""From a replica to its HTTP side: loaded by the replicas of ingress deployments alone, for it needs uvicorn."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from skate.serve import http_ingress as ingress
from skate.serve import logs, measures
from skate.serve.context import request_context, session_folder
from skate.serve.handle import DeploymentHandle
from skate.serve.http_answers import handler_app
from skate.serve.http_entry import Answer, BrokenAnswerError, Entry
from skate.serve.http_relay import Relayed
from skate.serve.http_replica import ReplicaHTTP
from skate.serve.proxy import socket_path
from skate.serve.router import router_of

if TYPE_CHECKING:
    from skate.serve.config import DeploymentConfig
    from skate.serve.replica import Replica


class HTTPSide:
    """What a replica has for HTTP: its application, the application's lifespan, and who serves it."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.app: Any = None
        self.lifespan: ingress.Lifespan | None = None
        self.http: ReplicaHTTP | None = None
        self.seen: dict[tuple[str, str, str, int], list[float]] = {}
        """Requests that came on connections and are not among the measures yet."""
        self.relayed = Relayed(replica.id.to_full_id_str(), self._run)

    async def begin(self, config: DeploymentConfig) -> None:
        """Make the application, begin its lifespan, and be there for the proxy."""
        replica = self.replica
        if ingress.is_ingress(replica.instance):
            self.app = await ingress.application(replica.instance)
            self.lifespan = ingress.Lifespan(self.app)
            await self.lifespan.begin()
        else:
            self.app = _handled(replica)
        folder = session_folder()
        routing = config.request_router_config
        if not folder or (routing is not None and not routing.is_default_request_router()):
            # no proxy of this machine shares a folder with us, or each request has to be routed: they come by handles
            return
        entry = Entry(lambda app, deployment: DeploymentHandle(deployment, app))
        target = (replica.id.app_name, replica.id.deployment)
        self.http = ReplicaHTTP(
            replica, target, replica.id.unique_id, self.app, entry, max_queued=config.max_queued_requests,
            turned_away=config.backpressure_config, room_elsewhere=self._room_elsewhere, observe=self._observe,
        )  # fmt: skip
        if self.lifespan is not None:
            self.http.host.app_state = self.lifespan.state
        self.http.listen(socket_path(folder, replica.id.unique_id))

    def _observe(self, method: str, route: str, app: str, status: int, seconds: float) -> None:
        """Note a request that came on a connection; in a table of our own, for it is done with each request."""
        key = method, route, app, status or 499
        sums = self.seen.get(key)
        if sums is None:
            sums = self.seen[key] = [0.0] * (len(measures.LATENCY_MS) + 2)
        took = seconds * 1000
        sums[0] += took
        sums[1 + bisect_left(measures.LATENCY_MS, took)] += 1
        if self.replica.logs_requests:
            logs.http(method, route, status or 499, seconds)

    def tell(self) -> None:
        """Hand what was seen to the measures."""
        seen, self.seen = self.seen, {}
        for key, sums in seen.items():
            measures.http_many(*key, sums)

    def _room_elsewhere(self) -> bool:
        """Could another replica take a request at once?"""
        router = router_of(self.replica.id.app_name, self.replica.id.deployment)
        own = self.replica.id.unique_id
        return any(target.name != own and target.load() < target.max_ongoing for target in router.targets)

    async def _run(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request that came by a handle."""
        if self.lifespan is not None:
            scope["state"] = dict(self.lifespan.state)
        request_id = request_context.get().request_id
        answer = Answer(send, request_id)
        try:
            await self.app(scope, receive, answer)
        except asyncio.CancelledError:
            raise
        except BrokenAnswerError:
            raise
        except Exception as error:  # noqa: BLE001  whatever the application raises, the client gets an answer
            await answer.fail(scope, error, request_id)

    async def drain(self, timeout_s: float) -> None:
        """Give connections back to the proxy."""
        if self.http is not None:
            await self.http.drain(timeout_s)

    async def end(self) -> None:
        """End the application's lifespan, and be there no more."""
        if self.http is not None:
            self.http.close()
        if self.lifespan is not None:
            await self.lifespan.end()


def _handled(replica: Replica) -> Any:
    """The application of a deployment without ``@serve.ingress``."""
    try:
        return handler_app(replica.plain("__call__"), replica.in_thread)
    except AttributeError as error:
        problem = str(error)

    async def none(scope: Any, receive: Any, send: Any) -> None:
        raise AttributeError(problem)

    return none
