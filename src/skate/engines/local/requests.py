"""What workers send: their messages turned into events of the hub."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from skate.core import ids
from skate.engines.local import errors, guard, sites
from skate.engines.local.actors import USUAL
from skate.engines.local.asks import Asks
from skate.engines.local.messages import (
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
    Put,
    Release,
    Seen,
    Site,
    Submit,
    Unused,
)
from skate.engines.local.rows import FAILED, Row, Worker
from skate.exceptions import PendingCallsLimitExceeded


class Requests(Asks):
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
        options = message.options
        spec = guard.method(self, worker, message.spec, options)
        if options == USUAL:
            options = USUAL  # the one object for all, which records keep
        self.history.clock = monotonic()
        try:
            self.call(spec, options, worker, message.parent if message.parent in worker.running else 0)
        except PendingCallsLimitExceeded as error:
            # The worker has gone on: the error waits where the result would be.
            self.forget_lost(spec)
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
    Get: Requests.get,
    Ask: Requests.ask,
}
