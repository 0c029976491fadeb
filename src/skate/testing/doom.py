"""What a fault plan sends to a worker in place of a call: code that ends its process."""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

HOWS = ("SIGKILL", "SIGSEGV", "SIGABRT", "oom", "exit")
EXIT_CODE = 3


def number_of(how: str) -> int:
    """The signal that stands for a way to die; the kernel's out-of-memory killer sends SIGKILL."""
    return signal.SIGKILL if how == "oom" else signal.Signals[how]


def die(how: str) -> NoReturn:
    """End this process in one of the ways of `HOWS`."""
    if how == "exit":
        os._exit(EXIT_CODE)
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a rehearsal leaves no core files behind
    os.kill(os.getpid(), number_of(how))
    while True:
        time.sleep(1)  # on a thread other than the one that takes the signal


class Doom:
    """Stands in for a function or class; `end`: what it stands for runs first, and only its result is lost."""

    def __init__(self, how: str, end: bool, blob: bytes) -> None:
        self.how = how
        self.end = end
        self.blob = blob

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """End the process, before or after the call that this stands for."""
        if not self.end:
            die(self.how)
        value = pickle.loads(self.blob)(*args, **kwargs)
        if inspect.isgenerator(value):
            return self._after(value)
        if inspect.isasyncgen(value):
            return self._after_async(value)
        die(self.how)

    def _after(self, items: Iterator[Any]) -> Iterator[Any]:
        yield from items
        die(self.how)

    async def _after_async(self, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield item
        die(self.how)
