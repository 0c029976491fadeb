"""Small helpers for cases; they run in the driver."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Tally:
    """Counts events of any process, by the size of a file; it travels with a remote function."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "a"):
            pass

    def add(self) -> None:
        """One event more."""
        with open(self.path, "a") as file:
            file.write("x")

    def count(self) -> int:
        """How many there were."""
        return os.path.getsize(self.path)


def eventually(check: Callable[[], object], timeout: float = 60) -> bool:
    """Whether `check` becomes true within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def stands_still(tally: Tally, seconds: float = 0.3) -> bool:
    """Whether nothing is counted for so long."""
    before = tally.count()
    time.sleep(seconds)
    return tally.count() == before


def until_no_error(call: Callable[[], T], error: type[BaseException], timeout: float = 60) -> T:
    """The value of `call`, tried again while it raises `error` (an actor on its way back)."""
    end = time.monotonic() + timeout
    while True:
        try:
            return call()
        except error:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def raised(call: Callable[[], object]) -> BaseException | None:
    """The exception that `call` raises."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 the caller judges every kind
        return error
    return None
