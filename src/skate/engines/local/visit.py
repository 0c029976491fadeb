"""A few questions to a session, without becoming its driver: no shared memory, no threads, nothing left open."""

from __future__ import annotations

import itertools
import os
import socket
from types import TracebackType
from typing import Any

from skate._version import __version__
from skate.engines.local.attached import introduce
from skate.engines.local.dial import ANSWER_WITHIN, call
from skate.engines.local.door import python_version
from skate.engines.local.link import BrokenFrame, Frames, framed
from skate.engines.local.messages import Answer, Ask, Attach, decode_any, encode_any, to_worker
from skate.engines.local.outcomes import raise_outcome


class Visit:
    """A connection that asks one thing after the other, as a context manager."""

    def __init__(self, address: str) -> None:
        self.connection = call(address)
        asked = Attach(__version__, python_version(), "", "", [], "", False, "", driver=False)
        try:
            accepted, arena = introduce(self.connection, asked)
        except BaseException:
            self.connection.close()
            raise
        os.close(arena)
        self.folder = accepted.welcome.session_folder
        self.name = accepted.name
        self.requests = itertools.count(1)
        self.frames = Frames(to_worker.decode)

    def ask(self, verb: str, *arguments: Any) -> Any:
        """What the hub answers. Raises the hub's error, and ConnectionError when it does not answer."""
        request = next(self.requests)
        try:
            self.connection.sendall(b"".join(framed([Ask(request, verb, encode_any(arguments))])))
            while True:
                for message in self._receive():
                    if isinstance(message, Answer) and message.request == request:
                        return self._open(message)
        except TimeoutError:
            raise ConnectionError(f"The session does not answer: it was silent for {ANSWER_WITHIN:g} s.") from None
        except BrokenFrame as problem:
            raise ConnectionError(f"The session sent what is no message: {problem}") from None

    def _receive(self) -> list[Any]:
        data = self.connection.recv(65_536)
        if not data:
            raise ConnectionError("The session ended while it was asked.")
        return self.frames.feed(data)

    def _open(self, answer: Answer) -> Any:
        if answer.failed:
            raise_outcome(answer.data)
        return decode_any(answer.data)

    def __enter__(self) -> Visit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
