"""JSON-RPC 2.0 as MCP uses it, decoded only as far as forwarding needs: parameters and results stay bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SERVER_DOWN = -32000
TIMED_OUT = -32001
CANCELLED = -32800
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022

HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""Revisions that begin with `initialize`, oldest first."""
MODERN_VERSIONS = ("2026-07-28",)
"""Revisions in which each request says for itself who asks, without a session."""

Json = bytes
"""A value as JSON, checked for its syntax, not looked into."""
EMPTY: Json = b"{}"
Id = int | str


class RpcError(Exception):
    """An error that is answered as a JSON-RPC error: a code, a text, and data (a plain value), if any.

    `words` are for logs and the status alone: what a process wrote to standard error may be nobody else's business.
    """

    def __init__(self, code: int, message: str, data: Any = None, words: str = "") -> None:
        super().__init__(message)
        self.words = words
        self.code = code
        self.message = message
        self.data = data

    def packed(self) -> Json:
        """The error object of a response."""
        return _encode(_Error(self.code, self.message, UNSET if self.data is None else self.data))

    @classmethod
    def unpack(cls, raw: Json) -> RpcError:
        """The error of a response; one that is no error object by the standard becomes an internal error."""
        try:
            error = _error_decoder.decode(raw)
        except msgspec.MsgspecError:
            return cls(INTERNAL_ERROR, "the server answered with an error that is no JSON-RPC error object")
        return cls(error.code, error.message, None if error.data is UNSET else error.data)


class _Error(msgspec.Struct):
    code: int
    message: str
    data: Any = UNSET


class _Wire(msgspec.Struct):
    jsonrpc: Literal["2.0"]
    id: Id | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class Request(msgspec.Struct, frozen=True):
    """A method to be answered under an id."""

    id: Id
    method: str
    params: Json = EMPTY

    def pack(self) -> bytes:
        return _pack(_Wire("2.0", self.id, self.method, Raw(self.params)))


class Notification(msgspec.Struct, frozen=True):
    """A method without an answer."""

    method: str
    params: Json = EMPTY

    def pack(self) -> bytes:
        return _pack(_Wire("2.0", UNSET, self.method, Raw(self.params)))


class Result(msgspec.Struct, frozen=True):
    """A request's good answer."""

    id: Id
    value: Json

    def pack(self) -> bytes:
        return _pack(_Wire("2.0", self.id, result=Raw(self.value)))


class Failure(msgspec.Struct, frozen=True):
    """A request's bad answer; the id is None where it could not be read."""

    id: Id | None
    error: Json

    def pack(self) -> bytes:
        return _pack(_Wire("2.0", self.id, error=Raw(self.error)))


Message = Request | Notification | Result | Failure

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(_Wire)
_error_decoder = msgspec.json.Decoder(_Error)
_object_decoder = msgspec.json.Decoder(dict[str, Raw])
_list_decoder = msgspec.json.Decoder(list[Raw])
_BAD_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _pack(wire: _Wire) -> bytes:
    """One line of JSON. Parts that are forwarded as they came may have line breaks between their tokens."""
    data = _encode(wire)
    if b"\n" in data or b"\r" in data:
        return msgspec.json.format(data, indent=-1)
    return data


def unpack(data: bytes) -> Message:
    """One message.

    Raises:
        RpcError: it is no JSON (PARSE_ERROR), or no request, notification or response (INVALID_REQUEST).
    """
    try:
        if not data.isascii():
            data.decode()
        found = _decoder.decode(data)
    except msgspec.ValidationError as error:
        raise RpcError(INVALID_REQUEST, f"this is no JSON-RPC message: {error}") from None
    except _BAD_JSON as error:
        raise RpcError(PARSE_ERROR, f"this is no JSON: {error}") from None
    if found.method is not UNSET:
        params = EMPTY if found.params is UNSET else bytes(found.params)
        if params[:1] != b"{" or found.id is None or found.result is not UNSET or found.error is not UNSET:
            raise RpcError(INVALID_REQUEST, "a request has a method, params that are an object, and an id of its own")
        return Notification(found.method, params) if found.id is UNSET else Request(found.id, found.method, params)
    if found.result is not UNSET and found.error is UNSET and isinstance(found.id, int | str):
        return Result(found.id, bytes(found.result))
    if found.error is not UNSET and found.result is UNSET and found.id is not UNSET:
        return Failure(found.id, bytes(found.error))
    raise RpcError(INVALID_REQUEST, "a response has an id and either a result or an error")


def encode(value: Any) -> Json:
    """A plain value as JSON."""
    return _encode(value)


def decode(raw: Json) -> Any:
    """The plain value; RpcError (INVALID_PARAMS) if it is no JSON."""
    try:
        return msgspec.json.decode(raw)
    except _BAD_JSON as error:
        raise RpcError(INVALID_PARAMS, f"this is no JSON: {error}") from None


def fields(raw: Json) -> dict[str, Json]:
    """The fields of an object, each still as JSON; RpcError (INVALID_PARAMS) if it is none."""
    try:
        return {name: bytes(value) for name, value in _object_decoder.decode(raw).items()}
    except _BAD_JSON as error:
        raise RpcError(INVALID_PARAMS, f"an object was expected: {error}") from None


def items(raw: Json) -> list[Json]:
    """The items of an array, each still as JSON; RpcError (INVALID_PARAMS) if it is none."""
    try:
        return [bytes(item) for item in _list_decoder.decode(raw)]
    except _BAD_JSON as error:
        raise RpcError(INVALID_PARAMS, f"an array was expected: {error}") from None


def join(found: Mapping[str, Json]) -> Json:
    """What `fields` took apart."""
    return _encode({name: Raw(value) for name, value in found.items()})


def join_items(found: Iterable[Json]) -> Json:
    """What `items` took apart."""
    return b"[" + b",".join(found) + b"]"


def text(found: Mapping[str, Json], name: str) -> str:
    """A field that must be a text; RpcError (INVALID_PARAMS) otherwise."""
    try:
        return msgspec.json.decode(found[name], type=str)
    except (KeyError, *_BAD_JSON):
        raise RpcError(INVALID_PARAMS, f"{name} must be a string") from None
