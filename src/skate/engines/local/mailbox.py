"""A worker's link to the hub, and what it must tell the hub of references.

References are counted here by key. The hub learns of a key that came inside a value only when the worker still has it
at the end of the call that brought it (`Hold`), and of its loss (`Release`); a reference or an array that came and went
within one call costs no message. `Hold` goes ahead of the call's result, `Release` after it.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec

from skate.core import refs
from skate.core.serialization import unpack
from skate.engines.local.client import Client
from skate.engines.local.link import BlockingLink
from skate.engines.local.messages import (
    Answer,
    Ask,
    Back,
    Cancel,
    CloseStream,
    Feed,
    Grant,
    Hold,
    Outcome,
    Release,
    Resume,
    Seen,
    Stored,
    TaskSpec,
    Unused,
    Values,
    Welcome,
    Yield,
    decode_any,
    encode_any,
)
from skate.engines.local.rows import FAILED
from skate.engines.local.turns import Turns

if TYPE_CHECKING:
    pass


class Running(msgspec.Struct, frozen=True, gc=False):
    """The call that the current code belongs to."""

    task: int = 0
    function: str = ""
    """Of a method call, the method."""
    options: Any = None
    attempt: int = 0
    gpus: tuple[int, ...] = ()


IDLE = Running()
running: ContextVar[Running | TaskSpec | None] = ContextVar("skate_running", default=None)
"""The call of a concurrent actor; of one without special options its spec says all."""


class Mailbox(Client):
    """Reads and writes the link, keeps the inbox, counts references."""

    def __init__(self, link: BlockingLink, welcome: Welcome) -> None:
        super().__init__(welcome.client)
        self.link = link
        self.welcome = welcome
        self.stamped: list[Any] = []
        """The frame that tells already when its first call ended."""
        self.turns = Turns(self._read, lambda: None)
        self.inbox: deque[Any] = deque()
        self.on_inbox: Callable[[], None] | None = None
        """Called by a reading thread when calls have arrived (async actors)."""
        self.requests = itertools.count(1)
        self.replies: dict[int, Values | Answer] = {}
        self.abandoned: set[int] = set()
        """Questions whose asker was interrupted."""
        self.callbacks: dict[int, Callable[[Values], None]] = {}
        self.counts: dict[int, int] = {}
        self.fresh: set[int] = set()
        """Keys with references here that the hub does not know of."""
        self.finding = 0
        """Questions under way whose answer may be an actor that is known here: no reference is given up meanwhile."""
        self.seen: deque[int] = deque()
        """Keys of stored values that came for a `get`, once for each time, and have been read."""
        self.cancelled: set[int] = set()
        self.on_cancel: Callable[[int], None] | None = None
        self.on_resume: Callable[[int], None] | None = None
        self.allowed: dict[int, int] = {}
        """How far a stream may run ahead, by task."""
        self.grants: list[tuple[int, int]] = []
        self.main = threading.get_ident()
        self.interruptible = False
        """The main thread is inside a task's own code, where a cancel may raise."""
        self.current: Running = IDLE
        """The call of the main thread, for threads that the user starts."""
        self.reading = False
        """The main thread or another is reading the link: a signal has nothing to add."""
        self.writing = 0
        self.may_block = True
        """The main thread is all there is: when it waits, the worker does nothing else."""

    # --------------------------------------------------------------------- link

    def flush(self) -> None:
        """Send what is to be sent."""
        if refs.released or self.fresh or self.seen or refs.closed_streams:
            self.settle()
        if self.link.out:
            self.writing += 1
            try:
                with self.lock:
                    self.link.flush()
            finally:
                self.writing -= 1

    def settle(self) -> None:
        """Tell the hub which references came to stay, and which went."""
        with self.lock:
            holds, releases = self.changes()
            self._tell(holds)
            if releases:
                self.link.out.append(Release(releases))
            while refs.closed_streams:
                self.link.out.append(CloseStream(refs.closed_streams.popleft()))

    def changes(self) -> tuple[list[int], list[int]]:
        """Keys to hold and keys to release, with `lock` held."""
        counts, fresh, releases = self.counts, self.fresh, []
        released = refs.released
        while released and not self.finding:
            key = released.popleft()
            left = counts.get(key, 1) - 1
            if left > 0:
                counts[key] = left
                continue
            counts.pop(key, None)
            if key in fresh:
                fresh.discard(key)
            else:
                releases.append(key)
        holds = list(fresh)
        fresh.clear()
        return holds, releases

    def _tell(self, holds: list[int]) -> None:
        if holds:
            self.link.out.append(Hold(holds))
        if self.seen:
            self.link.out.append(Seen([self.seen.popleft() for _ in range(len(self.seen))]))

    def finished(self, message: Any) -> None:
        """Queue a call's result, between the references it leaves and those it dropped."""
        if not refs.released and not self.fresh and not self.seen:
            self.link.out.append(message)
            return
        with self.lock:
            holds, releases = self.changes()
            out = self.link.out
            self._tell(holds)
            out.append(message)
            if releases:
                out.append(Release(releases))

    def _read(self, timeout: float | None) -> None:
        """Wait for messages and handle them; the hub keeps the time, so `timeout` does not matter."""
        self.flush()
        self.reading = True
        try:
            messages = self.link.read()
        finally:
            self.reading = False
        self.dispatch(messages)

    def dispatch(self, messages: list[Any]) -> None:
        """Act on what cannot wait; leave calls in the inbox."""
        calls = False
        for message in messages:
            act = _AT_ONCE.get(type(message))
            if act is not None:
                act(self, message)
            else:
                self.inbox.append(message)
                calls = True
        if calls and self.on_inbox is not None:
            self.on_inbox()

    def _values(self, message: Values) -> None:
        if message.request in self.abandoned:
            self.abandoned.discard(message.request)
            self.seen.extend(outcome.value.key for outcome in message.outcomes if type(outcome.value) is Stored)
            return
        callback = self.callbacks.pop(message.request, None)
        if callback is not None:
            callback(message)
        else:
            self.replies[message.request] = message

    def _answer(self, message: Answer) -> None:
        if message.request in self.abandoned or message.request in self.callbacks:  # a get that would never end
            self._values(Values(message.request, [Outcome(FAILED, message.data)]))
        else:
            self.replies[message.request] = message

    def _cancelled(self, message: Cancel) -> None:
        self.cancelled.add(message.task)
        if self.on_cancel is not None:
            self.on_cancel(message.task)

    def _granted(self, message: Grant) -> None:
        self.grants.append((message.offset, message.size))
        if len(self.grants) > 8:  # results of many sizes: the oldest will hardly be asked for
            self.link.out.append(Unused([self.grants.pop(0)[0]]))

    def _resume(self, message: Resume) -> None:
        self.allowed[message.task] = message.upto
        if self.on_resume is not None:
            self.on_resume(message.task)

    def _give_back(self, _: Yield) -> None:
        """Return the calls not begun; what only sets the stage for calls stays in order."""
        back = [message.task for message in self.inbox if type(message) is TaskSpec]
        kept = [message for message in self.inbox if type(message) not in (TaskSpec, Feed)]
        self.inbox.clear()
        self.inbox.extend(kept)
        if back:
            self.link.out.append(Back(back))

    def until(self, arrived: Callable[[], object]) -> None:
        """Wait for something to arrive; a cancel of the waiting task interrupts it."""
        self.flush()  # whoever reads for this thread may have begun to already
        if self.interruptible and threading.get_ident() == self.main:
            task = self.current.task
            self.turns.until(lambda: arrived() or task in self.cancelled)
            if not arrived():
                self.heed_cancel()
        else:
            self.turns.until(arrived)

    def heed_cancel(self) -> None:
        """Interrupt the main thread's task if it was cancelled."""
        if self.interruptible and self.current.task in self.cancelled and threading.get_ident() == self.main:
            self.interruptible = False
            raise KeyboardInterrupt

    def ask(self, verb: str, *args: Any) -> Any:
        """A question to the hub; its error is raised here."""
        answer = decode_any(self._ask(verb, encode_any(args)))
        self.heed_cancel()
        return answer

    def _ask(self, verb: str, data: bytes) -> bytes:
        request = next(self.requests)
        with self.lock:
            self.link.out.append(Ask(request, verb, data))
        replies = self.replies
        self.flush()  # the thread that reads may be asleep in its read already, and would not
        # Not cancellable: the answer is quick, and what it hands over must not be lost.
        self.turns.until(lambda: request in replies)
        answer = replies.pop(request)
        assert isinstance(answer, Answer)
        if answer.failed:
            raise unpack(answer.data)
        return answer.data


_AT_ONCE: dict[type, Callable[[Any, Any], None]] = {
    Values: Mailbox._values,
    Answer: Mailbox._answer,
    Cancel: Mailbox._cancelled,
    Grant: Mailbox._granted,
    Yield: Mailbox._give_back,
    Resume: Mailbox._resume,
}
