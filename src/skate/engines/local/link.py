"""Frames over a pair of pipes: u32 length (little endian), then a msgpack array of messages.

`Link` is the hub's end: it never blocks; what a full pipe does not take waits in a buffer. `BlockingLink` is the
worker's end: the hub always reads, so a worker may wait until its pipe takes more.
"""

from __future__ import annotations

import errno
import os
import select
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from skate.engines.local.messages import encoder

READ_SIZE = 65_536
"""Larger reads make the kernel's copy slower, not faster."""
LARGEST_FRAME = 1 << 31
PORTION = 64 << 20
"""Bytes of small values that go in one message; more are sent in several, or laid down in shared memory."""
_LENGTH = struct.Struct("<I")


class BrokenFrame(Exception):
    """What arrived is no frame of ours."""


def framed(messages: list[Any]) -> list[memoryview]:
    """Messages as what is to be written: one frame, or more where one would be too large."""
    body = encoder.encode(messages)
    size = len(body)
    if size <= READ_SIZE:  # the common case: one piece, one write
        return [memoryview(_LENGTH.pack(size) + body)]
    if size + 4 <= LARGEST_FRAME:
        return [memoryview(_LENGTH.pack(size)), memoryview(body)]
    del body
    half = len(messages) // 2
    if not half:
        raise ValueError(f"one message of {size:,} bytes: none may have more than {LARGEST_FRAME - 4:,}")
    return framed(messages[:half]) + framed(messages[half:])


class Frames:
    """Cuts a stream of bytes into frames."""

    __slots__ = ("_decode", "_have", "_pieces", "_want")

    def __init__(self, decode: Callable[[Any], list[Any]]) -> None:
        self._decode = decode
        self._pieces: list[bytes] = []
        """The frame under way, joined once, when all of it is there."""
        self._have = 0
        self._want = 0
        """Its length with the head; 0 while that is not known."""

    def feed(self, data: bytes) -> list[Any]:
        """The messages of all frames that `data` completes."""
        if self._pieces:
            self._pieces.append(data)
            self._have += len(data)
            if self._have < max(4, self._want):
                return []
            data = b"".join(self._pieces)
            self._pieces = []
        size = len(data)
        if size >= 4:
            end = 4 + _LENGTH.unpack_from(data, 0)[0]
            if end == size:  # the common case: one whole frame
                return self._messages(memoryview(data)[4:])
        return self._cut(data, size)

    def _cut(self, data: bytes, size: int) -> list[Any]:
        messages: list[Any] = []
        start, end = 0, 0
        while size - start >= 4:
            end = start + 4 + _LENGTH.unpack_from(data, start)[0]
            if end - start > LARGEST_FRAME:
                raise BrokenFrame(f"a frame of {end - start} bytes")
            if end > size:
                break
            messages += self._messages(memoryview(data)[start + 4 : end])
            start = end
        if start < size:
            self._pieces = [data[start:] if start else data]
            self._have = size - start
            self._want = end - start if self._have >= 4 else 0
        return messages

    def _messages(self, body: memoryview) -> list[Any]:
        try:
            return self._decode(body)
        except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
            raise BrokenFrame(str(error)) from error

    def wanting(self) -> int:
        """How many bytes the frame under way still lacks at least; 0 when none is under way."""
        return max(4, self._want) - self._have if self._pieces else 0


class Link:
    """The hub's end of the pipes to one worker."""

    __slots__ = ("broken", "dirty", "frames", "out", "read_fd", "unsent", "write_fd")

    def __init__(self, read_fd: int, write_fd: int, decode: Callable[[Any], list[Any]], dirty: list[Link]) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self.out: list[Any] = []
        """Messages not yet framed."""
        self.unsent: deque[memoryview] = deque()
        """Frames, or the rest of one, that the pipe did not take."""
        self.frames = Frames(decode)
        self.dirty = dirty
        """The links that have something in `out`, shared by all links of a hub."""
        self.broken = False

    def send(self, message: Any) -> None:
        """Have a message sent with the next flush."""
        out = self.out
        if not out:
            self.dirty.append(self)
        out.append(message)

    def frame(self) -> None:
        """End a frame here."""
        if self.out:
            out, self.out = self.out, []
            self.unsent.extend(framed(out))

    def flush(self) -> bool:
        """Write what there is to write; False when the pipe is full and wants watching."""
        self.frame()
        unsent = self.unsent
        if self.broken:
            unsent.clear()
            return True
        while unsent:
            try:
                sent = os.write(self.write_fd, unsent[0])
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EBADF, errno.ECONNRESET):
                    raise
                self.broken = True  # the worker is gone; its death is reported on its own way
                unsent.clear()
                break
            if sent == len(unsent[0]):
                unsent.popleft()
            else:
                unsent[0] = unsent[0][sent:]
        return True

    def read(self) -> list[Any] | None:
        """The messages that one read completes; None at the end of the stream."""
        try:
            data = os.read(self.read_fd, READ_SIZE)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        return self.frames.feed(data)

    def close(self) -> None:
        """Close both pipes."""
        self.broken = True
        for fd in {self.read_fd, self.write_fd}:
            os.close(fd)


class BlockingLink:
    """The worker's end of its pipes. Callers see to it that one thread reads, and one writes, at a time."""

    __slots__ = ("frames", "out", "read_fd", "write_fd")

    def __init__(self, read_fd: int, write_fd: int, decode: Callable[[Any], list[Any]]) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self.frames = Frames(decode)
        self.out: list[Any] = []

    def flush(self) -> None:
        """Write everything in `out`; returns when the pipe has taken it."""
        if not self.out:
            return
        # Taken whole in one step, so that a message appended meanwhile goes with the next flush.
        out, self.out = self.out, []
        for data in framed(out):
            while data:
                try:
                    data = data[os.write(self.write_fd, data) :]
                except BlockingIOError:
                    _wait(self.write_fd, select.POLLOUT)

    def read(self) -> list[Any]:
        """The messages that one read completes, waiting for it; EOFError when the hub is gone."""
        while True:
            try:
                data = os.read(self.read_fd, max(READ_SIZE, min(self.frames.wanting(), 1 << 20)))
                break
            except BlockingIOError:
                _wait(self.read_fd, select.POLLIN)
        if not data:
            raise EOFError
        return self.frames.feed(data)


def _wait(fd: int, event: int) -> None:
    """Wait for a descriptor that somebody has made non-blocking, as uvloop does with those that it watches."""
    ready = select.poll()
    ready.register(fd, event)
    ready.poll()
