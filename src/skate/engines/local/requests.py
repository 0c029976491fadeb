"""What workers send: their messages turned into events of the hub, and their questions answered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

import msgspec

from skate.core import ids
from skate.core.nodes import NodeSpec
from skate.engines.local import deadlock, errors, guard, sites
from skate.engines.local.hub import Hub
from skate.engines.local.link import PORTION
from skate.engines.local.messages import (
    Answer,
    Ask,
    Back,
    Call,
    CloseStream,
    Done,
    DoneMany,
    Export,
    Failed,
    Get,
    Hello,
    Hold,
    Item,
    Leaving,
    Next,
    Outcome,
    Put,
    Release,
    Seen,
    Site,
    Stored,
    Submit,
    TaskSpec,
    Unused,
    Values,
    decode_any,
    decode_await,
    decode_reserve,
    decode_spawn,
    encode_any,
    encoder,
)
from skate.engines.local.rows import FAILED, PENDING, READY, Row, Worker
from skate.engines.local.timers import Timer
from skate.exceptions import PendingCallsLimitExceeded

LOOK_AFTER = 0.05
"""Seconds after which a wait is looked at that may have become one without end."""


class Question:
    """A worker's `Get` that could not be answered at once."""

    __slots__ = ("answered", "hub", "message", "missing", "rows", "suspect", "timer", "worker")

    def __init__(self, hub: Requests, worker: Worker, message: Get, rows: list[Row], missing: int) -> None:
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


class Requests(Hub):
    """The hub, with ears."""

    def receive(self, worker: Worker, messages: list[Any]) -> None:
        """Act on a worker's messages, in order."""
        if not worker.up and messages and type(messages[0]) is not Hello:
            self.expel(worker, "sent something before it said hello")
        if worker.outlaw:
            return
        try:
            for message in messages:
                if type(message) is Done:
                    self.done(worker, message)
                else:
                    _HANDLERS[type(message)](self, worker, message)
        except guard.Nonsense as problem:
            self.expel(worker, str(problem))

    def _hello(self, worker: Worker, message: Hello) -> None:
        if worker.up:
            raise guard.Nonsense("said hello twice")
        if message.problem:
            worker.leaving = (message.problem, True)
            self.without_environment(worker.environment, message.problem)
            return
        self.arrived(worker, message.pid)

    def _submit(self, worker: Worker, message: Submit) -> None:
        options = message.options
        spec = guard.task(self, worker, message.spec, options)
        if worker.job is not None:
            options = worker.job.same(options)
        self.history.clock = monotonic()
        self.submit(spec, options, worker, message.parent if message.parent in worker.running else 0)

    def _call(self, worker: Worker, message: Call) -> None:
        spec = guard.method(self, worker, message.spec, message.options)
        self.history.clock = monotonic()
        try:
            self.call(spec, message.options, worker, message.parent if message.parent in worker.running else 0)
        except PendingCallsLimitExceeded as error:
            # The worker has gone on: the error waits where the result would be.
            self._forget_lost(spec)
            for key in range(spec.task, spec.task + max(1, spec.returns)):
                self.rows[key] = Row(FAILED, 1, errors.packed(error))
                worker.held.add(key)

    def _export(self, worker: Worker, message: Export) -> None:
        if message.function not in self.definitions:
            guard.definition(message)
            self.definitions[message.function] = message
        if worker.job is not None:
            worker.job.exports.add(message.function)

    def _put(self, worker: Worker, message: Put) -> None:
        guard.new_keys(self, worker, message.key)
        guard.stored(self, worker, message.value, message.key)
        self.put(message.key, message.value, message.refs, worker)

    def _done_many(self, worker: Worker, message: DoneMany) -> None:
        guard.results(self, worker, message)
        self.done_many(worker, message)

    def _item(self, worker: Worker, message: Item) -> None:
        guard.item(self, worker, message)
        self.made(worker, message)

    def _unused(self, worker: Worker, message: Unused) -> None:
        granted = dict(worker.granted)
        for offset in message.offsets:
            size = granted.pop(offset, 0)
            if not size:
                raise guard.Nonsense(f"gave back a block at {offset} that it was not granted")
            worker.granted.remove((offset, size))
            self.arena.free(offset, size)

    def _hold(self, worker: Worker, message: Hold) -> None:
        for key in message.keys:
            if key not in worker.held and (key if key >= 0 else ~key) in self.rows:
                worker.held.add(key)
                self.hold(key)

    def _release(self, worker: Worker, message: Release) -> None:
        for key in message.keys:
            if key in worker.held:
                worker.held.discard(key)
                self.release(key)

    def _seen(self, worker: Worker, message: Seen) -> None:
        for key in message.keys:
            count = worker.shown.pop(key, 0)
            if count > 1:
                worker.shown[key] = count - 1
            if count:
                self.release_view(key)

    def _site(self, worker: Worker, message: Site) -> None:
        if len(message.keys) > guard.MOST_RETURNS or len(message.text) > sites.LONGEST:
            raise guard.Nonsense("told too much of where it made objects")
        sites.note(self, [key for key in message.keys if key >> ids.CLIENT_SHIFT == worker.client], message.text)

    def _back(self, worker: Worker, message: Back) -> None:
        for task in message.tasks:
            row = worker.running.get(task)
            if row is None:
                raise guard.not_its_call(task)
            if row.actor is not None:
                raise guard.Nonsense("gave back the constructor of the actor that it hosts")
        self.given_back(worker, message.tasks)

    def _leaving(self, worker: Worker, message: Leaving) -> None:
        worker.leaving = (message.reason, message.final)
        self.scheduler.gone(worker)
        actor = worker.actor
        if actor is not None and message.final and not actor.dead:
            cause = errors.actor_died(actor, errors.actor_death(actor, worker, message.reason))
            self.bury(actor, cause)
        self.decide()

    def _next(self, worker: Worker, message: Next) -> None:
        guard.new_keys(self, worker, message.key)
        self.promise(message.stream, message.key, worker)
        self.read_on(message.stream)

    def _close_stream(self, worker: Worker, message: CloseStream) -> None:
        self.abandon_stream(message.stream)

    # ---------------------------------------------------------------------- gets

    def _get(self, worker: Worker, message: Get) -> None:
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
            self._get(worker, message)
            return
        for key in shown:
            worker.shown[key] = worker.shown.get(key, 0) + 1
        worker.link.send(Values(message.request, outcomes))
        self.urgent.append(worker)

    # ----------------------------------------------------------------- questions

    def _ask(self, worker: Worker, message: Ask) -> None:
        try:
            data = _VERBS[message.verb](self, worker, message.data)
            failed = False
        except guard.Nonsense:
            raise
        except Exception as error:  # noqa: BLE001  it is the asker's
            data, failed = errors.packed(error), True
        worker.link.send(Answer(message.request, data, failed))
        self.urgent.append(worker)

    def _ask_spawn(self, worker: Worker, data: bytes) -> bytes:
        request = decode_spawn(data)
        spec = guard.spawn(self, worker, request)
        try:
            return encoder.encode(self.spawn(spec, request.info, self._namespace(worker), worker))
        finally:
            self._forget_lost(spec)

    def _forget_lost(self, spec: TaskSpec) -> None:
        """The call was not made: nobody will ask for the errors of its unknown inputs."""
        for key in spec.deps:
            row = self.rows.get(key)
            if row is not None and row.count <= 0 and row.spec is None:
                self._drop(key, row)

    def _ask_find(self, worker: Worker, data: bytes) -> bytes:
        name, namespace = decode_any(data)
        return encoder.encode(self.find(name, namespace or self._namespace(worker)))

    def _namespace(self, worker: Worker) -> str:
        return worker.job.namespace if worker.job is not None else self.settings.namespace

    def _ask_allocate(self, worker: Worker, data: bytes) -> bytes:
        key, size = guard.room(worker, *decode_any(data))
        offset = self.allocate(key, size)
        if offset >= 0:
            worker.granted.append((offset, size))
        else:
            worker.aside[key] = size
        return encode_any(offset)

    def _ask_lose(self, worker: Worker, data: bytes) -> bytes:
        (key,) = decode_any(data)
        row = self.rows.get(key)
        if row is not None and type(row.value) is Stored and row.value.offset < 0:  # or it is back, and not lost
            self.lose(key)
        return encode_any(None)

    def _ask_spill_folder(self, worker: Worker, data: bytes) -> bytes:
        return encode_any(self.ports.spill_folder())

    def _ask_cancel(self, worker: Worker, data: bytes) -> bytes:
        self.cancel(*decode_any(data))
        return encode_any(None)

    def _ask_kill(self, worker: Worker, data: bytes) -> bytes:
        self.kill(*decode_any(data))
        return encode_any(None)

    def _ask_state(self, worker: Worker, data: bytes) -> bytes:
        (kind,) = decode_any(data)
        return encode_any(self.state(kind))

    def _ask_reserve(self, worker: Worker, data: bytes) -> bytes:
        key, spec = decode_reserve(data)
        guard.group(self, worker, key, spec)
        self.reserve(key, spec, worker)
        return encode_any(None)

    def _ask_unreserve(self, worker: Worker, data: bytes) -> bytes:
        self.unreserve(*decode_any(data))
        return encode_any(None)

    def _ask_await_group(self, worker: Worker, data: bytes) -> bytes:
        promise, group, value = decode_await(data)
        guard.new_keys(self, worker, promise)
        self.await_group(promise, group, value, worker)
        return encode_any(None)

    def _ask_find_group(self, worker: Worker, data: bytes) -> bytes:
        return encode_any(self.find_group(*decode_any(data)))

    def _ask_group(self, worker: Worker, data: bytes) -> bytes:
        return encode_any(self.group_row(*decode_any(data)))

    def _ask_job(self, worker: Worker, data: bytes) -> bytes:
        submitted = self.ports.jobs.submitted
        if submitted is None:
            raise RuntimeError("This session lives in a driver and takes no jobs: start a hub with `skate start`.")
        return encode_any(submitted.ask(*decode_any(data)))

    def _ask_add_node(self, worker: Worker, data: bytes) -> bytes:
        self._check_owner(worker)
        (spec,) = decode_any(data)
        return encode_any(self.ports.add_node(msgspec.convert(spec, NodeSpec)).hex)

    def _ask_remove_node(self, worker: Worker, data: bytes) -> bytes:
        self._check_owner(worker)
        (wanted,) = decode_any(data)
        key = next((known.key for known in self.scheduler.nodes.values() if known.hex == wanted), 0)
        if not key:
            raise ValueError(f"There is no node of the id {wanted!r} to remove.")
        self.remove_node(key)
        return encode_any(None)

    def _ask_node_has_workers(self, worker: Worker, data: bytes) -> bytes:
        (wanted,) = decode_any(data)
        return encode_any(any(other.node.hex == wanted for other in self.workers.values()))

    def _check_owner(self, worker: Worker) -> None:
        if not self.settings.apart or worker.job is None or worker.job.peer is not worker:
            raise RuntimeError("Nodes are added and removed by the program whose session it is.")

    def _ask_resources(self, worker: Worker, data: bytes) -> bytes:
        return encode_any(self.resources())


_HANDLERS: dict[type, Callable[[Requests, Worker, Any], None]] = {
    Hello: Requests._hello,
    Unused: Requests._unused,
    Submit: Requests._submit,
    Call: Requests._call,
    Export: Requests._export,
    Put: Requests._put,
    Done: Requests.done,
    DoneMany: Requests._done_many,
    Failed: Requests.failed,
    Item: Requests._item,
    Hold: Requests._hold,
    Release: Requests._release,
    Seen: Requests._seen,
    Site: Requests._site,
    Back: Requests._back,
    Leaving: Requests._leaving,
    Next: Requests._next,
    CloseStream: Requests._close_stream,
    Get: Requests._get,
    Ask: Requests._ask,
}
_VERBS: dict[str, Callable[[Requests, Worker, bytes], bytes]] = {
    "spawn": Requests._ask_spawn,
    "find": Requests._ask_find,
    "allocate": Requests._ask_allocate,
    "lose": Requests._ask_lose,
    "spill_folder": Requests._ask_spill_folder,
    "cancel": Requests._ask_cancel,
    "kill": Requests._ask_kill,
    "state": Requests._ask_state,
    "resources": Requests._ask_resources,
    "reserve": Requests._ask_reserve,
    "unreserve": Requests._ask_unreserve,
    "await_group": Requests._ask_await_group,
    "find_group": Requests._ask_find_group,
    "group": Requests._ask_group,
    "job": Requests._ask_job,
    "add_node": Requests._ask_add_node,
    "remove_node": Requests._ask_remove_node,
    "node_has_workers": Requests._ask_node_has_workers,
}
