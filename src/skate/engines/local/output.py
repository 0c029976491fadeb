"""A worker's stdout and stderr: sent line by line, and at the end of each call what is left of a line."""

from __future__ import annotations

import io


class Output(io.TextIOWrapper):
    """A text stream over a descriptor."""

    def __init__(self, fd: int) -> None:
        super().__init__(
            io.BufferedWriter(io.FileIO(fd, "wb", closefd=False)),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        self.loose = False
        """Something was written after the last end of a line."""

    def write(self, text: str) -> int:
        """As any text stream."""
        written = super().write(text)
        self.loose = not text.endswith("\n")
        return written

    def settle(self) -> None:
        """Send what is left of a line: whoever ends this process may not ask first."""
        if self.loose and not self.closed:
            self.loose = False
            self.flush()
