"""Requests of revision 2026-07-28, which say for themselves who asks and need no session. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from skate.serve.mcp import messages
from skate.serve.mcp.messages import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MODERN_VERSIONS,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    Json,
    Request,
    RpcError,
)
from skate.serve.mcp.peers import Client

_PREFIX = "io.modelcontextprotocol/"
VERSION, CLIENT, CAPABILITIES, LOG_LEVEL, SERVER, SUBSCRIPTION = (
    _PREFIX + name
    for name in ("protocolVersion", "clientInfo", "clientCapabilities", "logLevel", "serverInfo", "subscriptionId")
)
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_CACHEABLE = ("tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read")
STATUS = dict.fromkeys((PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS, HEADER_MISMATCH, UNSUPPORTED_VERSION), 400) | {
    METHOD_NOT_FOUND: 404
}
"""HTTP's status for an error; 200 for all others."""


class Envelope(NamedTuple):
    """A request without what it says of its sender, and that."""

    request: Request
    client: Client


def unsupported(version: str) -> RpcError:
    """The error for a revision that is not known, with those that are."""
    return RpcError(
        UNSUPPORTED_VERSION,
        "Unsupported protocol version",
        {"supported": [*messages.HANDSHAKE_VERSIONS, *MODERN_VERSIONS], "requested": version},
    )


def open_envelope(request: Request, headers: dict[bytes, bytes]) -> Envelope:
    """Check what a request says of itself, and take it off.

    Raises:
        RpcError: INVALID_PARAMS for what is missing, HEADER_MISMATCH where headers and body disagree,
            UNSUPPORTED_VERSION.
    """
    params = messages.fields(request.params)
    meta = messages.fields(params.get("_meta", messages.EMPTY))
    if missing := [name for name in (VERSION, CAPABILITIES) if name not in meta]:
        raise RpcError(INVALID_PARAMS, f"params._meta lacks {', '.join(missing)}")
    version = messages.text(meta, VERSION)
    if headers.get(b"mcp-protocol-version", b"") != version.encode():
        raise RpcError(HEADER_MISMATCH, "the header Mcp-Protocol-Version differs from the request's version")
    if headers.get(b"mcp-method", b"") != request.method.encode():
        raise RpcError(HEADER_MISMATCH, "the header Mcp-Method differs from the request's method")
    name = _NAMED.get(request.method)
    if name in params and _decoded(headers.get(b"mcp-name", b"")) != messages.text(params, name):
        raise RpcError(HEADER_MISMATCH, f"the header Mcp-Name differs from the request's {name}")
    if version not in MODERN_VERSIONS:
        raise unsupported(version)
    client = Client(meta[CAPABILITIES], meta.get(CLIENT, Client().info))
    for known in (VERSION, CAPABILITIES, CLIENT, LOG_LEVEL):
        meta.pop(known, None)
    if meta:
        params["_meta"] = messages.join(meta)
    else:
        params.pop("_meta", None)
    return Envelope(Request(request.id, request.method, messages.join(params)), client)


def stamped(result: Json, method: str, server: Json) -> Json:
    """A result with what this revision wants in it: what kind it is, how long it may be kept, and whose it is."""
    found = messages.fields(result)
    found.setdefault("resultType", b'"complete"')
    if method in _CACHEABLE or method == "server/discover":
        found.setdefault("ttlMs", b"0")
        found.setdefault("cacheScope", b'"private"')
    meta = messages.fields(found["_meta"]) if "_meta" in found else {}
    meta.setdefault(SERVER, server)
    found["_meta"] = messages.join(meta)
    return messages.join(found)


def _decoded(value: bytes) -> str | None:
    """A header's text: itself, or base64 in a frame where it would not survive as it is."""
    if value.startswith(b"=?base64?") and value.endswith(b"?="):
        try:
            return base64.b64decode(value[9:-2], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None
    return value.decode("latin-1")
