"""Closed routes stay closed however they are asked for, and secrets stay inside: over sockets, on the real server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")
pytest.importorskip("joserfc", reason="logins need the extra `plugin-oauth`")

from fastapi.testclient import TestClient
from plugin_services import Write

from skate.configuration import HIDDEN, AuthConfig, Config, ConfigError, load_with_origins, shown
from skate.plugin import PluginLoadError, run
from skate.plugin.scrub import Scrubber

KEY, OTHER, LOGIN, PASSWORD, TOKEN = "key-sesame-1", "key-sesame-2", "login-sesame-3", "pass-sesame-4", "token-sesame-5"
HOME = "home-sesame-6"
SECRETS = (KEY, OTHER, LOGIN, PASSWORD, TOKEN, HOME)
MARKS = (b"CLOSED-DATA", b'"openapi"', b"swagger", b"redoc.standalone")
"""What nobody sees without a key."""
SHUT = """
from pydantic import SecretStr

class C(BaseModel):
    token: SecretStr
    url: str = ""
__plugin_meta__.config_class = C

@on_register()
class Shut(BasePlugin):
    @on_request("/shut", methods=["GET", "POST"])
    async def root(self) -> str: return "CLOSED-DATA"
    @on_request("/shut/{rest:path}", methods=["GET", "POST", "DELETE"])
    async def shut(self, rest: str) -> str: return "CLOSED-DATA"
    @on_request("/mixed/open", methods=["GET"])
    async def mixed_open(self) -> str: return "open"
"""
OPEN = f"""
@on_register()
class Open(BasePlugin):
    @on_request("/open", methods=["GET", "POST"])
    async def open(self) -> str: return "open"
    @on_request("/open/{{rest:path}}", methods=["GET"])
    async def rest(self, rest: str) -> str: return "open"
    @on_request("/mixed/shut", methods=["GET"])
    async def mixed(self) -> str: return "CLOSED-DATA"
    @on_request("/fails", methods=["GET"])
    async def fails(self) -> str: raise RuntimeError("it was {TOKEN}, {KEY}, a://b:{PASSWORD}@c")
"""
CONFIG = f"""
load_plugins = ["shut", "open"]
[auth.rules]
"/api/v1/shut/*" = ["{KEY}", "{OTHER}"]
"/api/v1/mixed/shut" = ["{KEY}"]
"/docs" = ["{KEY}"]
[auth.oauth]
issuer = "http://127.0.0.1:9"
client_id = "c"
client_secret = "{LOGIN}"
public_url = "http://127.0.0.1:8080"
allow_everyone = true
timeout = 2
[plugins.shut]
token = "{TOKEN}"
url = "postgres://ada:{PASSWORD}@db/x"
[log]
format = "json"
"""
CLOSED = [
    "/api/v1/shut", "/api/v1/shut/", "/api/v1/shut/x", "/api/v1/shut//", "//api/v1/shut/x", "/api//v1/shut/x",
    "/api/v1/shut/x/.", "/api/v1/./shut/x", "/api/v1/open/../shut/x", "/api/v1/open/%2e%2e/shut/x",
    "/api/v1/open/.%2e/shut/x", "/api/v1/shut/..", "/api/v1/open/..%2fshut/x", "/api/v1/open/..;/shut/x",
    "/api/v1/open/%252e%252e/shut/x", "/api%2fv1%2fshut%2fx", "/mixed/shut", "/api/v1%2fshut/x", "/api/v1/shut%2fx",
    "/api/v1/shut%2Fx", "/api/v1/sh%75t/x", "/%61pi/v1/shut/x", "/api/v1/shut/x;y", "/api/v1/shut;a/x",
    "/api;x/v1/shut/x", "/api/v1/shut%3bx", "/api/v1\\shut\\x", "/api/v1/shut/x%00", "/api/v1/shut%00/x",
    "/api/v1/shut/x%0a", "/api/v1/shut%20/x", "/api/v1/shut/%20", "/API/V1/SHUT/x", "/api/v1/Shut/x",
    "/api/v1/shut/x?open", "/api/v1/shut/x#/open", "/api/v1/shut?x=/api/v1/open", "http://127.0.0.1/api/v1/shut/x",
    "http://evil/api/v1/shut/x", "HTTP://x/api/v1/shut", "http://x/api/v1/open/../shut/x", "http:/api/v1/shut",
    "http://x@y/api/v1/shut/x", "x/api/v1/shut", "api/v1/shut/x", "*", "/*", "/api/v1/sh\xc3\xbct/x",
    "/api/v1/shut\x7f/x", "/api/v1/s%C0%AFhut", "/api/v1/shut/%c0%ae%c0%ae/x", "/api/v1/mixed/shut",
    "/api/v1/mixed/shut/", "/api/v1/mixed%2fshut", "/api/v1/mixed/open/../shut", "/api/v1/mixed//shut",
    "/api/v1/mixed/%73hut", "/docs", "/docs/", "/docs//", "//docs", "/./docs", "/docs/.", "/docs%2f", "/docs;x",
    "/docs%00", "/docs%20", "/%64ocs", "/Docs", "/docs?/health", "/health/../docs", "/health/%2e%2e/docs",
    "http://x/docs", "/docs#x", "/redoc", "/redoc/", "/REDOC", "/%72edoc", "/api/v1/openapi.json",
    "/api/v1/openapi.json/", "/api/v1//openapi.json", "/api/v1/openapi%2ejson", "/openapi.json",
    "/api/v1/openapi.json;x", "/docs/oauth2-redirect", "/oauth/login/../docs", "/oauth/login/..%2f..%2fdocs",
    "/oauth/callback/../../docs", "/oauth/login;/docs",
]  # fmt: skip
LIES = [
    "",
    "X-Original-URL: /api/v1/open\r\nX-Rewrite-URL: /api/v1/open\r\nX-Forwarded-Path: /api/v1/open\r\n"
    "X-Forwarded-Prefix: /api/v1/shut\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\n"
    "X-Forwarded-Host: evil\r\nForwarded: for=127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nX-HTTP-Method-Override: HEAD\r\n",
    "Authorization: Bearer\r\nCookie: skate_session=x.y; __Host-skate_session=x.y\r\n",
    f"X-Authorization: {KEY}\r\nProxy-Authorization: Bearer {KEY}\r\nAuthorization: Basic {KEY}\r\n",
]


class Running(NamedTuple):
    """A service in a process of its own."""

    engine: str
    port: int
    log: Path

    def send(self, request: bytes) -> bytes:
        """All that is answered to what is sent, until the server ends the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(request)
            found = b""
            while True:
                try:
                    part = connection.recv(65536)
                except ConnectionResetError:
                    return found
                if not part:
                    return found
                found += part

    def ask(self, target: str, headers: str = "", method: str = "GET") -> bytes:
        """The answer to one request, whose target is sent as it is."""
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
        return self.send(head.encode("latin-1"))


@pytest.fixture(scope="module", params=["inline", pytest.param("local", marks=pytest.mark.slow)])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("audit")
    begin = (
        "from skate.plugin import *\nfrom pydantic import BaseModel\n"
        "__plugin_meta__ = PluginMetadata(name={!r}, version='1', description='')\n"
    )
    (folder / "shut.py").write_text(begin.format("shut") + SHUT)
    (folder / "open.py").write_text(begin.format("open") + OPEN)
    (folder / "config.toml").write_text(CONFIG)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "skate",
        "plugin",
        "run",
        "--engine",
        request.param,
        "--strict",
        "--port",
        str(port),
    ]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    running = Running(request.param, port, log)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            with socket.socket() as probe:
                there = probe.connect_ex(("127.0.0.1", port)) == 0
            if there and b"200 OK" in running.ask("/ready"):
                break
            time.sleep(0.05)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def is_shut(answer: bytes) -> bool:
    return not any(mark in answer for mark in MARKS)


@pytest.mark.parametrize("lies", range(len(LIES)))
def test_no_way_of_asking_passes_the_rules(service: Running, lies: int) -> None:
    through = {target: answer for target in CLOSED if not is_shut(answer := service.ask(target, LIES[lies]))}
    assert not through
    assert b"CLOSED-DATA" in service.ask("/api/v1/shut/x", f"Authorization: Bearer {KEY}\r\n")
    assert b"swagger" in service.ask("/docs", f"Authorization: {KEY}\r\n")
    assert b'"data":"open"' in service.ask("/api/v1/open") and b'"data":"open"' in service.ask("http://x/api/v1/open")


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE", "OPTIONS", "PUT", "TRACE", "get", "PROPFIND"])
def test_no_method_passes_them(service: Running, method: str) -> None:
    body = "Content-Length: 0\r\n"
    for target in ("/api/v1/shut", "/api/v1/shut/x", "/docs", "/api/v1/mixed/shut"):
        answer = service.ask(target, body, method)
        assert is_shut(answer) and not answer.startswith(b"HTTP/1.1 200"), (target, answer)


def test_what_opened_one_request_does_not_open_the_next(service: Running) -> None:
    def two(first: str, second: str, headers: str = "") -> bytes:
        begin = f"GET {first} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"
        return service.send((begin + f"GET {second} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").encode())

    key = f"Authorization: {KEY}\r\n"
    for first, second in (
        ("/api/v1/open", "/api/v1/shut/x"),
        ("/api/v1/open", "/docs"),
        ("/api/v1/open", "/api/v1/mixed/shut"),
        ("/health", "/api/v1/shut"),
    ):
        answer = two(first, second)
        assert is_shut(answer) and b"401 Unauthorized" in answer, (first, second, answer)
    answer = two("/api/v1/shut/x", "/api/v1/shut/x", key)
    assert answer.count(b"CLOSED-DATA") == 1 and b"401 Unauthorized" in answer


def test_a_request_hidden_in_another_is_none(service: Running) -> None:
    hidden = "GET /api/v1/shut/x HTTP/1.1\r\nHost: x\r\n\r\n"
    for headers in (
        f"Content-Length: {len(hidden)}\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 0\r\nContent-Length: 60\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding : chunked\r\n",
    ):
        head = f"POST /api/v1/open HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
        assert is_shut(service.send((head + "0\r\n\r\n" + hidden).encode()))
    for head in (
        f"GET /api/v1/shut HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: x\r\n Bearer {KEY}x\r\n\r\n",
        "GET /api/v1/open HTTP/1.1\nGET /api/v1/shut/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /api/v1/shut/x HTTP/0.9\r\n\r\n",
        "GET  /api/v1/shut/x HTTP/1.0\r\n\r\n",
    ):
        assert is_shut(service.send(head.encode()))


def test_secrets_are_in_no_answer_and_no_line_of_the_log(service: Running) -> None:
    key = f"Authorization: {KEY}\r\n"
    answers = [
        service.ask(target, headers)
        for headers in (key, "", f"Authorization: {OTHER}x\r\n")
        for target in (
            "/docs", "/redoc", "/api/v1/openapi.json", "/metrics", "/ready", "/health", "/api/v1/version",
            "/api/v1/fails", "/oauth/login", "/oauth/callback?code=a&state=b", "/oauth/logout", "/nowhere",
        )
    ]  # fmt: skip
    answers += [service.ask(f"/api/v1/{KEY}"), service.ask("/api/v1/open", f"X-Request-ID: {KEY}\r\n")]
    mine = answers.pop()  # who sends a key as the request's id has it back
    assert not [
        answer for answer in answers for secret in SECRETS if secret.encode() in answer and b"404" not in answer
    ]
    assert mine.count(KEY.encode()) == 1
    assert b"/oauth/logout" in answers[0]  # it was the page
    assert b"503 Service Unavailable" in answers[8]
    deadline = time.monotonic() + 15
    while (said := service.log.read_text()).count('"path": "/nowhere"') < 3:
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    assert "RuntimeError" in said and "Traceback" in said
    found = {secret: [line for line in said.splitlines() if secret in line] for secret in SECRETS}
    assert not any(found.values()), found


@pytest.mark.parametrize("root", ["", "/", "/svc", "/svc/", "/api", "/api/v1", "/api/v1/shut", "//", "/x/.."])
def test_no_place_that_it_is_mounted_at_passes_the_rules(write: Write, root: str) -> None:
    write(shut=SHUT, open=OPEN)
    flags = {"auth.rules": {"/api/v1/shut/*": [KEY], "/api/v1/mixed/shut": [KEY]}, "plugins.shut.token": "x"}
    app = run(test_mode=True, engine="inline", load_plugins=["shut", "open"], strict=True, flags=flags)
    assert app is not None
    with TestClient(app, root_path=root) as client:
        for path in ("/api/v1/shut", "/api/v1/shut/x", "/api/v1/mixed/shut", "/x", "", "/"):
            for front in ("", root, root + "/", root + root, "/", "/svc", "/api"):
                request = client.build_request("GET", "http://testserver/")
                request.url = request.url.copy_with(raw_path=(front + path or "/").encode())
                assert "CLOSED-DATA" not in client.send(request).text, (front, path)
        key = {"authorization": KEY}
        if not root.endswith(("/", "..")):  # which is none that a service can be reached at
            assert "CLOSED-DATA" in client.get(root + "/api/v1/shut/x", headers=key).text


BAD: list[tuple[str, str]] = [
    ("auth = '{}'", "auth"),
    ("[auth]\nrules = '{}'", "auth.rules"),
    ("[auth.rules]\n'/x' = '{}'", "auth.rules"),
    ("[auth.rules]\n'/x' = [['{}']]", "auth.rules"),
    ("[auth.rules]\n'x' = ['{}']", "auth.rules"),
    ("[auth.oauth]\nclient_secret = ['{}']", "client_secret"),
    ("[auth]\noauth = '{}'", "auth.oauth"),
    ("[auth.oauth]\nclient_secrets = '{}'", "client_secret"),
    ("sentry = '{}'", "sentry"),
    ("[sentry]\ndsn = ['{}']", "sentry.dsn"),
    ("[sentry]\ndsn = '{}'", "dsn"),
    ("[telemetry]\nheaders = '{}'", "telemetry.headers"),
    ("[telemetry.headers]\nauthorization = ['{}']", "telemetry.headers"),
    ("plugins = ['{}']", "plugins"),
    ("[plugins]\nshut = '{}'", "plugins"),
    ("[plugins]\nshut = [{{token = '{}'}}]", "plugins"),
    ("[plugins.shut]\ntoken = ['{}']", "plugins.shut"),
    ("[plugins.shut]\ntoken = {{a = '{}'}}", "plugins.shut"),
    ("[plugins.shut]\ntoken = 'x'\nurl = ['a://b:{}@c']", "plugins.shut"),
    ("[plugins.shut]\ntoken = 'x'\nurl = {{password = '{}'}}", "plugins.shut"),
    ("[plugins.shut]\ntoken = 'x'\napiKey = '{}'", "apiKey"),
    ("[plugins.shut]\ntoken = '{}'\ntoken = 'x'", "config.toml"),
    ("[plugins.shut]\ntoken = {}", "config.toml"),
    ("[server]\nhost = ['a://b:{}@c']", "server.host"),
    ("[cors]\nallow_origins = 'https://u:{}@x'", "cors.allow_origins"),
]


@pytest.mark.parametrize(("config", "where"), BAD)
def test_errors_of_wrong_configurations_keep_their_secrets(
    write: Write, place: Path, config: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(shut=SHUT)
    text = f"load_plugins = ['shut']\n{config.format(HOME)}\n"
    (place / "config.toml").write_text(text if "plugins" in config else text + "[plugins.shut]\ntoken = 'x'\n")
    said = ""
    with pytest.raises((ConfigError, PluginLoadError)) as caught:
        said = str(shown(load_with_origins()))
        run(test_mode=True, engine="inline", strict=True)
    said += "".join(traceback.format_exception(caught.value)) + caplog.text
    assert HOME not in said and where in str(caught.value)


def test_what_is_shown_of_a_configuration_has_no_secrets(place: Path) -> None:
    (place / "config.toml").write_text(
        f"""
        load_plugins = ["x"]
        [auth.rules]
        "/x" = ["{HOME}"]
        [telemetry]
        headers = {{authorization = "{HOME}"}}
        endpoint = "https://u:{HOME}@collector"
        [plugins.a]
        apiKey = "{HOME}"
        access_token = "{HOME}"
        SECRETKEY = "{HOME}"
        passphrase = "{HOME}"
        headers = {{Authorization = "Bearer {HOME}"}}
        servers = [{{url = "a://b:{HOME}@c", credentials = ["{HOME}"]}}, {{hook = "https://x/?a=1&token={HOME}#y"}}]
        [plugins.proxy.proxy_urls."http://ada:{HOME}@10.0.0.1"]
        enable = ["/*"]
        """
    )
    command = [sys.executable, "-m", "skate", "config", "show", "--all"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0 and "10.0.0.1" in done.stdout and "https://x/?a=1" in done.stdout
    assert HOME not in done.stdout + done.stderr


def test_a_login_in_an_upstreams_address_is_told_to_nobody(
    write: Write, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Upstream(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            schema = {"type": "object", "title": "It"}
            answers = {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/It"}}}}}
            paths = {"/api/v1/far": {"get": {"responses": answers}}}
            body = json.dumps({"openapi": "3.1.0", "paths": paths, "components": {"schemas": {"It": schema}}}).encode()
            self.send_response(200 if self.path.endswith("openapi.json") else 500)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Tests are quiet."""

    write(open=OPEN)
    with HTTPServer(("127.0.0.1", 0), Upstream) as upstream:
        Thread(target=upstream.serve_forever, args=(0.02,), daemon=True).start()
        urls = [f"http://ada:{HOME}@127.0.0.1:{upstream.server_port}", f"http://ada:{HOME}@127.0.0.1:9"]
        flags = {"server.enable_proxy": True, "plugins.proxy.proxy_urls": urls, "plugins.proxy.retries": 0}
        app = run(test_mode=True, engine="inline", load_plugins=["open"], flags=flags)
        assert app is not None
        with TestClient(app) as client:
            said = [client.get(path).text for path in ("/docs", "/ready", "/api/v1/openapi.json", "/metrics")]
            assert client.get("/api/v1/far").status_code == 500
            upstream.shutdown()
            upstream.server_close()
            assert client.get("/api/v1/far").status_code == 502
    assert "127.0.0.1:9" in said[1] and "/api/v1/far" in said[2]
    assert not any(HOME in text for text in (*said, caplog.text))


@pytest.mark.parametrize("count", [1, 500])
def test_secrets_are_taken_out_of_texts(count: int) -> None:
    keys = [f"sesame/{number:04}" for number in range(count)] + ["short"]
    scrub = Scrubber(Config(auth=AuthConfig(rules={"/x": keys})))
    for text in ("{}", "a {} b", "x{}{}", "q=sesame%2F0000"):
        assert "0000" not in scrub.text(text.replace("{}", keys[0]))
    assert scrub.text("a short sesame") == "a short sesame"
    tree = scrub.tree({"list": [keys[0], {"password": "abc", "n": 1}], keys[0]: "a://u:p4ss@h"})
    assert tree == {"list": [HIDDEN, {"password": HIDDEN, "n": 1}], HIDDEN: f"a://{HIDDEN}@h"}
