"""The REST interface that Ray's dashboard has for Serve, and the metrics of the session, on a port of its own.

It is off until `start` is called, and listens on loopback unless there is a token: who can put a configuration can run
any code. Requests that a web page of another origin makes, or that name another host, are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

import skate
from skate.exceptions import RayTaskError
from skate.serve import admin, api, context
from skate.serve.config_file import ScaleDeploymentRequest
from skate.serve.fields import SchemaError

NAME = "SERVE_REST"
APPLICATIONS = "/api/serve/applications"
LARGEST = 16 << 20
"""Bytes of a body, at most."""
TOKEN = "SKATE_SERVE_TOKEN"
"""The environment variable with the token."""


class Answer(NamedTuple):
    """What is sent."""

    status: int
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.answer = Answer(status, text.encode())


class Rest:
    """The ASGI application.

    Args:
        hosts: names that requests may be for; None: any.
        token: what the header ``Authorization: Bearer`` must have; empty: nothing.
    """

    def __init__(self, hosts: frozenset[str] | None, token: str = "") -> None:
        self._hosts = hosts
        self._token = token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        try:
            self._admit({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
            answer = await self._answer(scope["method"], scope["path"], scope["query_string"].decode(), receive)
        except Refused as refused:
            answer = refused.answer
        headers = [(b"content-type", answer.kind.encode()), (b"content-length", str(len(answer.body)).encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    def _admit(self, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            raise Refused(403, f"This is not {host!r}.")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refused(403, "Requests of other origins are refused.")
        given = headers.get("authorization", "")
        if self._token and not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise Refused(401, "A bearer token is wanted.")

    async def _answer(self, method: str, path: str, query: str, receive: Any) -> Answer:
        path = path.rstrip("/") or "/"
        methods = self._methods(path, query)
        if methods is None:
            raise Refused(404, f"There is nothing at {path}.")
        handle = methods.get("GET" if method == "HEAD" else method)
        if handle is None:
            raise Refused(405, f"{path} has {', '.join(methods)}.")
        body = await _body(receive) if method in ("PUT", "POST") else b""
        return await asyncio.to_thread(handle, body)

    def _methods(self, path: str, query: str) -> dict[str, Callable[[bytes], Answer]] | None:
        if path == APPLICATIONS:
            return {"GET": lambda body: _details(query), "PUT": _put, "DELETE": _delete}
        if path == "/api/ray/version":
            return {"GET": _version}
        if path == "/metrics":
            return {"GET": _metrics}
        if path == "/-/healthz":
            return {"GET": lambda body: Answer(200, b"success")}
        words = path.split("/")
        if words[:4] == ["", "api", "v1", "applications"] and words[5:6] == ["deployments"] and words[7:] == ["scale"]:
            return {"POST": lambda body: _scale(words[4], words[6], body)}
        return None


def _name(host: str) -> str:
    """A Host header without its port."""
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]


async def _body(receive: Any) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The body did not come.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST:
            raise Refused(413, f"The body is larger than {LARGEST} bytes.")
        more = message.get("more_body", False)
    return b"".join(parts)


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode(value, enc_hook=repr), "application/json")


def _read(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise Refused(400, f"The body is no JSON: {error}") from None


def _details(query: str) -> Answer:
    source = dict(part.partition("=")[::2] for part in query.split("&")).get("api_type", "").lower()
    if source not in ("", "imperative", "declarative"):
        raise Refused(400, f"Invalid 'api_type' value: '{source}'. Must be one of: imperative, declarative")
    found = admin.details()
    if source:
        found["applications"] = {name: app for name, app in found["applications"].items() if app["source"] == source}
    return _json(found)


def _put(body: bytes) -> Answer:
    try:
        admin.put(_read(body))
    except (SchemaError, ValueError, TypeError) as error:
        raise Refused(400, str(error)) from None
    return Answer(200)


def _delete(body: bytes) -> Answer:
    api.shutdown()
    return Answer(200)


def _version(body: bytes) -> Answer:
    session = os.path.basename(str(skate.init(ignore_reinit_error=True).address_info.get("session_dir") or ""))
    return _json({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": session})


def _metrics(body: bytes) -> Answer:
    from skate.serve.metrics import prometheus_text

    return Answer(200, prometheus_text().encode(), "text/plain; version=0.0.4; charset=utf-8")


def _scale(app: str, deployment: str, body: bytes) -> Answer:
    try:
        wanted = ScaleDeploymentRequest.model_validate(_read(body)).target_num_replicas
    except SchemaError as error:
        return _json({"error": f"Invalid request body: {error}"}, 400)
    try:
        admin.scale(app, deployment, wanted)
    except KeyError:
        return _json({"error": "Application or Deployment not found"}, 404)
    except RuntimeError as error:
        return _json({"error": str(error)}, 412)
    return _json({"message": "Scaling request received. Deployment will get scaled asynchronously."})


# ------------------------------------------------------------- serving it


class RestServer:
    """The actor that serves it."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._where = host, port
        self._socket: socket.socket | None = None
        self._rest = Rest(None if token else _loopback_names(host), token)
        self._task: asyncio.Task[None] | None = None

    async def address(self) -> tuple[str, int]:
        """Where it listens; it serves from now on. Raises OSError when it cannot."""
        if self._socket is None:
            family = socket.AF_INET6 if ":" in self._where[0] else socket.AF_INET
            self._socket = socket.create_server(self._where, family=family)
            self._task = asyncio.get_running_loop().create_task(self._serve(self._socket))
        host, port = self._socket.getsockname()[:2]
        return host, port

    async def _serve(self, listening: socket.socket) -> None:
        import uvicorn

        class Server(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield  # signals are the worker's

        config = uvicorn.Config(self._rest, lifespan="off", log_config=None, access_log=False, server_header=False)
        await Server(config).serve([listening])


def _loopback_names(host: str) -> frozenset[str]:
    return frozenset({"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host})


def start(host: str = "127.0.0.1", port: int = 8265, token: str | None = None) -> tuple[str, int]:
    """Serve the REST interface of this session's Serve; where it listens. Where it does already, that.

    Args:
        port: 0: one that is free.
        token: what requests must bring; None: the environment variable SKATE_SERVE_TOKEN, if it is set.

    Raises ValueError for an address that others reach without a token, OSError when the port is taken, ImportError
    without uvicorn.
    """
    try:
        import uvicorn as uvicorn
    except ImportError as error:
        raise ImportError("The REST interface needs uvicorn: pip install 'skate-ray[serve]'") from error
    token = os.environ.get(TOKEN, "") if token is None else token
    if not token and not _is_loopback(host):
        raise ValueError(
            f"The REST interface runs any code that it is told to: at {host} it needs a token (SKATE_SERVE_TOKEN)."
        )
    if not skate.is_initialized():
        skate.init()
    options = {"name": NAME, "namespace": context.NAMESPACE, "lifetime": "detached", "num_cpus": 0}
    made: Any = skate.remote(RestServer).options(**options, get_if_exists=True, max_concurrency=100)
    try:
        found: tuple[str, int] = skate.get(made.remote(host, port, token).address.remote())
    except RayTaskError as error:
        stop()
        raise OSError(f"The REST interface cannot listen at {host}:{port}: {error.cause}") from None
    return found


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def stop() -> None:
    """Serve it no longer."""
    with contextlib.suppress(ValueError):  # it is not served
        skate.kill(skate.get_actor(NAME, namespace=context.NAMESPACE))
