"""Errors of plugins as Sentry gets them: with plugin and request, without secrets."""

from __future__ import annotations

import gzip
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("sentry_sdk", reason="reports need the extra `plugin-sentry`")

import sentry_sdk
from fastapi.testclient import TestClient
from plugin_services import Write, data

from skate.configuration import ConfigError
from skate.plugin import run
from skate.plugin import sentry as sentry_module

SECRET = "open-sesame-42"
FAILING = f"""
from fastapi import HTTPException
@on_register()
class P(BasePlugin):
    @on_request("/fails", methods=["GET"])
    async def fails(self) -> str:
        key = "-".join(["a", "local", "value"])
        raise RuntimeError("the key is {SECRET}, at a://b:hunter-two@c/?token=abc")
    @on_request("/missing", methods=["GET"])
    async def missing(self) -> str: raise HTTPException(404, "not here")
    @on_request("/words", methods=["GET"], stream=True)
    async def words(self):
        yield "a"
        raise KeyError("words")
"""
CALLING = """
@on_register()
class Q(BasePlugin):
    @on_request("/calls", methods=["GET"])
    async def calls(self) -> str: return await call_plugin_api("/api/v1/fails")
    @on_request("/copes", methods=["GET"])
    async def copes(self) -> str:
        try:
            return await call_plugin_api("/api/v1/fails")
        except RuntimeError:
            return "coped"
"""


class Receiver:
    """Takes Sentry's envelopes."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                lines = body.split(b"\n")
                for head, item in zip(lines[1::2], lines[2::2], strict=False):
                    if json.loads(head)["type"] == "event":
                        receiver.events.append(json.loads(item))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Tests are quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.dsn = f"http://public-key@127.0.0.1:{self.server.server_port}/1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def wait(self, count: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + 30
        while len(self.events) < count:
            assert time.monotonic() < deadline, self.events
            time.sleep(0.02)
        return self.events

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    sentry_sdk.get_client().close(timeout=1)
    sentry_sdk.get_global_scope().set_client(None)
    sentry_module.current = None
    made.close()


def service(receiver: Receiver, engine: str = "inline", **flags: Any) -> TestClient:
    given = {"sentry.dsn": receiver.dsn, "sentry.environment": "test", "auth.rules": {"/hidden": [SECRET]}}
    app = run(test_mode=True, engine=engine, num_cpus=2, load_plugins=["p", "q"], strict=True, flags=given | flags)
    assert app is not None
    return TestClient(app)


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_an_error_is_reported_once_with_plugin_and_request(
    write: Write, receiver: Receiver, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest keeps what is logged, with the frames of its errors, in which the session's things are
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    write(p=FAILING)
    write(["/api/v1/fails"], q=CALLING)
    with service(receiver, engine) as client:
        answer = client.get("/api/v1/calls", headers={"x-request-id": "r-17", "authorization": f"Bearer {SECRET}"})
        assert answer.status_code == 500 and "sesame" not in answer.text
        assert data(client.get("/api/v1/copes")) == "coped"  # what a plugin copes with is no error
        assert client.get("/api/v1/missing").status_code == 404
        assert "event: error" in client.get("/api/v1/words").text
    first, second = receiver.wait(2)
    assert first["tags"] == {"plugin": "p", "api": "q.Q.calls", "request_id": "r-17"}
    assert first["exception"]["values"][-1]["type"] == "RuntimeError" and first["environment"] == "test"
    assert second["exception"]["values"][-1]["type"] == "KeyError" and second["tags"]["api"] == "p.P.words"
    text = json.dumps(receiver.events)
    for secret in (SECRET, "a-local-value", "hunter-two", "token=abc", "public-key"):
        assert secret not in text
    assert len(receiver.events) == 2


def test_the_programs_own_client_gets_the_reports(write: Write, receiver: Receiver) -> None:
    write(p=FAILING)
    write(["/api/v1/fails"], q=CALLING)
    sentry_sdk.init(dsn=receiver.dsn, release="mine", default_integrations=False, auto_enabling_integrations=False)
    with service(receiver, **{"sentry.dsn": "http://other@127.0.0.1:9/1"}) as client:
        client.get("/api/v1/fails")
    (event,) = receiver.wait(1)
    assert event["release"] == "mine" and SECRET not in json.dumps(event) and "vars" not in json.dumps(event)


def test_a_plugin_that_does_not_start_is_reported(write: Write, receiver: Receiver) -> None:
    write(
        p="""
    @on_register()
    class P(BasePlugin):
        async def on_start(self): raise OSError("no disk")
    """
    )
    write(
        q="""
    @on_register()
    class Q(BasePlugin):
        @on_request("/x", methods=["GET"])
        async def x(self) -> str: return "x"
    """
    )
    with service(receiver, **{"server.strict": False}) as client:
        assert data(client.get("/api/v1/x")) == "x"
    (event,) = receiver.wait(1)
    assert event["tags"] == {"plugin": "p", "api": "on_start"}


def test_nothing_is_reported_unless_it_is_asked_for(
    write: Write, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(p=FAILING)
    write(["/api/v1/fails"], q=CALLING)
    monkeypatch.setenv("SENTRY_DSN", receiver.dsn)
    with service(receiver, **{"sentry.dsn": ""}) as client:
        assert client.get("/api/v1/fails").status_code == 500
    assert sentry_module.current is None and not sentry_sdk.get_client().is_active() and receiver.events == []


def test_what_is_wrong_is_said_without_the_dsn(
    write: Write, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(p=FAILING)
    write(["/api/v1/fails"], q=CALLING)
    with pytest.raises(ConfigError, match=r"\[sentry\] dsn is no DSN") as caught:
        service(receiver, **{"sentry.dsn": "hush-hush"})
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError, match="sample_rate"):
        service(receiver, **{"sentry.sample_rate": 2})
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with pytest.raises(ImportError, match=r'pip install "skate-ray\[plugin-sentry\]"'):
        service(receiver)
