"""Workers' gets: answered at once, when what they wait for is ready, or told that it never will be."""

from __future__ import annotations

from functools import partial

from skate.engines.local import deadlock, errors, guard
from skate.engines.local.hub import Hub
from skate.engines.local.link import PORTION
from skate.engines.local.messages import Answer, Get, Outcome, Stored, Values
from skate.engines.local.rows import FAILED, PENDING, READY, Row, Worker
from skate.engines.local.timers import Timer

LOOK_AFTER = 0.05
"""Seconds after which a wait is looked at that may have become one without end."""


class Question:
    """A worker's `Get` that could not be answered at once."""

    __slots__ = ("answered", "hub", "message", "missing", "rows", "suspect", "timer", "worker")

    def __init__(self, hub: Questions, worker: Worker, message: Get, rows: list[Row], missing: int) -> None:
        self.hub = hub
        self.worker = worker
        self.message = message
        self.rows = rows
        self.missing = missing
        self.answered = False
        self.timer: Timer | None = None
        self.suspect = False
        """It will be looked at: it may have become one that nothing can answer."""

    def one_ready(self, row: Row) -> None:
        """One of the objects is ready."""
        self.missing -= 1
        if self.missing <= 0 or (row.state == FAILED and self.message.values):
            self.answer()
        elif self.message.blocks and self.message.timeout is None:
            self.hub.look_later(self)

    def answer(self) -> None:
        """Enough are ready, or time is up."""
        if self.close() and self.worker.client in self.hub.workers:  # views shown to the dead would count for ever
            self.hub.answer_get(self.worker, self.message)

    def close(self) -> bool:
        """Wait for nothing any more; False when that is so already."""
        if self.answered:
            return False
        self.answered = True
        if self.timer is not None:
            self.hub.timers.cancel(self.timer)
        for row in self.rows:
            if not row.state and row.waiters is not None:
                row.waiters = [waiter for waiter in row.waiters if waiter != self.one_ready] or None
        if self.message.blocks:
            self.worker.questions.discard(self)
            self.hub.scheduler.unblock(self.worker)
        return True


class Questions(Hub):
    """The hub, with what its workers wait for."""

    def get(self, worker: Worker, message: Get) -> None:
        """A worker asks for values, or whether they are there: it is answered now, or when they are."""
        message = guard.question(message)
        rows = self.rows
        waiting = []
        failed = False
        for key in message.keys:
            row = rows.get(key)
            if row is None or row.state == FAILED:
                failed = True
            elif row.state == PENDING:
                waiting.append(row)
        missing = message.count - (len(message.keys) - len(waiting))
        if missing <= 0 or (failed and message.values) or (message.timeout is not None and message.timeout <= 0):
            self.answer_get(worker, message)
            return
        if message.timeout is None:
            hopeless = self.hopeless(waiting, missing)
            if hopeless is not None:
                self._refuse(worker, message, hopeless[1])
                self.give_up(*hopeless)
                return
        question = Question(self, worker, message, waiting, missing)
        for row in waiting:
            self.when_ready(row, question.one_ready)
        if message.timeout is not None:
            question.timer = self.timers.at(self.timers.clock() + message.timeout, question.answer)
        if message.blocks:
            worker.questions.add(question)
            self.block(worker)
            if message.timeout is None and deadlock.possible(self, worker):
                self._look(question, deadlock.AT_ONCE)

    def _look(self, question: Question, most: int) -> None:
        """Tell a worker whose wait would never end."""
        if question.answered:
            return
        worker = question.worker
        hopeless = self.hopeless(question.rows, question.missing)
        if hopeless is not None:
            if question.close():
                self._refuse(worker, question.message, hopeless[1])
            self.give_up(*hopeless)
            return
        try:
            found = deadlock.never(self, worker, most)
        except deadlock.Unfinished:
            self.look_later(question)
            return
        if found is not None and question.close():
            more = ", or allow more with max_workers" if deadlock.for_room(found.path) else ""
            why = errors.deadlock(deadlock.in_words(self, found.path), worker.is_async, more)
            self._refuse(worker, question.message, why)

    def look_later(self, question: Question) -> None:
        """Something changed for a worker that waits: look before long, and once for all that happens until then."""
        if not question.suspect:
            question.suspect = True
            self.timers.at(self.timers.clock() + LOOK_AFTER, partial(self._look_now, question))

    def _look_now(self, question: Question) -> None:
        question.suspect = False
        self._look(question, 0)

    def doubt(self) -> None:
        """Something can never run: whoever waits already may wait for that."""
        self.failures += 1  # the driver's threads look for themselves
        for worker in self.workers.values():
            for question in worker.questions:
                if question.message.timeout is None:
                    self.look_later(question)

    def _refuse(self, worker: Worker, message: Get, why: bytes) -> None:
        worker.link.send(Answer(message.request, why, True))
        self.urgent.append(worker)

    def answer_get(self, worker: Worker, message: Get) -> None:
        """Send the state of what a worker asked for."""
        outcomes = []
        shown: list[int] = []
        lost = False
        left = PORTION
        for key in message.keys:
            row = self.rows.get(key)
            if row is None:
                outcomes.append(Outcome(FAILED, self.lost(key)))
                continue
            value = row.value if message.values and (left > 0 or row.state != READY) else None
            if type(value) is Stored:
                value = self.read(key, row, worker.node.key)
                if type(value) is Stored:
                    self.hold_view(key)
                    shown.append(key)
                lost = lost or row.state == PENDING
            elif value is not None:
                left -= len(value)
            outcomes.append(Outcome(row.state) if value is None else Outcome(row.state, value))
        if lost:  # and being made again
            for key in shown:
                self.release_view(key)
            self.get(worker, message)
            return
        for key in shown:
            worker.shown[key] = worker.shown.get(key, 0) + 1
        worker.link.send(Values(message.request, outcomes))
        self.urgent.append(worker)
