"""How actors end: dropped, killed, or dead with their process; restarts, and what becomes of their calls."""

from __future__ import annotations

import signal
from collections import deque
from typing import TYPE_CHECKING, Any

from skate.engines.local import errors
from skate.engines.local.lineage import Lineage
from skate.engines.local.messages import Failed, Leave
from skate.engines.local.rows import FAILED, READY, Actor, Row, Worker

if TYPE_CHECKING:
    from skate.engines.local.arena import Arena
    from skate.engines.local.dispatch import Ports
    from skate.engines.local.history import History
    from skate.engines.local.messages import Done, DoneMany
    from skate.engines.local.scheduler import Scheduler


class ActorEnds(Lineage):
    """The actors of a session, and what ends them.

    An actor's own row (its key among the objects) counts its handles.
    """

    ports: Ports
    scheduler: Scheduler
    history: History
    urgent: list[Worker]

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.actors: dict[int, Actor] = {}
        self.names: dict[tuple[str, str], Actor] = {}

    def finish(
        self,
        row: Row,
        state: int,
        value: Any,
        refs: tuple[int, ...] = (),
        message: Done | DoneMany | Failed | None = None,
        died: Worker | None = None,
    ) -> None:
        """A call has ended."""
        raise NotImplementedError

    def rewind(self, task: int, worker: Worker | None = None) -> None:
        """A new attempt yields a stream's items from the start."""
        raise NotImplementedError

    def call_ended(self, actor: Actor) -> None:
        """One call less is under way."""
        actor.pending -= 1
        if actor.ending:
            self._end_if_quiet(actor)

    def unreferenced(self, actor: Actor) -> None:
        """The last handle is gone: the actor ends once its calls are done."""
        if not actor.dead:
            actor.ending = True
            self._end_if_quiet(actor)
        else:
            self._forget(actor)

    def _end_if_quiet(self, actor: Actor) -> None:
        row = self.rows.get(actor.key)
        if row is not None and row.count > 0:
            actor.ending = False
            return
        if actor.dead or actor.pending or (actor.worker is not None and not actor.constructed):
            return
        worker = actor.worker
        reason = f"The actor {errors.name_of(actor)} ended: its last handle was dropped."
        self.bury(actor, errors.actor_died(actor, reason))
        if worker is not None:
            worker.link.send(Leave())
            self.urgent.append(worker)

    def kill(self, key: int, no_restart: bool) -> None:
        """End an actor's process at once."""
        actor = self.actors.get(key)
        if actor is None or actor.dead:
            return
        worker = actor.worker
        if no_restart or worker is None:
            reason = f"The actor {errors.name_of(actor)} was killed by ray.kill."
            self.bury(actor, errors.actor_died(actor, reason))
        if worker is not None:
            self.ports.signal(worker, signal.SIGKILL)

    def _end_spawned(self, worker: Worker, parent: Actor) -> None:
        """The actors that a dead one has made end too, whoever has their handles: as in Ray."""
        for actor in list(worker.spawned):
            ended = f"the actor that made it, {errors.name_of(parent)}, ended, and it is not detached"
            process = actor.worker
            self.bury(actor, errors.actor_died(actor, f"The actor {errors.name_of(actor)} ended: {ended}."))
            if process is not None:
                self.ports.signal(process, signal.SIGKILL)

    def host_died(self, worker: Worker, actor: Actor, running: list[Row], how: str) -> None:
        """An actor's process is gone: restart it, or bury it."""
        self._end_spawned(worker, actor)
        if actor.worker is worker:
            actor.worker = None
        if actor.dead:
            for row in running:
                self.finish(row, FAILED, actor.cause)
            return
        limit = actor.info.options.max_restarts
        final = worker.leaving is not None and worker.leaving[1]
        reason = worker.leaving[0] if worker.leaving is not None else how
        if final or not (limit < 0 or actor.restarts < limit):
            self.bury(actor, errors.actor_lost(actor, worker, reason), running)
        else:
            self._restart(actor, worker, running, reason)

    def _restart(self, actor: Actor, worker: Worker, running: list[Row], how: str) -> None:
        self.hold(actor.key)  # its last handle may go with one of its calls
        actor.restarts += 1
        actor.constructed = False
        again: dict[Worker | None, list[Row]] = {}
        text = errors.actor_death(actor, worker, how) + " It is being restarted"
        self.history.restarted(actor, text)
        for row in running:
            spec = row.spec
            if spec is None or not spec.method:
                continue
            row.worker = None
            if not row.cancelled and self._call_may_retry(actor, row):
                self.history.failed(row, spec, b"", None, worker)
                row.attempt += 1
                self.rewind(spec.task)
                again.setdefault(row.owner, []).append(row)
            else:
                actor.pending -= 1
                self.finish(row, FAILED, errors.actor_unavailable(actor, text), (), None, worker)
        for owner, rows in again.items():
            actor.queues.setdefault(owner, deque()).extendleft(reversed(rows))
        row = self.rows[actor.key]
        row.worker = None
        if not actor.dead:
            self.enqueue(row)
        self.release(actor.key)

    def bury(self, actor: Actor, cause: bytes, running: list[Row] | None = None) -> None:
        """An actor is dead for good: every call it has not answered fails with `cause`."""
        own = self.rows[actor.key]
        own.count += 1  # its last handle may go with one of its calls, and we are not done with it
        actor.dead = True
        actor.cause = cause
        self.history.buried(actor, cause, running is not None)
        if actor.maker is not None:
            actor.maker.spawned.discard(actor)
        name = (actor.namespace, actor.info.options.name)
        if self.names.get(name) is actor:
            del self.names[name]
        worker = actor.worker
        waiting = [row for queue in actor.queues.values() for row in queue]
        actor.queues.clear()
        if worker is not None:
            waiting = list(worker.running.values()) + waiting
        for row in (running or []) + waiting:
            if row.actor is None:
                self.finish(row, FAILED, cause)
        spec = own.spec
        if spec is not None:
            own.spec = own.options = own.worker = None
            own.state = own.state or READY
            self.unpin(spec)
        own.count -= 2 if actor.info.options.detached else 1
        if own.count <= 0:
            self._forget(actor)

    def _forget(self, actor: Actor) -> None:
        row = self.rows.get(actor.key)
        if row is not None:
            row.actor = None
            self._drop(actor.key, row)
        self.actors.pop(actor.key, None)

    def _call_may_retry(self, actor: Actor, row: Row) -> bool:
        limit = self.call_retries(actor, row)
        return limit < 0 or row.attempt < limit

    def call_retries(self, actor: Actor, row: Row) -> int:
        """How often a call may be tried again; -1: any number of times."""
        limit: int | None = row.options.max_retries
        return actor.info.options.max_task_retries if limit is None else limit
