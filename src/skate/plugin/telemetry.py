"""Spans for OpenTelemetry: of requests, calls from plugin to plugin, work. Nothing is imported or done unless it is on.

A trace goes with the work (W3C Trace Context): from a client's headers, through the processes of the service, to
upstream services.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from skate.configuration import Config, ConfigError, TelemetryConfig
from skate.plugin.scrub import Scrubber

NAME = "skate.plugin"
TASK_DELAY_MS = 200
"""Milliseconds that spans wait to be sent together where a process may end any time."""
FLUSH_S = 3.0
"""Seconds that the end of a service waits for its last spans to be sent. OpenTelemetry knows no such limit."""
_END = object()


class Sent(NamedTuple):
    """A trace on its way to another process."""

    config: TelemetryConfig
    carrier: dict[str, str]
    """The headers that name it."""


class Tracing:
    """Makes the spans of this process.

    Args:
        config: the table ``[telemetry]``.
        scrub: takes secrets out.
        delay_ms: how long spans wait to be sent together; None: as OTEL_BSP_SCHEDULE_DELAY says.
    """

    def __init__(self, config: TelemetryConfig, scrub: Scrubber | None, delay_ms: int | None = None) -> None:
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind

        self.config = config
        self.scrub = scrub
        self.provider = _provider(config, delay_ms)
        self.tracer = self.provider.get_tracer(NAME)
        self.kinds = SpanKind
        self.fields = frozenset(propagate.get_global_textmap().fields)
        """The headers that traces travel in."""

    # ------------------------------------------------------------------ requests

    @contextlib.contextmanager
    def request(self, scope: Mapping[str, Any], request_id: str) -> Iterator[Any]:
        """The span of a request, within the trace that its headers name."""
        from opentelemetry import propagate

        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name.decode("latin-1") in self.fields
        }
        attributes = {
            "http.request.method": scope["method"],
            "url.path": self._clean(scope["path"]),
            "url.scheme": scope.get("scheme", "http"),
            "skate.request_id": request_id,
        }
        client = scope.get("client")
        if client:
            attributes["client.address"] = client[0]
        outer = propagate.extract(carrier)
        with self._span(scope["method"], self.kinds.SERVER, attributes, outer) as span:
            yield span

    def answered(self, span: Any, method: str, status: int, route: Any) -> None:
        """A request was answered: its span gets the route, the status, and the plugin."""
        from opentelemetry.trace import StatusCode

        path = getattr(route, "path", "")
        if path:
            span.update_name(f"{method} {path}")
            span.set_attribute("http.route", path)
        plugin = getattr(getattr(route, "endpoint", None), "skate_plugin", "")
        if plugin:
            span.set_attribute("skate.plugin", plugin)
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(StatusCode.ERROR)

    # ------------------------------------------------------------------ calls

    def call(self, plugin: str | None, api: str) -> contextlib.AbstractContextManager[Any]:
        """The span of a call from a plugin."""
        return self._span(f"call {self._clean(api)}", self.kinds.CLIENT, _named(plugin, api, self._clean))

    def upstream(self, method: str, origin: str, path: str) -> contextlib.AbstractContextManager[Any]:
        """The span of a request to another service."""
        attributes = {"http.request.method": method, "server.address": origin, "url.path": self._clean(path)}
        return self._span(f"{method} {origin}", self.kinds.CLIENT, attributes)

    def items(self, plugin: str | None, api: str, begin: Callable[[], AsyncIterator[Any]]) -> AsyncIterator[Any]:
        """A stream that a plugin reads, with a span from its first item to its end."""
        return self._items(f"call {self._clean(api)}", self.kinds.CLIENT, _named(plugin, api, self._clean), None, begin)

    async def _items(
        self, name: str, kind: Any, attributes: Any, outer: Any, begin: Callable[[], AsyncIterator[Any]]
    ) -> AsyncIterator[Any]:
        from opentelemetry import context, trace

        span = self.tracer.start_span(name, outer, kind, attributes)
        within = trace.set_span_in_context(span, outer)
        items: Any = None
        try:
            while True:
                # a generator runs in the context of whoever reads it, who may be somebody else between two items
                token = context.attach(within)
                try:
                    items = begin() if items is None else items
                    item = await anext(items, _END)
                finally:
                    context.detach(token)
                if item is _END:
                    return
                yield item
        except Exception as error:
            self.failed(error, span)
            raise
        finally:
            span.end()
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def work(self, name: str, doing: Awaitable[Any]) -> Any:
        """Work that was marked with `remote`, with a span until it is done."""
        with self._span(f"remote {name}", self.kinds.CLIENT, {"code.function.name": name}):
            return await doing

    # ------------------------------------------------------------------ between processes

    def sent(self) -> Sent:
        """The trace that this code is part of, for another process."""
        from opentelemetry import propagate

        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return Sent(self.config, carrier)

    def onward(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Headers of a request to another service, with this trace in place of another one."""
        kept = [(name, value) for name, value in headers if name.lower() not in self.fields]
        return [*kept, *self.sent().carrier.items()]

    def served(self, trace: Sent, name: str, plugin: str) -> contextlib.AbstractContextManager[Any]:
        """The span of what another process has asked for."""
        return self._span(name, self.kinds.SERVER, _here(plugin), _extracted(trace))

    def served_items(self, trace: Sent, name: str, plugin: str, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The same for a stream."""
        return self._items(name, self.kinds.SERVER, _here(plugin), _extracted(trace), lambda: items)

    # ------------------------------------------------------------------ all of them

    @contextlib.contextmanager
    def _span(self, name: str, kind: Any, attributes: Any, outer: Any = None) -> Iterator[Any]:
        with self.tracer.start_as_current_span(
            name,
            outer,
            kind,
            attributes,
            record_exception=False,  # its words may hold secrets: `failed` takes them out
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except Exception as error:
                self.failed(error, span)
                raise

    def failed(self, error: BaseException, span: Any = None) -> None:
        """Note an error in a span; None: in that which this code is part of."""
        from opentelemetry import trace
        from opentelemetry.trace import StatusCode

        span = span or trace.get_current_span()
        kind = type(error).__name__
        span.set_attribute("error.type", kind)
        span.set_status(StatusCode.ERROR, kind)
        # where nothing takes secrets out of them, an error's words stay here
        words = {} if self.scrub is None else {"exception.message": self._clean(str(error))}
        span.add_event("exception", {"exception.type": kind, **words})

    def _clean(self, text: str) -> str:
        return text if self.scrub is None else self.scrub.text(text)

    def flush(self) -> None:
        """Send what waits to be sent; a collector that does not answer is not waited for long."""
        thread = threading.Thread(target=self.provider.force_flush, name="spans", daemon=True)
        thread.start()
        thread.join(FLUSH_S)


def _here(plugin: str) -> dict[str, Any]:
    return {"skate.plugin": plugin, "process.pid": os.getpid()}


def _extracted(trace: Sent) -> Any:
    from opentelemetry import propagate

    return propagate.extract(trace.carrier)


def _named(plugin: str | None, api: str, clean: Callable[[str], str]) -> dict[str, str]:
    return {"skate.api": clean(api), "skate.plugin": plugin or ""}


current: Tracing | None = None
"""The tracing of this process; None: there is none."""


def set_up(config: Config, scrub: Scrubber) -> None:
    """Have this process make spans, if that is configured.

    Raises ImportError without OpenTelemetry's packages, ConfigError for variables that ask for what there is not.
    """
    global current
    wanted = config.telemetry.enabled and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
    current = Tracing(config.telemetry, scrub) if wanted else None


def trace_id() -> str:
    """The id of the trace that this code is part of; empty: there is none."""
    if current is None:
        return ""
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""


def sent() -> tuple[Sent, ...]:
    """What a call to another process takes along; empty: nothing."""
    return () if current is None else (current.sent(),)


@contextlib.contextmanager
def joined(trace: Sent, name: str) -> Iterator[None]:
    """A span for a task of another process's trace, in a process that may know nothing of it yet."""
    global current
    if current is None:
        current = Tracing(trace.config, None, TASK_DELAY_MS)
    with current.served(trace, name, ""):
        yield


_PROVIDERS: dict[bytes, Any] = {}
"""By configuration. They live as long as the process: what ends may have spans that still wait to be sent."""


def _provider(config: TelemetryConfig, delay_ms: int | None) -> Any:
    """The program's own provider of spans, if it has set one up, or that of this configuration."""
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError as error:
        raise ImportError(f'{error}. [telemetry] needs: pip install "skate-ray[plugin-telemetry]"') from error
    given = trace.get_tracer_provider()
    if isinstance(given, TracerProvider) and given not in _PROVIDERS.values():
        return given
    key = msgspec.json.encode(config)
    if key not in _PROVIDERS:
        said = "OTEL_SERVICE_NAME" in os.environ or "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        name = config.service_name or ("" if said else "skate")
        ratio = config.sample_ratio
        made = TracerProvider(
            sampler=None if ratio is None else ParentBasedTraceIdRatio(ratio),
            resource=Resource.create({"service.name": name} if name else {}),
            shutdown_on_exit=False,  # `flush` does it, and does not wait for ever
        )
        for processor in _processors(config, delay_ms):
            made.add_span_processor(processor)
        _PROVIDERS[key] = made
        if not isinstance(given, TracerProvider):
            trace.set_tracer_provider(made)  # for spans that plugins make themselves
    return _PROVIDERS[key]


def _processors(config: TelemetryConfig, delay_ms: int | None) -> list[Any]:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    wanted = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if wanted == "none":
        return []
    if wanted == "console":
        return [BatchSpanProcessor(ConsoleSpanExporter(), schedule_delay_millis=delay_ms)]
    if wanted != "otlp" or (protocol or "http/protobuf") != "http/protobuf":
        raise ConfigError(
            "[telemetry] sends spans by OTLP over HTTP: OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_PROTOCOL"
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ImportError(f'{error}. [telemetry] needs: pip install "skate-ray[plugin-telemetry]"') from error
    endpoint = config.endpoint.rstrip("/")
    if endpoint and not endpoint.endswith("/v1/traces"):
        endpoint += "/v1/traces"
    exporter = OTLPSpanExporter(endpoint=endpoint or None, headers=dict(config.headers) or None)
    return [BatchSpanProcessor(exporter, schedule_delay_millis=delay_ms)]
