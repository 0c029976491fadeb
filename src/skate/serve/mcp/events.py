"""Server-sent events, as Streamable HTTP carries messages in them. Pure."""

from __future__ import annotations

PING = b": ping\n\n"


class EventTooLarge(ValueError):
    """An event is longer than the reader keeps."""


def event(message: bytes, name: bytes = b"") -> bytes:
    """One message, which has no line breaks, as an event; with an id, if it has one."""
    if name:
        return b"id: %b\nevent: message\ndata: %b\n\n" % (name, message)
    return b"event: message\ndata: " + message + b"\n\n"


class EventReader:
    """Puts events together from chunks of a stream.

    Lines may end in LF or CRLF. Only what `message` events carry is given; comments and events without data are left
    out.

    Args:
        limit: bytes that one event may have.

    Attributes:
        last_id: the id of the last event that had one: from there on a stream can be resumed.
        retry: seconds to wait before that, if the server has said so.
    """

    def __init__(self, limit: int = 64 << 20) -> None:
        self.limit = limit
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._name = b""
        self._id = b""
        self.last_id = b""
        self.retry: float | None = None

    def renew(self) -> None:
        """Another connection goes on where the last one broke off."""
        self._rest, self._data, self._size, self._name, self._id = bytearray(), [], 0, b"", self.last_id

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that this chunk completes.

        Raises:
            EventTooLarge: an event has more than `limit` bytes.
        """
        first, *others = chunk.split(b"\n")
        self._rest += first
        self._check(len(self._rest))
        if not others:
            return []  # a long line comes in many chunks
        lines = [bytes(self._rest), *others]
        self._rest = bytearray(lines.pop())
        done = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data and self._name in (b"", b"message") and (data := b"\n".join(self._data)):
                    done.append(data)
                self._data, self._size, self._name = [], 0, b""
                self.last_id = self._id
                continue
            self._size += len(line)
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                self._data.append(value)
            elif field == b"event":
                self._name = value
            elif field == b"id" and b"\0" not in value and len(value) <= 1024:
                self._id = value
            elif field == b"retry" and value.isdigit() and len(value) < 10:
                self.retry = int(value) / 1000
            self._check(0)
        self._check(len(self._rest))
        return done

    def _check(self, more: int) -> None:
        if self._size + more > self.limit:
            raise EventTooLarge(f"an event has more than {self.limit} bytes")
