"""The tables of the configuration, with their defaults: one owner for what can be set."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Positive = Annotated[int, msgspec.Meta(gt=0)]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table, whose settings are its fields."""


class EngineConfig(Table, frozen=True):
    """``[engine]``."""

    name: str | None = None
    """``local``, ``inline`` or ``ray``."""
    address: str | None = None
    """The cluster or session to join; None: start one."""


class ServerConfig(Table, frozen=True):
    """``[server]``."""

    use_ray: bool = False
    """The short form of ``[engine] name = "ray"``."""
    engine: str | None = None
    """The same as ``[engine] name``."""
    host: str = "127.0.0.1"
    """The address that a service of plugins listens at."""
    port: Port = 8080
    """Its port; 0: one that is free."""
    dashboard_host: str = "127.0.0.1"
    """The address of Ray's dashboard, where the engine is Ray."""
    dashboard_port: Port | None = None
    """Its port; None: Ray's own choice."""
    num_cpus: int = -1
    """CPUs of the session that is started; -1: those of the machine."""
    enable_proxy: bool = False
    """Load the built-in plugin `proxy`."""
    strict: bool = False
    """End with the cause when a plugin cannot be loaded; otherwise the others start."""
    start_timeout_s: Seconds | None = 300
    """Seconds that a plugin may take to start; then it counts as one that does not work. None: as long as it takes."""
    ingress_config: dict[str, Any] = {}
    """Limits of all requests together: ``max_ongoing_requests``, ``max_queued_requests``."""
    excluded_log_paths: list[str] = []
    """Paths that are not logged; with ``*`` at the end, all that begin so."""
    request_timeout_s: Seconds | None = None
    """Seconds until a request is answered with 504; None: as long as it takes. Streams are not limited."""


class OAuthConfig(Table, frozen=True):
    """``[auth.oauth]``: people log in with an OpenID Connect provider to read the service's pages."""

    issuer: str = ""
    """The provider's URL, whose discovery document says the rest; empty: nobody logs in."""
    client_id: str = ""
    client_secret: str = ""
    """Empty: a public client, which proves itself by PKCE alone; then `cookie_secret` is needed."""
    public_url: str = ""
    """What browsers call this service by, as in ``https://api.example.org``; the provider must know it with
    ``/oauth/callback`` at its end."""
    paths: list[str] = msgspec.field(default_factory=lambda: ["/docs", "/redoc", "/api/v1/openapi.json"])
    """Paths that a login opens, for GET and HEAD; ``/path/*`` for all below it."""
    scopes: list[str] = msgspec.field(default_factory=lambda: ["openid", "email"])
    allow_emails: list[str] = []
    """Verified addresses that may enter."""
    allow_domains: list[str] = []
    """Domains whose verified addresses may enter."""
    allow_claims: dict[str, list[str]] = {}
    """Claims of the ID token, with the values of which each must have one."""
    allow_everyone: bool = False
    """Whoever has an account there may enter."""
    session_seconds: Positive = 8 * 3600
    """Seconds until a login must be repeated."""
    cookie_secret: str = ""
    """Signs sessions; empty: what is derived from `client_secret`."""
    timeout: Seconds = 10
    """Seconds to wait for the provider."""


class AuthConfig(Table, frozen=True):
    """``[auth]``."""

    rules: dict[str, list[str]] = {}
    """Keys by path; ``/path/*`` for all below it. The exact path wins, then the longest prefix."""
    oauth: OAuthConfig = OAuthConfig()


class CacheConfig(Table, frozen=True):
    """``[cache]``: of answers of routes that ask for it."""

    enabled: bool = False
    mode: Literal["memory", "file"] = "memory"
    ttl: Annotated[int, msgspec.Meta(ge=-1)] = 60
    """Seconds that an answer is kept; -1: without end."""
    max_size: Positive = 1000
    """Answers that are kept at most; the oldest go."""
    file_dir: str = ".skate/cache"


class CorsConfig(Table, frozen=True):
    """``[cors]``: which pages of other origins may call."""

    allow_origins: list[str] = []
    allow_methods: list[str] = msgspec.field(default_factory=lambda: ["GET"])
    allow_headers: list[str] = []
    allow_credentials: bool = False
    max_age: int = 600
    """Seconds that browsers may remember it."""


class LogConfig(Table, frozen=True):
    """``[log]``."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    access: bool = True
    """A line for each request."""


class TelemetryConfig(Table, frozen=True):
    """``[telemetry]``: spans for OpenTelemetry. What is not said here is read from the variables ``OTEL_*``."""

    enabled: bool = False
    service_name: str = ""
    endpoint: str = ""
    """A collector's URL, to which ``/v1/traces`` is added unless it ends so."""
    headers: dict[str, str] = {}
    """Sent to the collector."""
    sample_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """The part of the traces begun here that is recorded; those of callers are recorded as they say."""


class SentryConfig(Table, frozen=True):
    """``[sentry]``: errors of plugins are reported."""

    dsn: str = ""
    """Where to; empty: nowhere."""
    environment: str = ""
    release: str = ""
    sample_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """The part of the errors that is reported."""


class Config(Table, frozen=True):
    """All that can be configured."""

    engine: EngineConfig = EngineConfig()
    server: ServerConfig = ServerConfig()
    auth: AuthConfig = AuthConfig()
    cache: CacheConfig = CacheConfig()
    cors: CorsConfig = CorsConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    sentry: SentryConfig = SentryConfig()
    load_plugins: list[str] = []
    """Modules and packages of plugins."""
    load_builtin_plugins: list[str] = []
    """``echo``, ``proxy``."""
    disabled_plugins: list[str] = []
    """Names of plugins that are not started though they are found."""
    base_ingress_config: dict[str, Any] = {}
    """Deployment options of every plugin that has none of its own."""
    plugins: dict[str, dict[str, Any]] = {}
    """A table for each plugin, which its ``config_class`` checks."""

    @property
    def chosen_engine(self) -> str | None:
        """The engine's name; None when nothing was said. ``use_ray`` counts where no name is given."""
        return self.engine.name or self.server.engine or ("ray" if self.server.use_ray else None)
