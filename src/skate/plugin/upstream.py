"""Upstream services: forwarding requests to them, calling them from plugins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from anyio import CancelScope
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from skate.configuration import Config
from skate.plugin import calls, settings, telemetry
from skate.plugin.auth import Rules
from skate.plugin.catalog import UpstreamApi
from skate.plugin.encoding import encode, plain
from skate.plugin.errors import UpstreamError
from skate.plugin.limits import Limit

REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods that may be sent again when it is not known whether they arrived."""
BUSY = frozenset({502, 503, 504})
BUFFERED = 1 << 20
"""Bytes of a body that are kept so that the request can be repeated."""
HOP = frozenset(
    {
        *(
            "connection",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "te",
            "trailer",
            "transfer-encoding",
        ),
        *("upgrade", "host"),
    }
)
EVENTS = "text/event-stream"


class UpstreamRules(BaseModel):
    """``[plugins.proxy.proxy_urls."URL"]``: which of its routes are published."""

    model_config = ConfigDict(extra="forbid")

    enable: list[str] = Field(default_factory=lambda: ["/*"])
    disable: list[str] = Field(default_factory=list)
    docs_path: str = "/api/v1/openapi.json"

    def allows(self, path: str) -> bool:
        """Whether a route is published: enabled, and not disabled."""
        return any(_fits(path, rule) for rule in self.enable) and not any(_fits(path, rule) for rule in self.disable)


def _fits(path: str, rule: str) -> bool:
    return fnmatchcase(path, rule) or (rule.endswith("/*") and path == rule[:-2])


class ProxyAuth(BaseModel):
    """``[plugins.proxy.auth]``: keys that are sent to upstream services, by path; of several the first."""

    model_config = ConfigDict(extra="forbid")

    rules: dict[str, list[str]] = Field(default_factory=dict)


class ProxyConfig(BaseModel):
    """``[plugins.proxy]``."""

    model_config = ConfigDict(extra="forbid")

    proxy_urls: list[str] | dict[str, UpstreamRules] = Field(default_factory=list)
    """Upstream services, with their rules."""
    force_stream_apis: list[str] = Field(default_factory=list)
    """Paths whose answers plugins read as streams though the document does not say that they are."""
    timeout: float = Field(default=600, gt=0)
    """Seconds to wait for an upstream service to go on."""
    connect_timeout: float = Field(default=5, gt=0)
    retries: int = Field(default=2, ge=0)
    """How often a request is sent again that may be."""
    pool_size: int = Field(default=100, gt=0)
    """Connections that are open at once."""
    ingress_config: dict[str, Any] = Field(default_factory=dict)
    auth: ProxyAuth = Field(default_factory=ProxyAuth)
    proxy_functions: dict[str, list[str]] = Field(default_factory=dict)
    """Functions marked with ``on_proxy`` that run on another service, by its URL."""
    secret: str = ""
    """Signs calls of such functions; both services have it. Empty: none are taken."""

    def upstreams(self) -> dict[str, UpstreamRules]:
        """Rules by base URL."""
        urls = self.proxy_urls
        rules = dict.fromkeys(urls, UpstreamRules()) if isinstance(urls, list) else urls
        return {url.rstrip("/"): rule for url, rule in rules.items()}

    @classmethod
    def of(cls, config: Config) -> ProxyConfig:
        """The proxy's table. Raises ConfigError."""
        return settings.checked("proxy", cls, config.plugins.get("proxy", {}))


def key_for(keys: Rules, path: str) -> dict[str, str]:
    found = keys.keys(path)
    return {"authorization": found[0]} if found else {}


# ---------------------------------------------------------------------- asking them


class Upstreams:
    """Asks upstream services, with a pool of connections for each event loop that does so."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._proxy: ProxyConfig | None = None
        self._client: Any = None
        self._loop: Any = None
        self._limit = Limit("plugin proxy")
        self._keys = Rules({})

    @property
    def proxy(self) -> ProxyConfig:
        """The proxy's table, read when it is first needed."""
        if self._proxy is None:
            self._proxy = ProxyConfig.of(self._config)
            self._keys = Rules(self._proxy.auth.rules)
            self._limit = Limit.read("plugin proxy", {**self._config.base_ingress_config, **self._proxy.ingress_config})
        return self._proxy

    def _pool(self) -> Any:
        import httpx2 as httpx

        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            proxy = self.proxy
            limits = httpx.Limits(max_connections=proxy.pool_size, max_keepalive_connections=proxy.pool_size)
            timeout = httpx.Timeout(proxy.timeout, connect=proxy.connect_timeout)
            self._client = httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False)
            self._loop = loop
        return self._client

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None and self._loop is asyncio.get_running_loop():
            await self._client.aclose()
        self._client = None

    async def send(self, method: str, url: str, headers: Any, content: Any, *, path: str) -> Any:
        """Send a request; the answer, whose body is still to be read.

        One that may be is repeated. Raises UpstreamError.
        """
        tracing = telemetry.current
        if tracing is None:
            return await self._send(method, url, headers, content, path)
        with tracing.upstream(method, origin(url), path) as span:
            answer = await self._send(method, url, tracing.onward(headers), content, path)
            span.set_attribute("http.response.status_code", answer.status_code)
            return answer

    async def _send(self, method: str, url: str, headers: Any, content: Any, path: str) -> Any:
        import httpx2 as httpx

        client, proxy = self._pool(), self.proxy
        known = key_for(self._keys, path)
        if known:
            headers = [(name, value) for name, value in headers if name.lower() != "authorization"]
            headers += list(known.items())
        own_id = calls.request_id.get()
        if own_id and not any(name.lower() == "x-request-id" for name, _ in headers):
            headers = [*headers, ("x-request-id", own_id)]
        again = content is None or isinstance(content, bytes)
        for tries_left in range(proxy.retries, -1, -1):
            request = client.build_request(method, url, headers=headers, content=content)
            try:
                answer = await client.send(request, stream=True)
            except httpx.ConnectError as error:  # nothing was sent
                if not tries_left or not again:
                    raise UpstreamError(f"{origin(url)} cannot be reached: {error}") from None
            except httpx.TimeoutException:
                raise UpstreamError(f"{origin(url)} did not answer within {proxy.timeout} s", 504) from None
            except httpx.HTTPError as error:
                if not tries_left or not again or method not in REPEATABLE:
                    raise UpstreamError(f"{origin(url)} broke off: {type(error).__name__}") from None
            else:
                if answer.status_code not in BUSY or not tries_left or not again or method not in REPEATABLE:
                    return answer
                await answer.aclose()
            await asyncio.sleep(0.05 * 2 ** (proxy.retries - tries_left))
        raise AssertionError("unreachable")  # the last try returns or raises

    # ------------------------------------------------------------------ for clients

    async def forward(self, api: UpstreamApi, request: Any, keep_key: bool) -> Any:
        """Pass a client's request on, and the answer back, both as they come."""
        raw = request.scope.get("raw_path") or request.url.path.encode()
        url = api.base_url + raw.decode("latin-1")
        if request.url.query:
            url += "?" + request.url.query
        dropped = (HOP if keep_key else HOP | {"authorization"}) | _of_connection(request.headers)
        headers = [(name, value) for name, value in request.headers.items() if name not in dropped]
        length = request.headers.get("content-length", "0")
        content: Any = None
        if "transfer-encoding" in request.headers or (length.isdigit() and int(length) > BUFFERED):
            content = request.stream()
        elif length != "0":
            content = await request.body()
        self.proxy  # noqa: B018  reads the limit
        await self._limit.enter()
        try:
            answer = await self.send(api.method, url, headers, content, path=request.url.path)
        except BaseException:
            self._limit.leave()
            raise
        dropped = HOP | _of_connection(answer.headers)
        response = Relayed(answer.aiter_raw(), status_code=answer.status_code)
        response.raw_headers = [
            (name, value) for name, value in answer.headers.raw if name.decode("latin-1").lower() not in dropped
        ]
        response.over = partial(self._over, answer)
        return response

    async def _over(self, answer: Any) -> None:
        self._limit.leave()
        await answer.aclose()

    # ------------------------------------------------------------------ for plugins

    async def call(self, api: UpstreamApi, kwargs: Mapping[str, Any]) -> Any:
        """Call an operation with arguments by name; its value, out of the envelope if it is in one.

        An answer of server-sent events is an async iterator of their texts. Raises UpstreamError.
        """
        method, url, headers, content = compose(api, kwargs)
        answer = await self.send(method, url, headers, content, path=api.path)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip()
        if answer.status_code < 400 and (api.stream or kind == EVENTS):
            return _events(answer)
        try:
            await answer.aread()
        finally:
            await answer.aclose()
        value = answer.json() if kind.endswith("json") and answer.content else answer.text
        if answer.status_code >= 400:
            said = value.get("message") or value.get("detail") if isinstance(value, dict) else value
            raise UpstreamError(f"{api.name} answered {answer.status_code}: {said}", answer.status_code)
        if isinstance(value, dict) and value.keys() >= {"status", "data"}:
            return value["data"]
        return value


def _of_connection(headers: Any) -> set[str]:
    """Headers that are for one connection, because its header says so."""
    return {name.strip().lower() for name in headers.get("connection", "").split(",")}


class Relayed(StreamingResponse):
    """An answer that is passed on. `over` is awaited at its end, though the client may go before its beginning."""

    over: Callable[[], Awaitable[None]]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await self.over()


async def _events(answer: Any) -> AsyncIterator[str]:
    lines: list[str] = []
    try:
        async for line in answer.aiter_lines():
            if line:
                lines.append(line)
            elif lines:
                yield "\n".join(lines) + "\n\n"
                lines = []
        if lines:
            yield "\n".join(lines) + "\n\n"
    finally:
        await answer.aclose()


def origin(url: str) -> str:
    """Scheme and host alone: a query may hold secrets, and so may what stands ahead of the host."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


def compose(api: UpstreamApi, kwargs: Mapping[str, Any]) -> tuple[str, str, list[tuple[str, str]], bytes | None]:
    """Method, URL, headers and body of a call with arguments by name. Pure.

    What the document has as parameters goes where it says; the rest is the body: a single dictionary or model that is
    not one of the body's fields is the whole body.
    """
    import httpx2 as httpx

    path, query, headers, body = api.path, [], [], {}
    for name, value in kwargs.items():
        where = api.parameters.get(name)
        value = plain(value) if not isinstance(value, bytes) else value
        if where == "path":
            from urllib.parse import quote

            path = path.replace("{" + name + "}", quote(_text(value), safe=""))
        elif where == "header":
            headers.append((name, _text(value)))
        elif where == "query" or not api.body:
            query += [(name, _text(each)) for each in (value if isinstance(value, list) else [value])]
        else:
            body[name] = value
    content: bytes | None = None
    if api.body.startswith("multipart/"):
        request = httpx.Request("POST", api.base_url, files=list(_parts(api, body)))
        content = request.read()
        headers.append(("content-type", request.headers["content-type"]))
    elif api.body == "application/x-www-form-urlencoded":
        content = httpx.Request("POST", api.base_url, data=body).read()
        headers.append(("content-type", api.body))
    elif api.body and (body or "json" in api.body):
        (only,) = body.values() if len(body) == 1 else (None,)
        whole = only is not None and not api.body_fields.intersection(body)
        content = encode(only if whole else body)
        headers.append(("content-type", "application/json"))
    url = httpx.URL(api.base_url + path, params=query) if query else httpx.URL(api.base_url + path)
    return api.method, str(url), headers, content


def _text(value: Any) -> str:
    return value if isinstance(value, str) else encode(value).decode()


def _parts(api: UpstreamApi, body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in body.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, bytes) or name in api.file_fields:
                yield name, (name, each if isinstance(each, bytes) else _text(each).encode())
            else:
                yield name, (None, _text(each).encode())
