"""Server-sent events: how streams are written."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from skate.plugin.encoding import encode

_FIELDS = ("event:", "data:", "id:", "retry:", ":")


class StreamEventType(StrEnum):
    """Kinds of events that clients can tell apart."""

    MESSAGE_CHUNK = "message_chunk"
    FINISH = "finish"
    ERROR = "error"
    DEBUG = "debug"


def make_stream_event(event_type: StreamEventType | str, data: Any = None) -> str:
    """An event as it is sent.

    Args:
        event_type: its kind.
        data: a string, which is sent as ``{"content": data}``; a dictionary or Pydantic model; or None: ``{}``.
    """
    value = {} if data is None else {"content": data} if isinstance(data, str) else data
    return f"event: {_one_line(str(event_type))}\ndata: {_spaced(value)}\n\n"


def frame(item: Any) -> bytes:
    """An item of a stream as an event; one that is an event already as it is."""
    if isinstance(item, bytes):
        item = item.decode(errors="replace")
    if isinstance(item, str):
        if item.endswith("\n\n") and item.startswith(_FIELDS):
            return item.encode(errors="replace")
        text = item
    else:
        text = encode(item).decode()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return ("".join(f"data: {line}\n" for line in lines) + "\n").encode(errors="replace")


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def _spaced(value: Any) -> str:
    import json

    return json.dumps(json.loads(encode(value)), ensure_ascii=False)
