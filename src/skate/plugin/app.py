"""The ASGI application of a service: all routes behind one gate."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from skate.configuration import Loaded
from skate.plugin import operations, pages, routes, telemetry
from skate.plugin.auth import Rules
from skate.plugin.cache import RouteCache, make_store
from skate.plugin.catalog import UpstreamApi
from skate.plugin.consts import API_STR, DOCS_URL, OPENAPI_URL, PROXY_FUNC_HTTP_PATH, REDOC_URL, VERSION
from skate.plugin.encoding import encode
from skate.plugin.errors import PluginLoadError, describe
from skate.plugin.gate import Gate
from skate.plugin.limits import Limit
from skate.plugin.loading import Registry
from skate.plugin.login import CALLBACK, LOGIN, LOGOUT, make_login
from skate.plugin.metrics import Metrics
from skate.plugin.model import PluginApi, PluginDeployment

log = logging.getLogger("skate.plugin")
Hook = Callable[[], Awaitable[Any]]
SILENT: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


class Service:
    """A service's application, and its life: started by the server's lifespan, or by the first request.

    Args:
        registry: its plugins.
        loaded: its configuration.
        runtime: who carries calls out; has `start`, which gives the plugins that failed, and `stop`.
        engine: the engine's name, for people.
        schemas: schemas of upstream services, for the OpenAPI document.
        only: the one deployment whose routes are served; empty: all are, and those that are no plugin's.
        replica: the tags of the replica of serve that serves it; empty: this process is the server.
    """

    def __init__(
        self,
        registry: Registry,
        loaded: Loaded,
        runtime: Any,
        engine: str,
        schemas: dict[str, Any],
        only: str = "",
        replica: tuple[str, ...] = (),
    ) -> None:
        self.registry = registry
        self.loaded = loaded
        self.config = loaded.config
        self.runtime = runtime
        self.engine = engine
        self.schemas = schemas
        self.only = only
        self.began = time.time()
        self.running = False
        self._starting: asyncio.Task[None] | None = None
        self._store = make_store(self.config.cache) if self.config.cache.enabled else None
        self._rules = Rules(self.config.auth.rules)
        self._login = make_login(self.config.auth.oauth)
        self.metrics = Metrics(replica)
        self.app = self._build()

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Start the plugins, once. Raises PluginLoadError under `strict`."""
        if self.running:
            return
        if self._starting is None or self._starting.get_loop() is not asyncio.get_running_loop():
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        failed = await self.runtime.start()
        if failed:
            if self.config.server.strict:
                await self.runtime.stop()
                raise PluginLoadError(failed)
            for name, cause in failed.items():
                log.error("plugin %s does not run: %s", name, describe(cause), exc_info=cause)
                operations.report(cause, name, "on_start")
                self.registry.failed[name] = describe(cause)
        for plugin in self.registry.plugins.values():
            if plugin.name not in failed:
                self.metrics.plugin(plugin.name, plugin.metadata.version)
        self.running = True

    async def stop(self) -> None:
        """End the plugins."""
        if self.running:
            self.running, self._starting = False, None
            await self.runtime.stop()
            await operations.flush()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    # ------------------------------------------------------------------ routes

    def _build(self) -> FastAPI:
        # no openapi_url, docs_url: ours know of upstream services and of the plugins
        # telemetry: newer versions of FastAPI make spans of their own, a second time and with secrets in them
        app = FastAPI(title="skate", version=VERSION, openapi_url=None, lifespan=self._lifespan, telemetry=SILENT)
        app.state.service = self
        for plugin in self.registry.plugins.values():
            for deployment in plugin.deployments:
                for api in deployment.apis if self.only in ("", deployment.name) else ():
                    if api.path is not None:
                        self._add(app, deployment, api, [*api.route.tags] or plugin.metadata.tags or [plugin.name])
        if not self.only:
            self._add_upstreams(app)
            self._add_own(app)
        app.add_exception_handler(HTTPException, _http_problem)
        app.add_exception_handler(RequestValidationError, _invalid)
        cors = self.config.cors
        server = self.config.server
        limit = Limit.read("[server.ingress_config]", server.ingress_config)
        app.add_middleware(
            Gate,
            rules=self._rules,
            limit=limit,
            metrics=self.metrics,
            begin=self.start,
            quiet=tuple(server.excluded_log_paths),
            logged=self.config.log.access,
            login=self._login,
            tracing=telemetry.current,
        )
        if cors.allow_origins:
            app.add_middleware(
                CORSMiddleware,
                allow_origins=cors.allow_origins,
                allow_methods=cors.allow_methods,
                allow_headers=cors.allow_headers,
                allow_credentials=cors.allow_credentials,
                max_age=cors.max_age,
                expose_headers=["X-Request-ID"],
            )
        return app

    def _add(self, app: FastAPI, deployment: PluginDeployment, api: PluginApi, tags: list[str]) -> None:
        route, path = api.route, api.path
        assert path is not None
        cache = None
        if self._store is not None and route.cache is not None:
            cache = RouteCache(self.config.cache, self._store, path, route.cache)
        answer = routes.endpoint(api, deployment.cls, self.runtime, cache, self.config.server.request_timeout_s)
        options = routes.options_of(api, deployment.cls)
        for method in route.methods:  # each has an operation id of its own
            app.add_api_route(path, answer, methods=[method], tags=list(tags), name=api.name, **options)

    def _add_upstreams(self, app: FastAPI) -> None:
        for api in self._upstream():
            kept = self._rules.keys(api.path) is None  # our own keys are not for others
            app.add_api_route(
                api.path, _forwarder(self.runtime, api, kept), methods=[api.method], include_in_schema=False
            )

    def _upstream(self) -> list[UpstreamApi]:
        found = [api for apis in self.runtime.catalog.by_path.values() for api in apis]
        return [api for api in found if isinstance(api, UpstreamApi)]

    def _add_own(self, app: FastAPI) -> None:
        async def health() -> Response:
            return Response(b'{"status":"ok"}', media_type=routes.JSON)

        async def ready() -> Response:
            body = {
                "status": "ready" if self.running else "starting",
                "plugins": sorted(self.registry.plugins.keys() - self.registry.failed.keys()),
                "failed": sorted(self.registry.failed),
            }
            return Response(encode(body), 200 if self.running else 503, media_type=routes.JSON)

        async def version() -> Response:
            return Response(routes.envelope(VERSION), media_type=routes.JSON)

        async def metrics() -> Response:
            others = getattr(self.runtime, "metrics", None)
            body, kind = self.metrics.page(await others() if others is not None else ())
            return Response(body, headers={"content-type": kind})

        async def openapi() -> Response:
            return Response(encode(self.openapi()), media_type=routes.JSON)

        async def docs() -> HTMLResponse:
            page = bytes(get_swagger_ui_html(openapi_url=OPENAPI_URL, title="skate").body).decode()
            leave = LOGOUT if self._login is not None else ""
            own = pages.overview(self.registry, self.loaded, self.engine, self.began, leave)
            return HTMLResponse(page.replace("<body>", f"<body>{own}", 1))

        async def redoc() -> HTMLResponse:
            return get_redoc_html(openapi_url=OPENAPI_URL, title="skate")

        for path, function in (
            ("/health", health),
            ("/ready", ready),
            (f"{API_STR}/version", version),
            ("/metrics", metrics),
            (OPENAPI_URL, openapi),
            (DOCS_URL, docs),
            (REDOC_URL, redoc),
        ):
            app.add_api_route(path, function, methods=["GET"], include_in_schema=False)
        if self._login is not None:
            login = self._login
            app.add_route(LOGIN, login.login, methods=["GET"], include_in_schema=False)
            app.add_route(CALLBACK, login.callback, methods=["GET"], include_in_schema=False)
            app.add_route(LOGOUT, login.logout, methods=["GET", "POST"], include_in_schema=False)
        from skate.plugin.proxied import receiver

        take = receiver(self.config, self.runtime)
        if take is not None:
            app.add_api_route(PROXY_FUNC_HTTP_PATH, take, methods=["POST"], include_in_schema=False)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document: plugins' routes and those of upstream services."""
        app = self.app
        if app.openapi_schema is None:
            made = get_openapi(title="skate", version=VERSION, routes=app.routes)
            made.setdefault("paths", {})
            app.openapi_schema = pages.add_upstream(made, self._upstream(), self.schemas)
        return app.openapi_schema


def _forwarder(runtime: Any, api: UpstreamApi, keep_key: bool) -> Callable[[Request], Awaitable[Response]]:
    from skate.plugin.errors import BusyError, UpstreamError

    async def forward(request: Request) -> Response:
        try:
            answer: Response = await runtime.upstreams.forward(api, request, keep_key)
        except UpstreamError as error:
            log.warning("%s: %s", api.name, error)
            return routes.problem(error.status, "an upstream service failed")
        except BusyError:
            return routes.problem(503, "the upstream service is busy", {"retry-after": "1"})
        return answer

    return forward


async def _http_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return routes.problem(error.status_code, str(error.detail), error.headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = [{"type": each["type"], "loc": list(each["loc"]), "msg": each["msg"]} for each in error.errors()]
    where = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in details)
    # `detail` is where clients of FastAPI look for it
    body = {"status": 422, "message": where, "data": None, "detail": details}
    return Response(encode(body), 422, media_type=routes.JSON)
