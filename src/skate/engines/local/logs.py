"""What workers print, brought to the driver's terminal with its origin, no line lost."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from typing import TextIO

READ_SIZE = 65_536
LONGEST = 1 << 20
"""Bytes of a line without end after which it is shown in parts."""


class LogPipe:
    """One worker's stdout or stderr."""

    __slots__ = ("_rest", "fd", "keep", "plain", "quiet", "sink", "tail", "to_stderr")

    def __init__(
        self, fd: int, tail: deque[str], to_stderr: bool, quiet: bool, keep: Callable[[bytes], None] | None = None
    ) -> None:
        self.fd = fd
        self.tail = tail
        self.to_stderr = to_stderr
        self.quiet = quiet
        self.keep = keep
        """Takes all of it as it comes, for a file."""
        self.plain = False
        """Whether lines are shown without their origin: they tell it themselves."""
        self._rest = b""
        self.sink: Callable[[str, bool], bool] | None = None
        """Takes the lines, if it is not this process that shows them; False when it cannot any more."""

    def read(self, origin: str) -> bool:
        """Pass on what there is; False at the end of the stream."""
        try:
            data = os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            return True
        self._take(data, origin)
        return bool(data)

    def drain(self, origin: str) -> None:
        """Pass on everything that a dead worker has left."""
        data = b"more"
        while data:
            try:
                data = os.read(self.fd, READ_SIZE)
            except BlockingIOError:
                data = b""  # a process that the worker started still holds the pipe
            self._take(data, origin)

    def _take(self, data: bytes, origin: str) -> None:
        if data and self.keep is not None:
            self.keep(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._rest and (not data or len(self._rest) > LONGEST):
            lines.append(self._rest)
            self._rest = b""
        self._show(lines, origin)

    def _show(self, lines: list[bytes], origin: str) -> None:
        if not lines:
            return
        texts = [line.decode("utf-8", "backslashreplace").rstrip("\r") for line in lines]
        self.tail.extend(texts)
        if self.quiet:
            return
        before = "" if self.plain else f"({origin}) "
        shown = "".join(f"{before}{text}\n" for text in texts)
        if self.sink is not None and self.sink(shown, self.to_stderr):
            return
        stream: TextIO | None = sys.stderr if self.to_stderr else sys.stdout
        if stream is None:
            return
        try:
            try:
                stream.write(shown)
            except UnicodeEncodeError as error:
                stream.write(shown.encode(error.encoding, "backslashreplace").decode(error.encoding))
            stream.flush()
        except (OSError, ValueError, AttributeError):
            self.quiet = True  # closed, full, or no real stream: nobody reads any more, and the program goes on
