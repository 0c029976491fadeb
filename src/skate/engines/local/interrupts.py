"""Ctrl-C in a driver: never in the middle of a change of the hub's state.

Python runs the handler between any two instructions of the main thread. Where that thread is inside the hub, the
KeyboardInterrupt waits until it leaves; everywhere else, above all while it sleeps in `get`, it is raised at once. A
second Ctrl-C is raised wherever it meets the thread.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

_FOLDER = os.path.dirname(__file__)
_INSIDE = frozenset(
    os.path.join(_FOLDER, name)
    for name in (
        "actors.py",
        "arena.py",
        "host.py",
        "hub.py",
        "link.py",
        "pool.py",
        "requests.py",
        "scheduler.py",
        "table.py",
        "tasks.py",
        "timers.py",
    )
)


class Interrupts:
    """Stands in for Python's own SIGINT handler while a session lives, if nobody replaced that one."""

    def __init__(self) -> None:
        self.waiting = False
        self._ours = False
        if threading.current_thread() is threading.main_thread():
            self._ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> Any:
        if not self.waiting and _inside(frame):
            self.waiting = True
            return None
        self.waiting = False
        return signal.default_int_handler(number, frame)

    def deliver(self) -> None:
        """Raise what has waited; called where the main thread has left the hub."""
        if self.waiting and threading.current_thread() is threading.main_thread():
            self.waiting = False
            raise KeyboardInterrupt

    def close(self) -> None:
        """Put Python's handler back, if it is still ours that stands there."""
        if (
            self._ours
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) == self._handle
        ):
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _inside(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename in _INSIDE:
            return True
        frame = frame.f_back
    return False
