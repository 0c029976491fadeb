"""Spans of requests, calls and work, in this process and through others, as a collector gets them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("opentelemetry.sdk", reason="spans need the extra `plugin-telemetry`")

from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from plugin_services import Write, data

from skate.configuration import ConfigError
from skate.plugin import run, telemetry

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
CALLED = """
@on_register()
class P(BasePlugin):
    @on_request("/light", methods=["GET"])
    async def light(self) -> str: return "light"
    @on_request("/words", methods=["GET"], stream=True)
    async def words(self):
        yield "a"
        yield "b"
    @on_request("/fails", methods=["GET"])
    async def fails(self) -> str: raise RuntimeError("the key is sesame-open")
"""
CALLER = """
@remote()
def double(n: int) -> int: return n * 2

@on_register()
class Q(BasePlugin):
    @on_request("/all", methods=["GET"])
    async def all(self) -> list:
        light = await call_plugin_api("/api/v1/light")
        words = [each async for each in await call_plugin_api("/api/v1/words")]
        return [light, len(words), await double.remote(21)]
    @on_request("/fails_too", methods=["GET"])
    async def fails_too(self) -> str: return await call_plugin_api("/api/v1/fails")
"""
REQUIRED = ["/api/v1/light", "/api/v1/words", "/api/v1/fails"]


class Span:
    """A span that has arrived."""

    def __init__(self, service: str, span: Any) -> None:
        self.service = service
        self.name = span.name
        self.trace, self.id, self.parent = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
        self.kind = span.kind
        self.failed = span.status.code == 2
        self.attributes = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
        self.text = str(span)


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.headers: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                found = ExportTraceServiceRequest()
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                found.ParseFromString(body)
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                for resource in found.resource_spans:
                    names = {each.key: each.value.string_value for each in resource.resource.attributes}
                    for scope in resource.scope_spans:
                        collector.spans += [Span(names["service.name"], span) for span in scope.spans]
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                there = any(span.name == self.path.strip("/") for span in list(collector.spans))
                self.send_response(200 if there else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Tests are quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def named(self, name: str, seconds: float = 30) -> Span:
        """A span that arrives within some seconds."""
        deadline = time.monotonic() + seconds
        while True:
            found = [span for span in list(self.spans) if span.name == name]
            if found:
                return found[0]
            assert time.monotonic() < deadline, (name, [span.name for span in self.spans])
            time.sleep(0.05)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def program(place: Any, write: Write, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a program in a process of its own: a process has one provider of spans for all its life."""
    write(p=CALLED)
    write(REQUIRED, q=CALLER)
    for name in ("OTEL_SERVICE_NAME", "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")

    def run_it(text: str, **environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        begin = (
            "from fastapi.testclient import TestClient\nfrom skate.plugin import run\n"
            "def service(engine='inline', **flags):\n"
            f"    given = {{'telemetry.enabled': True, 'telemetry.endpoint': {collector.url!r}}}\n"
            "    flags = {name.replace('__', '.'): value for name, value in flags.items()}\n"
            "    app = run(test_mode=True, engine=engine, num_cpus=2, load_plugins=['p', 'q'], strict=True,\n"
            "              flags=given | flags)\n"
            "    return TestClient(app)\n"
            "def wait_for(span):\n"
            "    import httpx, time\n"
            f"    while httpx.get({collector.url!r} + '/' + span).status_code != 200: time.sleep(0.1)\n"
        )
        path = place / "program.py"
        path.write_text(begin + textwrap.dedent(text))
        done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120, cwd=place)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run_it


ASK = f"""
with service({{engine!r}}) as client:
    answer = client.get("/api/v1/all", headers={{{{"traceparent": {TRACEPARENT!r}}}}})
    assert answer.json()["data"] == ["light", 2, 42], answer.text
    if {{engine!r}} == "local":  # processes of tasks may end with spans that still wait
        wait_for("double")
"""


@pytest.mark.parametrize("engine", ["inline", pytest.param("local", marks=pytest.mark.slow)])
def test_a_trace_goes_through_all_that_is_done_for_a_request(
    program: Callable[..., str], collector: Collector, engine: str
) -> None:
    program(ASK.format(engine=engine))
    request = collector.named("GET /api/v1/all")
    assert (request.trace, request.parent, request.kind) == (TRACE, PARENT, 2)
    assert request.attributes["http.route"] == "/api/v1/all" and request.attributes["skate.plugin"] == "q"
    assert request.attributes["http.response.status_code"] == 200 and request.service == "skate"
    light, words = collector.named("call p.P.light"), collector.named("call p.P.words")
    work = collector.named("remote double")
    above = {request.id}
    if engine == "local":  # what runs in a process of its own has a span of its own, beside that of who asked
        above = {collector.named("q.Q.all").id}
        assert collector.named("q.Q.all").parent == request.id
        assert collector.named("p.P.light").parent == light.id
        assert collector.named("p.P.words").parent == words.id
        done = collector.named("double")
        assert done.parent == work.id
        pids = {collector.named(name).attributes["process.pid"] for name in ("q.Q.all", "p.P.light", "double")}
        assert len(pids) == 3
    assert {light.parent, words.parent, work.parent} == above
    assert {span.trace for span in collector.spans} == {TRACE}
    assert light.attributes["skate.plugin"] == "q" and light.attributes["skate.api"] == "p.P.light"


@pytest.mark.slow
def test_errors_are_in_spans_without_secrets(program: Callable[..., str], collector: Collector) -> None:
    said = program(
        """
        with service(**{"auth.rules": {"/x": ["sesame-open"]}}) as client:
            assert client.get("/api/v1/fails_too").status_code == 500
            assert client.get("/api/v1/none").status_code == 404
        """
    )
    request, call = collector.named("GET /api/v1/fails_too"), collector.named("call p.P.fails")
    assert request.failed and call.failed and call.attributes["error.type"] == "RuntimeError"
    assert "RuntimeError" in call.text and not any("sesame" in span.text for span in collector.spans)
    assert not collector.named("GET").failed
    assert "sesame" not in said and f"trace_id={request.trace}" in said


@pytest.mark.slow
def test_settings_and_variables(program: Callable[..., str], collector: Collector) -> None:
    program(
        f"""
        import os
        def ask(environment={{}}, **flags):
            os.environ.update(environment)
            with service(**{{f"telemetry.{{name}}": value for name, value in flags.items()}}) as client:
                assert client.get("/api/v1/light").status_code == 200
        ask({{"OTEL_SERVICE_NAME": "other"}}, service_name="shop", headers={{"x-api-key": "hush"}})
        ask({{"OTEL_EXPORTER_OTLP_ENDPOINT": {collector.url!r}}}, endpoint="")
        ask(sample_ratio=0)
        ask({{"OTEL_SDK_DISABLED": "true"}}, service_name="disabled")
        ask({{"OTEL_SDK_DISABLED": "false", "OTEL_TRACES_EXPORTER": "none"}}, service_name="none")
        """
    )
    assert [span.service for span in collector.spans] == ["shop", "other"]
    assert [each.get("x-api-key") for each in collector.headers] == ["hush", None]


@pytest.mark.slow
def test_the_programs_own_provider_is_used_and_upstreams_are_told(program: Callable[..., str]) -> None:
    program(
        f"""
        import http.server, threading
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        seen, kept = [], InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(kept))
        trace.set_tracer_provider(provider)

        class Upstream(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                seen.append((self.path, self.headers.get_all("traceparent")))
                body = b'{{"openapi": "3.1.0", "paths": {{"/api/v1/far": {{"get": {{}}}}}}}}'
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            def log_message(self, *_): pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{{server.server_port}}"
        flags = {{"server.enable_proxy": True, "plugins.proxy.proxy_urls": [url]}}
        with service(**flags) as client:
            assert client.get("/api/v1/far", headers={{"traceparent": {TRACEPARENT!r}}}).status_code == 200
        server.shutdown()
        server.server_close()
        spans = {{span.name: span for span in kept.get_finished_spans()}}
        outer, inner = spans["GET /api/v1/far"], spans[f"GET {{url}}"]
        assert format(outer.context.trace_id, "032x") == {TRACE!r}
        assert inner.parent.span_id == outer.context.span_id
        expected = "00-" + {TRACE!r} + "-" + format(inner.context.span_id, "016x") + "-01"
        assert seen[-1] == ("/api/v1/far", [expected]), seen
        assert inner.attributes["http.response.status_code"] == 200
        """
    )


@pytest.mark.slow
def test_a_collector_that_is_not_there_holds_nothing_up(program: Callable[..., str]) -> None:
    program(
        """
        import time
        with service(**{"telemetry.endpoint": "http://127.0.0.1:9"}) as client:
            for header in ("", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-ff", "é"):
                assert client.get("/api/v1/light", headers={"traceparent": header.encode()}).status_code == 200
            began = time.monotonic()
            assert client.get("/health").status_code == 200
        assert time.monotonic() - began < 20
        """
    )


def test_it_is_off_unless_it_is_asked_for(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(p=CALLED)
    # FastAPI itself may import the API, which does nothing
    code = (
        "import sys, skate.plugin.app; print([n for n in sys.modules if n.startswith(('opentelemetry.sdk', 'sentry'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    with TestClient(run(test_mode=True, engine="inline", load_plugins=["p"], strict=True)) as client:  # type: ignore[arg-type]
        assert data(client.get("/api/v1/light")) == "light"
    assert telemetry.current is None and telemetry.sent() == ()
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ImportError, match=r'pip install "skate-ray\[plugin-telemetry\]"'):
        run(test_mode=True, engine="inline", load_plugins=["p"], flags={"telemetry.enabled": True})


def test_what_cannot_be_sent_so_is_said(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(p=CALLED)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match="OTLP over HTTP"):
        run(test_mode=True, engine="inline", load_plugins=["p"], flags={"telemetry.enabled": True})
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    with pytest.raises(ConfigError, match=r"telemetry.*'enabled'"):
        run(test_mode=True, flags={"telemetry.enable": True})
