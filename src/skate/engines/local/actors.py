"""Actors: their beginnings, their names, the calls of their methods. The part of the hub that knows them."""

from __future__ import annotations

import signal
from collections import deque
from typing import TYPE_CHECKING, Any

from skate.core.actor_names import name_taken, no_such_actor
from skate.core.spec import ActorInfo, CallOptions
from skate.engines.local import errors
from skate.engines.local.actor_ends import ActorEnds
from skate.engines.local.link import PORTION
from skate.engines.local.messages import Calling, Failed, Feed, Host, Stored, TaskSpec
from skate.engines.local.rows import FAILED, METHOD, PENDING, READY, Actor, Row, Worker

if TYPE_CHECKING:
    from skate.engines.local.arena import Arena
    from skate.engines.local.messages import Done

USUAL = CallOptions()


class Actors(ActorEnds):
    """Calls reach an actor's worker in the order in which each caller made them."""

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.children: dict[int, set[int]] = {}
        """Calls under way that a call under way has made, for a cancel to find."""

    # ----------------------------------------------------------------- creation

    def spawn(self, spec: TaskSpec, info: ActorInfo, namespace: str, owner: Worker | None) -> ActorInfo:
        """A new actor, or the one of that name; ValueError when the name is taken."""
        options = info.options
        name = (options.namespace or namespace, options.name)
        if options.name and name in self.names:
            self.discard(spec.args)
            if not options.get_if_exists:
                raise name_taken(options.name, name[0])
            return self._one_more_handle(self.names[name], owner)
        actor = self.actors[info.actor] = Actor(info, spec, name[0])
        if options.name:
            self.names[name] = actor
        row = self.rows[info.actor] = Row(spec=spec, options=options, owner=owner, actor=actor, made=self.history.clock)
        if options.detached:
            row.count += 1
        if owner is not None:
            owner.held.add(info.actor)
            if owner.actor is not None and not options.detached:
                actor.maker = owner
                owner.spawned.add(actor)
        self.pin(row, spec, self._constructor_ready)
        if not row.missing:
            self._constructor_ready(row)
        return info

    def _one_more_handle(self, actor: Actor, owner: Worker | None) -> ActorInfo:
        if owner is None:
            self.hold(actor.key)
        elif actor.key not in owner.held:
            owner.held.add(actor.key)
            self.hold(actor.key)
        return actor.info

    def find(self, name: str, namespace: str) -> ActorInfo:
        """A named actor that lives; being found does not keep it alive."""
        actor = self.names.get((namespace, name))
        if actor is None:
            raise no_such_actor(name, namespace)
        return actor.info

    def _constructor_ready(self, row: Row) -> None:
        actor, spec = row.actor, row.spec
        assert actor is not None and spec is not None
        source = self.failed_input(spec)
        if source is not None:
            self.bury(actor, errors.constructor_failed(actor, source.value))
        elif not actor.dead:
            self.enqueue(row)

    def define(self, worker: Worker, function: bytes) -> None:
        """Send a definition that the worker does not know yet."""
        raise NotImplementedError

    def host(self, worker: Worker, row: Row, spec: TaskSpec, feed: Feed | None) -> None:
        """A worker is leased for an actor: construct it there, then send what waits."""
        actor = row.actor
        assert actor is not None
        worker.actor = actor
        actor.worker = worker
        worker.card.actor, worker.card.class_name = actor.key, actor.info.options.class_name
        if spec.function not in worker.known:
            self.define(worker, spec.function)
        worker.link.send(Host(actor.info, actor.restarts > 0, worker.gpus))
        if feed:
            self.feed(worker, feed.values)
        worker.link.send(spec)
        for owner in list(actor.queues):
            self.send_waiting(actor, owner)

    def feed(self, worker: Worker, values: list[Any]) -> None:
        """Send the values of a call's dependencies, in portions that a frame can hold."""
        link = worker.link
        start, left = 0, PORTION
        for number, value in enumerate(values):
            if type(value) is bytes:
                left -= len(value)
                if left < 0:
                    link.send(Feed(values[start:number], start))
                    link.frame()
                    start, left = number, PORTION
        link.send(Feed(values[start:] if start else values, start))

    # -------------------------------------------------------------------- calls

    def call(self, spec: TaskSpec, options: CallOptions, owner: Worker | None, parent: int = 0) -> None:
        """A new call of a method; PendingCallsLimitExceeded when the actor has as many waiting as it allows."""
        actor = self.actors.get(spec.actor)
        if actor is not None and not actor.dead and 0 < actor.info.options.max_pending_calls <= actor.pending:
            self.discard(spec.args)
            raise errors.too_many_calls(actor)
        made = self.history.clock
        row = self.rows[spec.task] = Row(PENDING, 1, None, (), spec, options, owner, parent, METHOD, made)
        if parent:
            self.children.setdefault(parent, set()).add(spec.task)
        if spec.returns != 1:
            self._more_returns(spec, row, owner)
        elif owner is not None:
            owner.held.add(spec.task)
        if spec.deps or spec.refs or type(spec.args) is not bytes:
            self.pin(row, spec, self._call_ready)
        if actor is None or actor.dead:
            self.finish(row, FAILED, actor.cause if actor is not None else errors.unknown_actor(spec.actor))
            return
        actor.pending += 1
        worker = actor.worker
        if worker is None or row.missing or owner in actor.queues:
            actor.queues.setdefault(owner, deque()).append(row)
            if worker is not None:
                self.send_waiting(actor, owner)
        elif spec.deps or options is not USUAL or type(spec.args) is not bytes:
            self._send_call(worker, row, spec)
        else:  # the common case, in line
            running = worker.running
            if not running:
                self.urgent.append(worker)
                worker.card.since = self.history.clock
            running[spec.task] = row
            row.worker = worker
            worker.link.send(spec)

    def call_again(self, row: Row, spec: TaskSpec) -> None:
        """Make a call of a method once more, after those that wait."""
        self.pin(row, spec, self._call_ready)
        actor = self.actors.get(spec.actor)
        if actor is None or actor.dead:
            self.finish(row, FAILED, actor.cause if actor is not None else errors.unknown_actor(spec.actor))
            return
        actor.pending += 1
        actor.queues.setdefault(row.owner, deque()).append(row)
        self.send_waiting(actor, row.owner)

    def _more_returns(self, spec: TaskSpec, row: Row, owner: Worker | None) -> None:
        raise NotImplementedError

    def _call_ready(self, row: Row) -> None:
        if row.spec is None:
            return
        actor = self.actors.get(row.spec.actor)
        if actor is not None and actor.worker is not None and not actor.dead:
            self.send_waiting(actor, row.owner)

    def send_waiting(self, actor: Actor, owner: Worker | None) -> None:
        """Send a caller's calls up to the first that is not ready."""
        queue, worker = actor.queues.get(owner), actor.worker
        while queue and worker is not None:
            row = queue[0]
            if row.spec is not None and row.missing:
                if not actor.info.options.out_of_order:
                    return
                ready = [r for r in queue if r.spec is None or not r.missing]
                if not ready:
                    return
                row = ready[0]
                queue.remove(row)
            else:
                queue.popleft()
            spec = row.spec
            if spec is None:
                continue
            source = self.failed_input(spec)
            if source is not None:
                actor.pending -= 1
                self.finish(row, FAILED, source.value)
            else:
                self._send_call(worker, row, spec)
        if not queue:
            actor.queues.pop(owner, None)

    def _send_call(self, worker: Worker, row: Row, spec: TaskSpec) -> None:
        if not worker.running:
            self.urgent.append(worker)
            worker.card.since = self.history.clock
        worker.running[spec.task] = row
        row.worker = worker
        feed = None
        if spec.deps or type(spec.args) is Stored:
            supplied = self.supply(row, spec)
            if supplied is None:
                self._recall(worker, row, spec)
                return
            spec, feed = supplied
        send = worker.link.send
        options = row.options
        if options is not USUAL and (options != USUAL or row.attempt):
            send(Calling(options, row.attempt))
        if feed:
            self.feed(worker, feed.values)
        if spec.returns == -1:
            self.let_run_ahead(worker, row, spec)
        send(spec)

    def _recall(self, worker: Worker, row: Row, spec: TaskSpec) -> None:
        """A call that was to be sent has lost an input: it is the first of its caller's again, and waits."""
        worker.running.pop(spec.task, None)
        self.actors[spec.actor].queues.setdefault(row.owner, deque()).appendleft(row)
        self.wait_again(row, spec, self._call_ready)

    def label(self, row: Row) -> str:
        """A call's name for messages."""
        raise NotImplementedError

    def let_run_ahead(self, worker: Worker, row: Row, spec: TaskSpec) -> None:
        """A new attempt of a stream may go at once as far as its reader has come."""
        raise NotImplementedError

    def constructed(self, worker: Worker, row: Row, spec: TaskSpec, message: Done) -> None:
        """An actor's constructor ended well."""
        actor = worker.actor
        if actor is None:
            return
        worker.is_async = message.took < 0
        actor.constructed = True
        self.history.constructed(actor, row, spec, worker, message)
        if actor.ending:
            self._end_if_quiet(actor)

    def call_failed(self, worker: Worker, row: Row, spec: TaskSpec, message: Failed) -> None:
        """A call, or a constructor, raised."""
        actor = worker.actor
        if actor is None:
            return
        if not spec.method:
            if actor.dead:
                return
            row.spec = spec
            self.history.failed(row, spec, message.error, message, worker)
            self.history.event("ERROR", "ACTOR", f"the constructor of the actor {errors.name_of(actor)} failed")
            self.bury(actor, errors.constructor_failed(actor, message.error))
            self.ports.signal(worker, signal.SIGKILL)
            return
        if message.retry and self._call_may_retry(actor, row):
            if not row.cancelled:
                self.history.failed(row, spec, message.error, message, worker)
                row.attempt += 1
                self.rewind(spec.task)
                self._send_call(worker, row, spec)
                return
            self.finish(row, FAILED, errors.cancelled(spec.task, self.label(row)))
        else:
            self.raised(row, spec, message)
        self.call_ended(actor)

    def raised(self, row: Row, spec: TaskSpec, message: Failed) -> None:
        """A call raised for good. As in Ray, a generator's own error is its last item, and its own object is None."""
        stream = self.streams.get(spec.task) if spec.returns == -1 and not message.cancelled else None
        if stream is None:
            self.finish(row, FAILED, message.error, (), message)
        else:
            self.history.failed(row, spec, message.error, message, row.worker)
            self.item(stream, FAILED, message.error, ())
            self.finish(row, READY, errors.NONE)

    def actor_label(self, spec: TaskSpec) -> str:
        """``Class.method`` of a call."""
        actor = self.actors.get(spec.actor)
        name = actor.info.options.class_name if actor is not None else "actor"
        return f"{name}.{spec.method or '__init__'}"
