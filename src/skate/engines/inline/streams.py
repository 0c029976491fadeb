"""Streams: the items of a generator between its maker and its reader."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from skate.core.serialization import pack
from skate.engines.inline.records import NOTHING, Call, Outcome, success
from skate.engines.inline.running import cancelled, failed, give_back, run
from skate.engines.inline.session import Session


class Stream:
    """A streaming call.

    A *pulled* one (of a task, or of an actor without threads) makes an item when one is asked for, in the thread of the
    reader. The others run ahead in a thread or an event loop, as far as their backpressure lets them.
    """

    def __init__(self, session: Session, call: Call, pulled: bool) -> None:
        self.session = session
        self.call = call
        self.pulled = pulled
        self.source: Iterator[Any] | None = None
        self.made: deque[int] = deque()
        """Keys of items that nobody asked for yet; each is counted once."""
        self.awaited: deque[int] = deque()
        """Keys asked for and not made yet."""
        self.count = 0
        """Items made."""
        self.read = 0
        """Items asked for."""
        self.ended = False
        self.to_end = False
        """Whether somebody waits for the end rather than for an item."""
        self.discarding = False
        """Nobody will read on, but somebody waits for the end."""
        self.thread = 0
        """The thread that makes items; 0 when none does."""
        self.room = threading.Condition(session.lock)
        self.on_room: Callable[[], None] | None = None
        self._skip = 0
        session.streams[call.key] = self

    # ------------------------------------------------------------------ reading

    def next_key(self) -> int:
        """The key of the next item, counted once; it may be there, yet to be made, or past the end."""
        with self.session.lock:
            self.read += 1
            self.notice()
            if self.made:
                return self.made.popleft()
            key = self.session.take_ids()
            self.session.new_row(key, None if self.ended else self.call)
            if self.ended:
                self.session.end_row(key)
            else:
                self.awaited.append(key)
            return key

    def wants(self) -> bool:
        """Whether a pulled stream has something to do."""
        return not self.ended and not self.call.missing and (self.to_end or bool(self.awaited))

    def has_room(self) -> bool:
        """Whether one that runs ahead may make another item."""
        limit: int = getattr(self.call.options, "backpressure", 0)
        return self.ended or self.to_end or self.discarding or limit <= 0 or self.count - self.read < limit

    def notice(self) -> None:
        """Tell a maker that waits for room to look again."""
        self.room.notify_all()
        if self.on_room is not None:
            self.on_room()

    # ------------------------------------------------------------------- making

    def pull(self) -> None:
        """Make what is asked for, here and now."""
        with self.session.lock:
            if self.thread:
                return  # that thread goes on until nothing is asked for
            self.thread = threading.get_ident()
        try:
            while True:
                with self.session.lock:
                    if not self.wants():
                        self.thread = 0
                        break
                self.step()
        finally:
            if self.thread == threading.get_ident():
                self.thread = 0
        self._close_if_ended()

    def push_all(self) -> None:
        """Make every item, in this thread, waiting for room."""
        self.thread = threading.get_ident()
        try:
            while not self.ended:
                self.step()
                with self.room:
                    self.room.wait_for(self.has_room)
        finally:
            self.thread = 0
        self._close_if_ended()

    def step(self) -> None:
        """Make one item, or start, or end."""
        if self.source is None:
            run(self.session, self.call)
            return
        try:
            with self.session.machine.inside(self.call):
                packed = pack(next(self.source))
            self.session.check_room(packed)
        except StopIteration:
            self.finish()
        except BaseException as error:  # noqa: BLE001  whatever user code raises is its caller's
            self.source = None
            if failed(self.session, self.call, error):
                self.start_again()
        else:
            self.push(success(packed))

    def start_again(self) -> None:
        """Another attempt: what was delivered is not delivered twice."""
        self.call.attempt += 1
        self._skip = self.count
        self.count = 0

    def push(self, outcome: Outcome) -> None:
        """Deliver an item."""
        with self.session.lock:
            self.count += 1
            if self._skip:
                self._skip -= 1
                return
            if self.ended:
                return
            if not self.awaited:
                if not self.discarding:
                    key = self.session.take_ids()
                    self.session.new_row(key, self.call)
                    self.session.fill(key, outcome)
                    self.made.append(key)
                return
            watchers = self.session.fill(self.awaited.popleft(), outcome)
        for watcher in watchers:
            watcher()

    def finish(self) -> None:
        """The generator is exhausted."""
        self._end()
        self.session.settle(self.call, [NOTHING])

    def fail(self, outcome: Outcome) -> None:
        """Deliver an error as the last item. (The call itself is ended by `Session.fail`.)"""
        self._skip = 0
        if not self.ended:
            self.push(outcome)
            self._end()

    def _end(self) -> None:
        watchers = []
        with self.session.lock:
            self.ended = True
            while self.awaited:
                watchers += self.session.end_row(self.awaited.popleft())
            self.notice()
        for watcher in watchers:
            watcher()
        give_back(self.session, self.call)
        if self.thread != threading.get_ident():
            self._close_if_ended()

    # ---------------------------------------------------------------------- end

    def discard(self) -> None:
        """The reader is gone: what is made from now on is dropped."""
        self.discarding = True
        while self.made:
            self.session.drop(self.made.popleft())
        self.notice()

    def unreferenced(self) -> None:
        """Neither a reader nor a reference to the end is left: stop."""
        with self.session.lock:
            self.session.streams.pop(self.call.key, None)
            self.discard()
        if not self.ended:
            self.session.fail(self.call, cancelled(self.call, "because its generator was dropped"))

    def _close_if_ended(self) -> None:
        """Run the generator's `finally` blocks, unless a thread is in it: then that one does it."""
        with self.session.lock:
            if not self.ended or self.thread or self.source is None:
                return
            source, self.source = self.source, None
        close = getattr(source, "close", None)
        if close is None:
            return
        try:
            with self.session.machine.inside(self.call):
                close()
        except Exception:  # nobody waits for it any more: the log is where it can be seen
            logging.getLogger("skate").warning("Closing the generator of %s failed", self.call.label, exc_info=True)
