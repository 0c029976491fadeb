"""Who reads: of the threads of a process that wait for something to arrive, one reads for all.

The leader does the I/O itself, so that a lone thread that waits pays no switch to another thread. The others follow:
each sleeps until what it waits for has come, or until it is its turn to lead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class _Follower:
    __slots__ = ("_bell", "wants")

    def __init__(self, wants: Callable[[], object]) -> None:
        self.wants = wants
        self._bell = threading.Lock()
        self._bell.acquire()

    def wake(self) -> None:
        if self._bell.locked():
            try:
                self._bell.release()
            except RuntimeError:
                return  # another thread was quicker

    def sleep(self, timeout: float | None) -> bool:
        return self._bell.acquire(timeout=-1 if timeout is None else max(0.0, timeout))


class Turns:
    """Leader and followers around one source of events.

    `work` waits up to a timeout in seconds (None: for ever) for events and handles them. `nudge` makes a leader that is
    no follower itself (a background thread) give up the lead soon.
    """

    def __init__(self, work: Callable[[float | None], None], nudge: Callable[[], None]) -> None:
        self.lead = threading.Lock()
        self.work = work
        self.nudge = nudge
        self.followers: list[_Follower] = []
        self.taken = 0
        """How often a waiting thread has taken the lead."""

    def until(self, arrived: Callable[[], object], deadline: float | None = None) -> bool:
        """Return once `arrived` is true (True), or the monotonic clock is past `deadline` (False)."""
        while not arrived():
            if self.lead.acquire(False):
                self.taken += 1
                try:
                    return self._lead(arrived, deadline)
                finally:
                    self.lead.release()
                    self.pass_on()
            follower = _Follower(arrived)
            self.followers.append(follower)
            try:
                if arrived():
                    return True
                if not self.lead.locked():
                    continue
                self.nudge()
                timeout = None if deadline is None else deadline - time.monotonic()
                if not follower.sleep(timeout) and not arrived():
                    return False
            finally:
                self.followers.remove(follower)
                if not self.lead.locked():
                    self.pass_on()  # it may have been our turn
        return True

    def _lead(self, arrived: Callable[[], object], deadline: float | None) -> bool:
        work = self.work
        if deadline is None:
            while not arrived():
                work(None)
                if self.followers:
                    self.notify()
            return True
        while not arrived():
            left = deadline - time.monotonic()
            work(max(0.0, left))
            if self.followers:
                self.notify()
            if left <= 0:
                return bool(arrived())
        return True

    def notify(self) -> None:
        """Wake the followers that have what they want."""
        for follower in list(self.followers):
            if follower.wants():
                follower.wake()

    def pass_on(self) -> None:
        """The lead is free: somebody who waits shall take it."""
        for follower in list(self.followers):
            follower.wake()
            if not follower.wants():  # or it leaves, and its turn with it
                return
