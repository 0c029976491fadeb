"""Running a service: configuration, plugins, engine, server."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skate.configuration import Config, ConfigError, Loaded, load_with_origins
from skate.plugin import loading, settings
from skate.plugin.catalog import Catalog, UpstreamApi
from skate.plugin.errors import PluginDependencyError
from skate.plugin.limits import Limit
from skate.plugin.loading import Registry
from skate.plugin.marks import check_options

if TYPE_CHECKING:
    from fastapi import FastAPI

    from skate.plugin.app import Service
    from skate.plugin.backends import Part

log = logging.getLogger("skate.plugin")
ENGINES = ("inline", "local", "ray")
DEFAULT_ENGINE = "inline"


def run(
    *,
    server_host: str | None = None,
    server_port: int | None = None,
    dashboard_host: str | None = None,
    dashboard_port: int | None = None,
    num_cpus: int | None = None,
    engine: str | None = None,
    use_ray: bool | None = None,
    enable_proxy: bool | None = None,
    load_plugins: Sequence[str] | None = None,
    load_builtin_plugins: Sequence[str] | None = None,
    strict: bool | None = None,
    flags: Mapping[str, Any] | None = None,
    folder: str = "",
    blocking: bool = True,
    test_mode: bool = False,
) -> FastAPI | None:
    """Start a service of plugins, as it is configured; see ``docs/plugins.md``.

    Args:
        server_host: the address to listen at.
        server_port: the port; 0: one that is free.
        dashboard_host: the address of Ray's dashboard, where the engine is Ray.
        dashboard_port: its port.
        num_cpus: CPUs of the session that is started.
        engine: ``"inline"``: one process; ``"local"``: each plugin in processes of its own; ``"ray"``: on Ray.
        use_ray: the short form of ``engine="ray"``.
        enable_proxy: load the built-in plugin `proxy`.
        load_plugins: modules and packages of plugins, in place of those that are configured.
        load_builtin_plugins: built-in plugins, in place of those that are configured.
        strict: fail if any plugin does not work.
        flags: further settings by dotted names, as in ``{"log.format": "json"}``; they go over all else.
        folder: where the configuration is; by default the working directory.
        blocking: serve until Ctrl-C or SIGTERM. False: return the application, and leave serving it to the caller.
        test_mode: the same as ``blocking=False``: for a test client.

    Returns:
        The ASGI application, or None after serving.

    Raises:
        ConfigError: a setting does not exist, or has a wrong value.
        PluginLoadError: a plugin does not work, under `strict`.
        PluginDependencyError: a plugin requires APIs that nobody offers.
    """
    given = {
        "server.host": server_host,
        "server.port": server_port,
        "server.dashboard_host": dashboard_host,
        "server.dashboard_port": dashboard_port,
        "server.num_cpus": num_cpus,
        "server.use_ray": use_ray,
        "server.engine": engine,
        "engine.name": engine,
        "server.enable_proxy": enable_proxy,
        "server.strict": strict,
        "load_plugins": None if load_plugins is None else list(load_plugins),
        "load_builtin_plugins": None if load_builtin_plugins is None else list(load_builtin_plugins),
    }
    over = {name: value for name, value in given.items() if value is not None} | dict(flags or {})
    service = make_service(load_with_origins(folder, flags=over))
    if test_mode or not blocking:
        return service.app
    serve(service)
    return None


def make_service(loaded: Loaded) -> Service:
    """The service of a configuration, not started yet. Raises as `run` does."""
    try:
        from skate.plugin import app, backends, documents, operations, session, upstream
    except ImportError as error:
        raise ImportError(f'{error}. Services of plugins need: pip install "skate-ray[plugin]"') from error
    config = loaded.config
    engine = config.chosen_engine or DEFAULT_ENGINE
    if engine not in ENGINES:
        raise ConfigError(f"There is no engine {engine!r}; there are: {', '.join(ENGINES)}.")
    operations.set_up(config)
    registry = load_all(config)
    found: list[UpstreamApi] = []
    schemas: dict[str, Any] = {}
    if "proxy" in registry.plugins:
        found, schemas, failed = documents.discover(upstream.ProxyConfig.of(config))
        registry.failed |= {f"proxy of {url}": cause for url, cause in failed.items()}
    _check_routes(registry)
    parts = parts_of(registry, config)
    catalog = _whole(registry, found)
    parts = [part for part in parts if part.plugin in registry.plugins]
    if conflicts := catalog.conflicts():
        registry.failed |= {"routes": "; ".join(conflicts)}
        log.error("routes that two plugins offer: the first one counts")
    registry.report(config.server.strict)
    plan = backends.Plan(config, _light(catalog))
    runtime: Any
    if engine == "inline":
        runtime = backends.Direct(plan, parts)
    else:
        runtime = backends.Remote(plan, session=session.Session(engine, config, parts))
    runtime.catalog = catalog
    return app.Service(registry, loaded, runtime, engine, schemas)


def load_all(config: Config) -> Registry:
    """The plugins that are configured, announced by packages, and loaded by the program already."""
    registry = loading.REGISTRY.copy()
    off = config.disabled_plugins
    for name, plugin in list(registry.plugins.items()):
        if name in off or plugin.metadata.name in off:
            del registry.plugins[name]
            registry.disabled.append(name)
    builtin = [*config.load_builtin_plugins]
    if config.server.enable_proxy and "proxy" not in builtin:
        builtin.append("proxy")
    try:
        registry.load_builtin([name for name in builtin if name not in registry.plugins], off)
    except ValueError as error:
        raise ConfigError(f"load_builtin_plugins: {error}") from None
    registry.load(config.load_plugins, off)
    registry.load_entry_points(off)
    ordered = sorted(registry.plugins.values(), key=lambda plugin: -plugin.metadata.priority)
    registry.plugins = {plugin.name: plugin for plugin in ordered}
    return registry


def parts_of(registry: Registry, config: Config) -> list[Part]:
    """What is to be started, with its table and options. A plugin whose table is wrong is taken out."""
    from skate.plugin.backends import Part

    unknown = set(config.plugins) - {
        name for each in registry.plugins.values() for name in (each.name, each.metadata.name)
    }
    for name in sorted(unknown):
        log.warning("[plugins.%s] is configured, but there is no such plugin", name)
    _check_limits(config)
    parts: list[Part] = []
    for plugin in list(registry.plugins.values()):
        table = dict(config.plugins.get(plugin.name, config.plugins.get(plugin.metadata.name, {})))
        kind = plugin.metadata.config_class
        own = table.get("ingress_config", {})
        try:
            checked = settings.checked(plugin.name, kind, table) if kind is not None else table
            every = [{**config.base_ingress_config, **each.options, **own} for each in plugin.deployments]
            for deployment, options in zip(plugin.deployments, every, strict=True):
                check_options(options)
                Limit.read(deployment.name, options)
        except (ConfigError, TypeError, ValueError) as error:
            registry.refuse({plugin.name: error})
            continue
        for deployment, options in zip(plugin.deployments, every, strict=True):
            options.setdefault("max_ongoing_requests", 100)
            parts.append(Part(plugin.name, deployment.name, deployment.cls, checked, options))
    return parts


def _check_limits(config: Config) -> None:
    """ConfigError for limits of the service that are none."""
    try:
        check_options(config.base_ingress_config)
        Limit.read("base_ingress_config", config.base_ingress_config)
        Limit.read("[server.ingress_config]", config.server.ingress_config)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None
    if unknown := sorted(config.server.ingress_config.keys() - {"max_ongoing_requests", "max_queued_requests"}):
        raise ConfigError(
            f"[server.ingress_config] has no setting {unknown[0]!r}. Valid: max_ongoing_requests, max_queued_requests."
        )


def _whole(registry: Registry, upstream: list[UpstreamApi]) -> Catalog:
    """All that can be called. Raises PluginDependencyError for what is required and missing.

    Where plugins do not work or are disabled, what they offer may be what is missing: those that require it are left
    out too, and the rest starts.
    """
    while True:
        catalog = Catalog.of(registry.plugins.values(), upstream)
        try:
            catalog.check()
        except PluginDependencyError as error:
            if not registry.failed and not registry.disabled:
                raise
            lacks: dict[str, list[str]] = {}
            for plugin, api, _ in error.missing:
                lacks.setdefault(plugin, []).append(repr(api))
            registry.refuse(
                {
                    plugin: f"it requires {', '.join(apis)}, which no plugin that works offers"
                    for plugin, apis in lacks.items()
                }
            )
        else:
            return catalog


def _check_routes(registry: Registry) -> None:
    """Take plugins out whose methods cannot be routes as they are written."""
    from skate.plugin import routes

    for plugin in list(registry.plugins.values()):
        for deployment in plugin.deployments:
            for api in deployment.apis:
                try:
                    routes.check(api, deployment.cls)
                except Exception as error:  # noqa: BLE001  what a plugin declares may fail FastAPI in any way
                    registry.refuse({plugin.name: error})


def _light(catalog: Catalog) -> Catalog:
    """The catalog without what only the server needs."""

    def bare(api: Any) -> Any:
        if isinstance(api, UpstreamApi):
            return replace(api, operation={})
        return replace(api, route=replace(api.route, cache=None, extra={}))

    paths = {path: [bare(api) for api in apis] for path, apis in catalog.by_path.items()}
    return Catalog(paths, {name: bare(api) for name, api in catalog.by_name.items()}, catalog.allowed)


def serve(service: Service) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    if service.engine == "local":
        from skate.plugin.front import Front

        Front(service).serve()
        return
    listener = listen(service.config.server.host, service.config.server.port)
    log.info("listening at %s, engine %s", address(listener), service.engine)
    serve_at(service, listener)


def listen(host: str, port: int) -> Any:
    """A socket to serve at. Raises ConfigError if it cannot be had."""
    import socket

    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)  # who comes before the service has started waits
    except OSError as error:
        listener.close()
        raise ConfigError(f"server.host, server.port: cannot listen at {host}:{port}: {error}") from None
    return listener


def address(listener: Any) -> str:
    """The URL of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_at(service: Service, listener: Any) -> None:
    """Serve at a socket, in this process."""
    import uvicorn

    options = uvicorn.Config(
        service.app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=10
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[Any] | None = None) -> None:
            """Libraries that plugins bring, Ray too, may have taken the signals meanwhile."""
            await super().startup(sockets)
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, self.handle_exit)

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Signals end the server in good order, and nothing else: uvicorn would raise them once more after that."""
            before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

    server = Server(options)
    server.run(sockets=[listener])
    if not server.started:
        raise SystemExit(3)
