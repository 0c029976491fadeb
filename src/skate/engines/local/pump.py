"""The driver's I/O: one epoll over all workers' pipes, pumped by whichever thread waits.

A thread that waits in `get` leads (`turns.py`) and does the I/O itself. A background thread steps in only when no
thread has led for a moment: it hands out work and takes in results while the user's code computes, and sleeps in epoll
when nothing moves.
"""

from __future__ import annotations

import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from skate.engines.local.interrupts import Interrupts
from skate.engines.local.link import Link
from skate.engines.local.turns import Turns

if TYPE_CHECKING:
    import asyncio

GRACE = 0.003
"""Seconds without a waiting user thread after which the background thread steps in."""


class Pump:
    """Event loop without a thread of its own.

    `before` runs with the lock held ahead of each sleep and returns the longest allowed sleep in seconds (None: any);
    `after` runs with the lock held when events were handled.
    """

    def __init__(self, lock: threading.Lock, before: Callable[[], float | None], after: Callable[[], None]) -> None:
        self.lock = lock
        self.before = before
        self.after = after
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int], object]] = {}
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(self.bell, lambda _: self._quiet())
        self.dirty: list[Link] = []
        """Links with messages to flush."""
        self.calls: deque[Callable[[], None]] = deque()
        """What to call without the lock, once events were handled."""
        self.loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        """Event loops that pump while they wait."""
        self.turns = Turns(self.work, self.nudge)
        self.interrupts = Interrupts()
        self.closed = False
        self.asleep = False
        """The background thread sleeps in epoll."""
        self.thread = threading.Thread(target=self._background, name="skate-pump", daemon=True)

    def watch(self, fd: int, handler: Callable[[int], object]) -> None:
        """Have `handler` called with the events of a descriptor."""
        self.handlers[fd] = handler
        self.epoll.register(fd, select.EPOLLIN)

    def resume_later(self, link: Link) -> None:
        """Go on writing to a link once its full pipe takes more."""
        fd = link.write_fd
        if fd not in self.handlers:
            self.handlers[fd] = partial(self._resume, link)
            self.epoll.register(fd, select.EPOLLOUT)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; harmless when it was not watched."""
        if self.handlers.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def join_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have a running event loop pump while it waits."""
        if loop not in self.loops:
            self.loops.add(loop)
            loop.add_reader(self.epoll.fileno(), self.poll)

    def leave_loops(self) -> None:
        """No event loop pumps any more."""
        if not self.loops:
            return
        import asyncio

        descriptor = self.epoll.fileno()
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for loop in self.loops:
            if loop.is_closed():
                continue
            if loop.is_running() and loop is not here:
                loop.call_soon_threadsafe(loop.remove_reader, descriptor)
            else:
                loop.remove_reader(descriptor)

    def flush(self) -> None:
        """Write out all links; `lock` is held."""
        dirty = self.dirty
        if not dirty:
            return
        links = list(dirty)
        dirty.clear()
        for link in links:
            if not link.flush():
                self.resume_later(link)

    def _resume(self, link: Link, _: int) -> None:
        self.unwatch(link.write_fd)
        if not link.flush():
            self.resume_later(link)

    def work(self, timeout: float | None) -> None:
        """Flush, sleep until something happens or `timeout` seconds have passed, and handle it."""
        with self.lock:
            limit = self.before()
        if limit is not None and (timeout is None or limit < timeout):
            timeout = limit
        events = self.epoll.poll(timeout)
        with self.lock:
            handlers = self.handlers
            for fd, event in events:
                handler = handlers.get(fd)
                if handler is not None:
                    handler(event)
            self.after()
        if self.calls:
            self._call_back()
        if self.interrupts.waiting_since is not None:
            self.interrupts.deliver()

    def _call_back(self) -> None:
        while self.calls:
            self.calls.popleft()()

    def poll(self) -> None:
        """Handle what is there, without waiting, unless another thread is at it."""
        turns = self.turns
        if turns.lead.acquire(False):
            turns.taken += 1
            try:
                self.work(0)
                if turns.followers:
                    turns.notify()
            finally:
                turns.lead.release()
                turns.pass_on()

    def nudge(self) -> None:
        """Wake the background thread if it sleeps in epoll, and have it rest before it sleeps there again."""
        if self.asleep:
            self.asleep = False  # once is enough
            self.turns.taken += 1
            os.eventfd_write(self.bell, 1)

    def _background(self) -> None:
        seen, pause = -1, GRACE
        turns = self.turns
        while not self.closed:
            if turns.taken != seen or not turns.lead.acquire(False):
                pause = GRACE if turns.taken != seen else min(pause * 1.5, 0.05)
                seen = turns.taken
                time.sleep(pause)
                continue
            pause = GRACE
            try:
                if not self.closed:
                    self.asleep = True
                    try:
                        self.work(None)
                    finally:
                        self.asleep = False
                    if turns.followers:
                        turns.notify()
            finally:
                turns.lead.release()
                turns.pass_on()

    def _quiet(self) -> None:
        try:
            os.eventfd_read(self.bell)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Stop the background thread and close what is ours."""
        self.closed = True
        os.eventfd_write(self.bell, 1)
        if self.thread.is_alive() and self.thread is not threading.current_thread():
            self.thread.join()
        # A thread that waits in `get` has been woken too; it leaves before the epoll goes.
        self.turns.lead.acquire(timeout=5)
        self.interrupts.close()
        self.epoll.close()
        os.close(self.bell)
