"""What an item of a list must be like, so that clients can read the list that it is in. Pure.

Clients check a list as a whole: one item that is wrong would hide all others, those of other servers too.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

import msgspec

from skate.serve.mcp import messages
from skate.serve.mcp.messages import INVALID_PARAMS, Json, RpcError

_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Object = dict[str, msgspec.Raw]


class Schema(msgspec.Struct):
    """The outside of a JSON Schema of an object."""

    type: Literal["object"]
    schema: str | msgspec.UnsetType = msgspec.field(name="$schema", default=msgspec.UNSET)
    properties: dict[str, _Object | bool] | msgspec.UnsetType = msgspec.UNSET
    required: list[str] | msgspec.UnsetType = msgspec.UNSET


class Icon(msgspec.Struct, rename="camel"):
    src: str
    mime_type: str | msgspec.UnsetType = msgspec.UNSET
    sizes: list[str] | msgspec.UnsetType = msgspec.UNSET
    theme: Literal["dark", "light"] | msgspec.UnsetType = msgspec.UNSET


class Argument(msgspec.Struct):
    name: str
    title: str | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType = msgspec.UNSET
    required: bool | msgspec.UnsetType = msgspec.UNSET


class Hints(msgspec.Struct, rename="camel"):
    title: str | msgspec.UnsetType = msgspec.UNSET
    destructive_hint: bool | msgspec.UnsetType = msgspec.UNSET
    idempotent_hint: bool | msgspec.UnsetType = msgspec.UNSET
    open_world_hint: bool | msgspec.UnsetType = msgspec.UNSET
    read_only_hint: bool | msgspec.UnsetType = msgspec.UNSET


class Annotations(msgspec.Struct, rename="camel"):
    audience: list[Literal["user", "assistant"]] | msgspec.UnsetType = msgspec.UNSET
    priority: Annotated[float, msgspec.Meta(ge=0, le=1)] | msgspec.UnsetType = msgspec.UNSET
    last_modified: str | msgspec.UnsetType = msgspec.UNSET


class Execution(msgspec.Struct, rename="camel"):
    task_support: Literal["forbidden", "optional", "required"] | msgspec.UnsetType = msgspec.UNSET


_COMMON: dict[str, Any] = {"title": str, "description": str, "icons": list[Icon], "_meta": _Object}
_READABLE = {**_COMMON, "mimeType": str, "annotations": Annotations}
_REQUIRED: dict[str, dict[str, Any]] = {
    "tools": {"name": _Name, "inputSchema": Schema},
    "prompts": {"name": _Name},
    "resources": {"uri": _Name, "name": str},
    "resourceTemplates": {"uriTemplate": _Name, "name": str},
}
_OPTIONAL: dict[str, dict[str, Any]] = {
    "tools": {**_COMMON, "outputSchema": Schema, "annotations": Hints, "execution": Execution},
    "prompts": {**_COMMON, "arguments": list[Argument]},
    "resources": {**_READABLE, "size": float},
    "resourceTemplates": _READABLE,
}


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def checked(field: str, item: Json) -> tuple[dict[str, Json], list[str]]:
    """The fields of an item that clients can read, and the names of those that they could not.

    Args:
        field: where the list is in a result: "tools", "prompts", "resources", "resourceTemplates".
        item: the item.

    Raises:
        RpcError: a field that an item must have is missing or wrong.
    """
    found = messages.fields(item)
    for name, kind in _REQUIRED[field].items():
        if name not in found:
            raise RpcError(INVALID_PARAMS, f"one of its {field} has no {name}: {item[:200].decode(errors='replace')}")
        if (wrong := _wrong(found[name], kind)) is not None:
            raise RpcError(INVALID_PARAMS, f"the {name} of one of its {field} is wrong ({wrong}): {_called(found)}")
    dropped = [name for name, kind in _OPTIONAL[field].items() if name in found and _wrong(found[name], kind)]
    for name in dropped:
        del found[name]
    return found, dropped


def _wrong(value: Json, kind: Any) -> str | None:
    try:
        _decoder(kind).decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return str(error) or type(error).__name__
    return None


def _called(found: dict[str, Json]) -> str:
    name = next((found[key] for key in ("name", "uri", "uriTemplate") if key in found), b"")
    return name[:200].decode(errors="replace")
