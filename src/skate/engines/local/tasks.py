"""Tasks: their ends, and what follows from them. The part of the hub that knows results."""

from __future__ import annotations

from typing import Any

from skate.engines.local import errors
from skate.engines.local.boot import PAGE
from skate.engines.local.dispatch import Dispatch
from skate.engines.local.guard import Nonsense, not_its_call, result
from skate.engines.local.history import Record
from skate.engines.local.messages import Done, DoneMany, Failed, Grant, Stored, TaskSpec
from skate.engines.local.rows import FAILED, READY, Row, Worker

LARGEST_GRANT = 4 << 20


class Tasks(Dispatch):
    """Tasks, to their results."""

    def done(self, worker: Worker, message: Done) -> None:
        """A call with one return ended well."""
        row = worker.running.get(message.task)
        spec = row.spec if row is not None else None
        if spec is None or spec.returns != 1 or type(message.value) is Stored:
            result(self, worker, message, spec)
        row = worker.running.pop(message.task)
        worker.progress += 1
        if worker.questions:
            self._close_questions(worker)
        if spec is None:  # ended before, by a cancel
            self.discard(message.value)
            self.lingered(worker, message.task)
        else:
            actor = worker.actor
            if actor is None:
                self.scheduler.measured(spec.function, message.took)
                if type(message.value) is Stored:
                    self.remember(row, spec, [message.value], row.options.max_retries)
            elif not spec.method:
                self.constructed(worker, row, spec, message)
                return
            elif type(message.value) is Stored:
                self.remember(row, spec, [message.value], self.call_retries(actor, row))
            self.finish(row, READY, message.value, message.refs, message)
            if actor is not None:
                self.call_ended(actor)
        if type(message.value) is Stored and message.value.size <= LARGEST_GRANT:
            self._grant(worker, message.value.size)
        if worker.actor is None:
            self.refill(worker)

    def finish(
        self,
        row: Row,
        state: int,
        value: Any,
        refs: tuple[int, ...] = (),
        message: Done | DoneMany | Failed | None = None,
        died: Worker | None = None,
    ) -> None:
        """A call has ended: fill its return, or fail all of them.

        `message` is what its worker sent of its end, `died` the worker with which it ended.
        """
        spec = row.spec
        if spec is None:
            return
        worker = row.worker
        if state == FAILED:
            self.history.failed(row, spec, value, message, worker or died)
        elif message is not None and worker is not None:
            history, name, took = self.history, spec.function or spec.method, message.took
            card, made = worker.card, row.made
            if message.at is not None:
                history.ended = message.at
            history.add(Record(spec.task, name, row.options, card, row.parent, row.attempt, made, history.ended, took))
        if row.parent:
            self._forget_child(row.parent, spec.task)
        row.spec = row.options = row.worker = row.owner = None
        plain = spec.returns == 1 and state == READY and type(value) is bytes and not refs
        if plain and row.waiters is None and row.count > 0 and not row.state:  # the common case, in line
            row.value = value
            row.state = READY
        else:
            self._fill_returns(spec, state, value, refs, worker)
        if spec.deps or spec.refs or type(spec.args) is Stored:
            self.unpin(spec)

    def _fill_returns(
        self, spec: TaskSpec, state: int, value: Any, refs: tuple[int, ...], worker: Worker | None
    ) -> None:
        task = spec.task
        if spec.returns == -1:
            self.stream_ended(task, state, value, worker)
        self.fill(task, state, value, refs)
        if spec.returns > 1 and state == FAILED:
            self.fill_all(range(task + 1, task + spec.returns), FAILED, value)
        if task in self.remaking:
            self.ended_again(task)

    def _forget_child(self, parent: int, task: int) -> None:
        siblings = self.children.get(parent)
        if siblings is not None:
            siblings.discard(task)
            if not siblings:
                del self.children[parent]

    def done_many(self, worker: Worker, message: DoneMany) -> None:
        """A call with no return, several, or a stream ended well."""
        row = worker.running.pop(message.task, None)
        if worker.questions:
            self._close_questions(worker)
        spec = row.spec if row is not None else None
        if row is None or spec is None:
            for value in message.values:
                self.discard(value)
            self.lingered(worker, message.task)
        else:
            if worker.actor is None:
                self.scheduler.measured(spec.function, message.took)
            if spec.returns > 1:
                retries = row.options.max_retries if worker.actor is None else self.call_retries(worker.actor, row)
                self.remember(row, spec, message.values, retries)
            for i in range(1, len(message.values)):
                self.fill(spec.task + i, READY, message.values[i], message.refs[i])
            first, refs = (message.values[0], message.refs[0]) if message.values else (errors.NONE, ())
            self.finish(row, READY, first, refs, message)
            if worker.actor is not None:
                self.call_ended(worker.actor)
        self.refill(worker)

    def failed(self, worker: Worker, message: Failed) -> None:
        """A call raised."""
        row = worker.running.pop(message.task, None)
        if row is None:
            raise not_its_call(message.task)
        if worker.questions:
            self._close_questions(worker)
        spec = row.spec
        if spec is None:
            self.lingered(worker, message.task)
            self.refill(worker)
            return
        if spec.actor:
            self.call_failed(worker, row, spec, message)
        else:
            self.scheduler.measured(spec.function, message.took)
            if message.retry and self._may_retry(row):
                self._again(row, spec, message.error, message, worker)
            else:
                self.raised(row, spec, message)
        self.refill(worker)

    def _may_retry(self, row: Row) -> bool:
        limit: int = row.options.max_retries
        return limit < 0 or row.attempt - self.pardoned(row) < limit

    def pardoned(self, row: Row) -> int:
        """Attempts that ended for want of memory, through no fault of the task."""
        return row.shortage.pardoned if row.shortage is not None else 0

    def _again(self, row: Row, spec: TaskSpec, error: bytes, message: Failed | None, worker: Worker) -> None:
        if row.cancelled:  # it failed at the moment of its cancel
            self.finish(row, FAILED, errors.cancelled(spec.task, self.label(row)))
            return
        self.history.failed(row, spec, error, message, worker)
        self.rewind(spec.task, row.worker)
        row.attempt += 1
        row.worker = None
        self.enqueue(row)

    def _close_questions(self, worker: Worker) -> None:
        """A call ended that still waited for something: a cancel tore it out of its wait."""
        if worker.actor is None:
            for question in list(worker.questions):
                question.close()

    def lingered(self, worker: Worker, task: int) -> None:
        """A call that was given up has ended after all, or was never begun."""
        spec = worker.lingering.pop(task, None)
        if spec is not None:
            self.unpin(spec)

    def own_block(self, worker: Worker, value: Any) -> None:
        """A block that the worker was granted, or a file that it wrote, has become a value's."""
        if type(value) is not Stored:
            return
        if worker.node is not self.scheduler.head:
            self.scheduler.copies[value.key] = {worker.node.key}
        if value.offset < 0:
            if worker.aside.get(value.key) != value.size:
                raise Nonsense(f"sent {value.size:,} bytes in a file that it was not to write")
            del worker.aside[value.key]
            self.ports.spilled(value.key, ~value.offset)
            return
        for place, (offset, size) in enumerate(worker.granted):  # nearly always the first
            if offset == value.offset and -(-size // PAGE) == -(-value.size // PAGE):
                del worker.granted[place]
                return
        raise Nonsense(f"sent {value.size:,} bytes at {value.offset} of shared memory, which it was not granted")

    def _grant(self, worker: Worker, size: int) -> None:
        """A worker that made a large result will likely make another: give it the block ahead."""
        if any(length == size for _, length in worker.granted):
            return
        offset = self.arena.allocate(size)
        if offset is not None:
            worker.granted.append((offset, size))
            worker.link.send(Grant(offset, size))
