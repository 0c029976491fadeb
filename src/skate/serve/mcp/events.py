"""Server-sent events, as Streamable HTTP carries messages in them. Pure."""

from __future__ import annotations

PING = b": ping\n\n"


class EventTooLarge(ValueError):
    """An event is longer than the reader keeps."""


def event(message: bytes) -> bytes:
    """One message, which has no line breaks, as an event."""
    return b"event: message\ndata: " + message + b"\n\n"


class EventReader:
    """Puts events together from chunks of a stream.

    Lines may end in LF or CRLF. Only what `message` events carry is given; comments and events without data are left
    out.

    Args:
        limit: bytes that one event may have.
    """

    def __init__(self, limit: int = 64 << 20) -> None:
        self.limit = limit
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0
        self._name = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that this chunk completes.

        Raises:
            EventTooLarge: an event has more than `limit` bytes.
        """
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        done = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data and self._name in (b"", b"message") and (data := b"\n".join(self._data)):
                    done.append(data)
                self._data, self._size, self._name = [], 0, b""
                continue
            self._size += len(line)
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                self._data.append(value)
            elif field == b"event":
                self._name = value
            self._check(0)
        self._check(len(self._rest))
        return done

    def _check(self, more: int) -> None:
        if self._size + more > self.limit:
            raise EventTooLarge(f"an event has more than {self.limit} bytes")
