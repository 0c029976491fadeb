"""Blocking until objects are ready; and seeing when they never can be."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from skate.engines.inline.groups import why_never_ready
from skate.engines.inline.records import FAILED, PENDING, Call, Row
from skate.engines.inline.session import Session
from skate.exceptions import ActorUnschedulableError, DeadlockError, TaskUnschedulableError


def until(session: Session, rows: Sequence[Row], count: int, timeout: float | None, stop_at_failure: bool) -> bool:
    """Wait until `count` rows are ready, or one failed; False when time is up.

    Raises TaskUnschedulableError, ActorUnschedulableError or DeadlockError instead of waiting for ever for what cannot
    become ready.
    """
    waiter = _Waiter(rows, count, stop_at_failure)
    if waiter.satisfied():
        return True
    for row in rows:
        drive(session, row)
        if waiter.satisfied():
            return True
    me = threading.get_ident()
    with session.lock:
        pending = [row for row in rows if row.state == PENDING]
        if waiter.satisfied():
            return True
        if timeout is None:
            check(session, pending, count - (len(rows) - len(pending)))
            session.blocked[me] = pending, count - (len(rows) - len(pending))
        waiter.watch(pending)
    try:
        return waiter.event.wait(timeout)
    finally:
        with session.lock:
            session.blocked.pop(me, None)
            waiter.unwatch(pending)


class _Waiter:
    def __init__(self, rows: Sequence[Row], count: int, stop_at_failure: bool) -> None:
        self._rows = rows
        self._count = count
        self._stop_at_failure = stop_at_failure
        self._missing = 0
        self._watchers: dict[int, _Watcher] = {}
        self.event = threading.Event()

    def satisfied(self) -> bool:
        ready = 0
        for row in self._rows:
            if row.state == FAILED and self._stop_at_failure:
                return True
            ready += row.state != PENDING
        return ready >= self._count

    def watch(self, pending: list[Row]) -> None:
        self._missing = self._count - (len(self._rows) - len(pending))
        for row in pending:
            watcher = self._watchers[id(row)] = _Watcher(self, row)
            row.watchers.append(watcher)

    def unwatch(self, pending: list[Row]) -> None:
        for row in pending:
            if row.watchers:
                row.watchers.remove(self._watchers[id(row)])

    def one_more(self, row: Row) -> None:
        self._missing -= 1
        if self._missing <= 0 or (self._stop_at_failure and row.state == FAILED):
            self.event.set()


class _Watcher:
    __slots__ = ("_row", "_waiter")

    def __init__(self, waiter: _Waiter, row: Row) -> None:
        self._waiter, self._row = waiter, row

    def __call__(self) -> None:
        self._waiter.one_more(self._row)


def drive(session: Session, row: Row) -> None:
    """Run what makes a row ready, where that waits for somebody to run it."""
    call = row.maker
    if call is None or row.state != PENDING:
        return
    stream = call.stream
    if stream is not None:
        if session.rows.get(call.key) is row:
            stream.to_end = True
            with session.lock:
                stream.notice()
        if stream.pulled and call.actor is None:
            stream.pull()
    if call.actor is not None:
        call.actor.dispatch()


# ------------------------------------------------------------------ what never ends


def check(session: Session, pending: Iterable[Row], needed: int) -> None:
    """Raise when fewer than `needed` of the rows can still become ready. With the lock held."""
    possible, reason = 0, None
    for row in pending:
        why = _Search(session).row(row)
        possible += why is None
        reason = reason or why
    if possible < needed and reason is not None:
        raise reason


class _Search:
    """Looks for a reason why something can never go on. What it cannot see (time, other programs) may always help."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.me = threading.get_ident()
        self.seen: set[int] = set()
        self.wanted = ""
        """What is waited for here."""

    def row(self, row: Row) -> Exception | None:
        """Why a row can never become ready."""
        if row.state != PENDING or id(row) in self.seen:
            return None
        if row.maker is None:
            return why_never_ready(self.session, row)
        self.seen.add(id(row))
        return self.call(row.maker)

    def call(self, call: Call) -> Exception | None:
        """Why a call can never end."""
        self.wanted = self.wanted or call.label
        if call.ended:
            return RuntimeError(f"The result of {call.label} was lost: a signal interrupted the engine at that moment.")
        if call.impossible:
            error = ActorUnschedulableError if call.actor is not None else TaskUnschedulableError
            return error(call.impossible)
        if call.missing:
            return self._any(call)
        if call.stream is not None and call.stream.thread:
            return self.threads([call.stream.thread])
        if call.thread:
            return self.threads([call.thread])
        return self._queued(call)

    def _any(self, call: Call) -> Exception | None:
        """Why a dependency can never become ready."""
        for key in call.packed.dependencies:
            row = self.session.rows.get(key)
            why = self.row(row) if row is not None else None
            if why is not None:
                return why
        return None

    def _queued(self, call: Call) -> Exception | None:
        actor = call.actor
        if actor is None:
            return None
        if actor.creation is not call and not actor.creation.ended:
            return self.call(actor.creation)
        for earlier in actor.mailbox:
            if earlier is call:
                break
            if earlier.missing and earlier.parent is call.parent:
                return self._any(earlier)
        if actor.lane is not None:
            return self.threads(actor.lane.hosts(call))
        return self.threads([actor.thread] if actor.thread else [])

    def threads(self, threads: list[int]) -> Exception | None:
        """Why none of the threads, one of which has to go on, ever will."""
        why = None
        for thread in threads:
            why = self._thread(thread)
            if why is None:
                return None
        return why

    def _thread(self, thread: int) -> Exception | None:
        if thread == self.me:
            return DeadlockError(
                f"This wait would never end: {self.wanted} can only run when the code that waits for it here has "
                "ended. In an async method, await the reference instead of calling get; otherwise wait for it in the "
                "caller."
            )
        pending, needed = self.session.blocked.get(thread, ((), 0))
        reasons = [self.row(row) for row in pending]
        possible = reasons.count(None)
        return next(why for why in reasons if why is not None) if possible < needed else None
