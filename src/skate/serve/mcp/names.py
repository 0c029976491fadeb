"""Names behind a gateway: `server__tool`, `server+scheme:...`. Pure functions on JSON that is mostly left alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from skate.serve.mcp import messages
from skate.serve.mcp.messages import INVALID_PARAMS, Json, RpcError

SEPARATOR = "__"
_SERVER = re.compile(r"[A-Za-z](?:[A-Za-z0-9-]|_(?!_))*(?<!_)")
_URI_FIELDS = (b'"uri"', b'"uriTemplate"')


def check_server_name(name: str) -> None:
    """ValueError unless the name can be told apart from what follows it in `name__tool`."""
    if not _SERVER.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be the name of a server: a letter, then letters, digits, '-' and single '_', "
            "with no '_' at the end"
        )


class Kind(NamedTuple):
    """One of the four lists of a server."""

    method: str
    field: str
    """Where the list is in the result."""
    key: str
    """What names an item."""
    capability: str
    """The capability that tells of it; a change is told by `notifications/<capability>/list_changed`."""


TOOLS = Kind("tools/list", "tools", "name", "tools")
KINDS = {
    kind.method: kind
    for kind in (
        TOOLS,
        Kind("prompts/list", "prompts", "name", "prompts"),
        Kind("resources/list", "resources", "uri", "resources"),
        Kind("resources/templates/list", "resourceTemplates", "uriTemplate", "resources"),
    )
}
CHANGES = {f"notifications/{name}/list_changed": name for name in ("tools", "prompts", "resources")}


class Names:
    """How the names of one server are shown; without a prefix (None) they are left as they are."""

    def __init__(self, server: str | None) -> None:
        if server is not None:
            check_server_name(server)
        self.server = server
        self.name_prefix = "" if server is None else server + SEPARATOR
        # a scheme has no "_" in it, RFC 3986
        self.uri_prefix = "" if server is None else server.replace("_", ".") + "+"

    def outer(self, name: str) -> str:
        """The name of a tool or a prompt as clients see it."""
        return self.name_prefix + name

    def outer_uri(self, uri: str) -> str:
        """The address of a resource as clients see it."""
        return self.uri_prefix + uri

    def shown(self, kind: Kind, found: dict[str, Json]) -> tuple[str, Json]:
        """An item of a list, of which these are the fields, under its outer name; and its inner name."""
        name = messages.text(found, kind.key)
        if self.server is not None:
            found[kind.key] = messages.encode(self.outer(name) if kind.key == "name" else self.outer_uri(name))
        return name, messages.join(found)

    def with_outer_uris(self, raw: Json) -> Json:
        """A result, or the parameters of a notification, with the resources in it named as clients know them.

        That is `uri` at the top, in `contents` (resources/read), and in the resources that `content` (tools/call) and
        `messages` (prompts/get) link to or hold.
        """
        if self.server is None or not any(word in raw for word in _URI_FIELDS):
            return raw
        return _renamed(raw, self.outer_uri)


def split(name: str) -> tuple[str, str]:
    """The server and the inner name of `server__tool`; RpcError for a name without a server."""
    server, _, inner = name.partition(SEPARATOR)
    if not inner:
        raise RpcError(INVALID_PARAMS, f"Unknown name {name!r}: names here are server{SEPARATOR}name")
    return server, inner


def split_uri(uri: str) -> tuple[str, str]:
    """The prefix of the server (see `Names.uri_prefix`) and the inner address; RpcError without one."""
    server, _, inner = uri.partition("+")
    if not inner or ":" in server:
        raise RpcError(INVALID_PARAMS, f"Unknown resource {uri!r}: addresses here are server+scheme:...")
    return server + "+", inner


def _renamed(raw: Json, rename: Callable[[str], str]) -> Json:
    """`uri` in an object, and in the objects that MCP nests in it, renamed; the rest as it came."""
    try:
        found = messages.fields(raw)
    except RpcError:
        return raw
    for key, value in found.items():
        if key == "uri" and value[:1] == b'"':
            found[key] = messages.encode(rename(messages.text(found, "uri")))
        elif key in ("contents", "content", "messages") and value[:1] == b"[":
            found[key] = messages.join_items(_renamed(item, rename) for item in messages.items(value))
        elif key in ("resource", "content") and value[:1] == b"{":
            found[key] = _renamed(value, rename)
    return messages.join(found)
