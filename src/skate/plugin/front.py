"""Serving on the local engine: a client's connection goes to the process of the plugin that it asks for.

Each plugin's deployment serves its own routes, and one more, the gateway, serves all of them. `skate.serve` hands a
connection to a deployment by its path. Paths that more than one deployment has a part in, and all when there is a limit
of all requests together, go to the gateway, which calls the plugins.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import skate
from skate import serve
from skate.configuration import ConfigError, Loaded
from skate.plugin import calls, operations
from skate.plugin.app import Service
from skate.plugin.backends import SERVE_APP, Inside, Part, Plan, Replica
from skate.plugin.errors import PluginLoadError, describe
from skate.plugin.loading import Registry
from skate.plugin.session import Session
from skate.serve import measures, metrics
from skate.util.metrics_registry import Table

log = logging.getLogger("skate.plugin")
GATEWAY = "gateway"
MANY = 100_000
"""Requests that the gateway has in progress at most: limits are the plugins' own, and the gate's."""


@dataclass(frozen=True)
class Published:
    """What a process needs to serve routes."""

    registry: Registry
    loaded: Loaded
    schemas: dict[str, Any]


def own_prefixes(paths: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    """Which path prefixes are a single deployment's. Pure.

    Args:
        paths: routes, as they are declared, and the deployments that have them.

    Returns:
        By deployment, prefixes below which nobody else has anything.
    """
    found: dict[str, list[str]] = {}
    ends = {path: path.partition("{")[0].rstrip("/") for path in paths}
    for prefix in sorted(set(ends.values()), key=len):
        below = prefix + "/"
        owners = {owner for path, who in paths.items() if path == prefix or path.startswith(below) for owner in who}
        # a route with a parameter at the beginning may be asked for below any prefix
        others = {
            owner
            for path, who in paths.items()
            for owner in who
            if prefix and below.startswith(ends[path] + "/") and "{" in path
        }
        if prefix and len(owners | others) == 1:
            (owner,) = owners | others
            if not any(below.startswith(known + "/") for known in found.get(owner, ())):
                found.setdefault(owner, []).append(prefix)
    return found


class Routed(Replica):
    """A plugin's deployment that serves its own routes."""

    def __init__(
        self, plan: Plan, plugin: str, deployment: str, pickled: bytes, config: Any, published: Published
    ) -> None:
        super().__init__(plan, plugin, deployment, pickled, config)
        self.service = _service_of(published, self.runtime, {}, deployment)

    def __serve_build_asgi_app__(self) -> Any:
        return _whole_paths(self.service.app)


class Everyone(Inside):
    """In the gateway: what all replicas have counted."""

    _known: Mapping[str, Table | None] = {}

    async def metrics(self) -> list[Table]:
        """What all replicas have counted; of one that is too busy to answer, what it told last."""
        try:
            found = await asyncio.to_thread(metrics.tables)
        except (skate.exceptions.RayError, RuntimeError) as error:
            log.warning("replicas cannot be asked for their metrics: %s", error)
        else:
            self._known = {name: self._known.get(name) if table is None else table for name, table in found.items()}
        return [table for table in self._known.values() if table is not None]


class Gateway:
    """Serves everything that is not handed to a plugin: documents, upstream services, paths of several plugins."""

    def __init__(self, plan: Plan, published: Published, functions: dict[str, str], failed: dict[str, str]) -> None:
        operations.set_up(plan.config)
        runtime = Everyone(plan)
        runtime._functions = functions
        calls.set_runtime(runtime)
        self.runtime = runtime
        published.registry.failed.update(failed)
        self.service = _service_of(published, runtime, published.schemas)

    def __serve_build_asgi_app__(self) -> Any:
        return _whole_paths(self.service.app)

    async def __del__(self) -> None:
        await self.runtime.upstreams.close()
        await operations.flush()


def _service_of(published: Published, runtime: Inside, schemas: dict[str, Any], only: str = "") -> Service:
    """The service as this replica serves it; what it counts can be asked for."""
    here = serve.get_replica_context()
    tags = (here.deployment, here.replica_tag, here.app_name)
    made = Service(published.registry, published.loaded, runtime, "local", schemas, only, tags)
    measures.add_source(made.metrics)
    return made


def _whole_paths(app: Any) -> Any:
    """The application with paths as clients write them: serve takes the prefix off that it chose it by."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("root_path"):
            scope = {**scope, "root_path": ""}
        await app(scope, receive, send)

    return answer


class _Published(Session):
    """Deployments that serve their own routes."""

    def __init__(self, session: Session, published: Published, prefixes: Mapping[str, list[str]]) -> None:
        super().__init__(session.engine, session.config, session.parts)
        self.published = published
        self.prefixes = prefixes

    def deployed_as(self, part: Part) -> tuple[type, str | None, tuple[Any, ...]]:
        """See `Session`."""
        own = self.prefixes.get(part.deployment, [])
        registry = self.published.registry
        only = replace(self.published, registry=Registry({part.plugin: registry.plugins[part.plugin]}), schemas={})
        return _ingress(Routed, own[1:]), own[0] if own else None, (only,)


def _ingress(cls: type, more: list[str]) -> type:
    made: type = serve.ingress()(cls)
    made.__serve_ingress__ = {"asgi": True, "more_prefixes": tuple(more)}  # type: ignore[attr-defined]
    return made


def _kept_together(service: Service, parts: list[Part]) -> set[str]:
    """Paths whose answers are kept in memory though several processes answer them: one memory is to have them all."""
    config = service.config.cache
    if not config.enabled or config.mode != "memory":
        return set()
    several = {
        part.deployment
        for part in parts
        if part.options.get("autoscaling_config") or part.options.get("num_replicas", 1) not in (None, 1)
    }
    apis = [api for plugin in service.registry.plugins.values() for api in plugin.apis]
    return {api.path for api in apis if api.path and api.route.cache is not None and api.deployment in several}


class Front:
    """Serves a service on the local engine."""

    def __init__(self, service: Service) -> None:
        self.service = service
        runtime = service.runtime
        registry = service.registry
        self.published = Published(registry, service.loaded, service.schemas)
        paths: dict[str, set[str]] = {}
        shared = _kept_together(service, runtime._session.parts)
        for path, apis in runtime.catalog.by_path.items():
            paths[path] = {GATEWAY} if path in shared else {getattr(api, "deployment", GATEWAY) for api in apis}
        for route in service.app.routes:
            path = getattr(route, "path", "")
            if path not in paths:
                paths[path] = {GATEWAY}
        # a limit of all requests can only be kept where all of them pass
        limited = bool(service.config.server.ingress_config.get("max_ongoing_requests"))
        prefixes = {} if limited else own_prefixes({path: frozenset(who) for path, who in paths.items()})
        prefixes.pop(GATEWAY, None)
        self.session = _Published(runtime._session, self.published, prefixes)
        self.plan: Plan = runtime.plan

    def start(self) -> str:
        """Start everything; the URL. Raises PluginLoadError under `strict`, ConfigError if it cannot listen."""
        server = self.service.config.server
        if not skate.is_initialized():
            skate.init(engine="local", num_cpus=None if server.num_cpus < 1 else server.num_cpus)
            self.session._ours = True
        port = server.port
        if not port:
            from skate.plugin.service import listen

            with listen(server.host, 0) as free:
                port = free.getsockname()[1]
        try:
            serve.start(http_options={"host": server.host, "port": port})
        except OSError as error:
            raise ConfigError(f"server.host, server.port: cannot listen at {server.host}:{port}: {error}") from None
        failed, functions = self.session.start(self.plan)
        if failed and server.strict:
            raise PluginLoadError(failed)
        for name, cause in failed.items():
            log.error("plugin %s does not run: %s", name, describe(cause))
        told = {name: describe(cause) for name, cause in failed.items()}
        options = {"num_cpus": 0}
        made = serve.deployment(
            _ingress(Gateway, []), name=GATEWAY, ray_actor_options=options, max_ongoing_requests=MANY
        )
        plan = replace(self.plan, catalog=self.service.runtime.catalog)
        serve.run(made.bind(plan, self.published, functions, told), name=SERVE_APP.format(GATEWAY), route_prefix="/")
        return f"http://{server.host}:{port}"

    def serve(self) -> None:
        """Serve until Ctrl-C or SIGTERM."""
        ended = threading.Event()
        before = {each: signal.signal(each, lambda *_: ended.set()) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            url = self.start()
            log.info("listening at %s, engine local", url)
            ended.wait()
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
            self.session.stop()
