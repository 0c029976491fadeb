"""Ctrl-C in a driver: never in the middle of a change of the hub's state.

Python runs the handler between any two instructions of the main thread. Where that thread is inside the engine, the
KeyboardInterrupt waits until it has left, which is looked at every few milliseconds; everywhere else, above all while
it sleeps in `get`, it is raised at once. An engine that does not come out after a second's work, or five seconds in
which it may not have got to work, is interrupted all the same.
"""

from __future__ import annotations

import contextlib
import copyreg
import os
import pickle
import signal
import threading
import time
from types import FrameType
from typing import Any

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
_OURS = (
    _PACKAGE + "core" + os.sep,
    _PACKAGE + "dag" + os.sep,
    _PACKAGE + "engines" + os.sep,
    *(_PACKAGE + name for name in ("api.py", "actor.py", "actor_handle.py", "remote_function.py", "session.py")),
)
_HERE = os.path.dirname(__file__) + os.sep
_SLEEPERS = frozenset(
    {
        (_HERE + "turns.py", "sleep"),
        (_HERE + "turns.py", "_lead"),
        (_HERE + "pump.py", "work"),
        (os.path.join(_PACKAGE, "dag", "memory.py"), "sleep"),
    }
)
"""Where a thread waits: nothing is half done there."""
_WAIT = (_HERE + "debug_door.py", "_wait")
"""Where a worker waits at a breakpoint."""
_HELPERS = tuple(module.__file__ or "" for module in (threading, pickle, contextlib, copyreg))
"""What our code calls and what calls us back."""
AGAIN = 0.002
PATIENCE = 1.0
"""Seconds of the main thread's processor time: on a busy machine a thread is kept waiting, and is not to blame."""
LONGEST = 5.0
"""Seconds by the clock."""


class Interrupts:
    """Stands in for Python's own SIGINT handler while a session lives, if nobody replaced that one."""

    def __init__(self) -> None:
        self.waiting_since: float | None = None
        """When a Ctrl-C came that could not be raised yet."""
        self._worked = 0.0
        """The main thread's processor time at that moment."""
        self._ours = False
        if threading.current_thread() is threading.main_thread():
            self._ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> Any:
        if _inside(frame):
            now = time.monotonic()
            if self.waiting_since is None:
                self.waiting_since, self._worked = now, time.thread_time()
            if now - self.waiting_since < LONGEST and time.thread_time() - self._worked < PATIENCE:
                threading.Timer(AGAIN, self._again).start()
                return None
        self.waiting_since = None
        return signal.default_int_handler(number, frame)

    def _again(self) -> None:
        main = threading.main_thread().ident
        if self.waiting_since is not None and main is not None:
            signal.pthread_kill(main, signal.SIGINT)

    def deliver(self) -> None:
        """Raise what has waited; called where the main thread has left the hub."""
        if self.waiting_since is not None and threading.current_thread() is threading.main_thread():
            self.waiting_since = None
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
    """Whether the innermost code of ours on the stack is at work: it may hold a lock, or be about to."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_OURS):
            return (code.co_filename, code.co_name) not in _SLEEPERS
        frame = frame.f_back
    return False


def at_work(frame: FrameType | None) -> bool:
    """The same in a worker, where the user's code runs inside of ours: only the innermost frame counts."""
    while frame is not None and frame.f_code.co_filename.startswith(_HELPERS):
        frame = frame.f_back
    if frame is None or not frame.f_code.co_filename.startswith(_OURS):
        return False
    return (frame.f_code.co_filename, frame.f_code.co_name) != _WAIT
