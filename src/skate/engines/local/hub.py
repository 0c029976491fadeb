"""The hub: all state of a session, changed by events, with commands as the result.

Events are calls of its methods: by the driver's engine directly, by a worker's messages through `receive`, by the pool
when processes start and die. Commands leave through worker links (`Link.send`) and through `Ports`. The hub does no I/O
and never blocks; whoever calls it holds the engine's lock.
"""

from __future__ import annotations

import signal
from collections import deque
from functools import partial
from typing import Any

from skate.core.resources import UNIT, as_floats
from skate.engines.local import deadlock, errors, state
from skate.engines.local.boot import POKE
from skate.engines.local.cluster import Cluster
from skate.engines.local.limit import Limit, watch
from skate.engines.local.messages import (
    Cancel,
    TaskSpec,
    Yield,
)
from skate.engines.local.reservations import REMOVED
from skate.engines.local.rows import FAILED, GROUP, METHOD, Family, Row, Worker

STILLBORN = 3
"""Workers that die while they start, one after another, before those who wait for one are told."""
INSIST_AFTER = 0.02
"""Seconds after which a cancel that had no effect is repeated."""


class Hub(Cluster):
    """The whole: the parts in files of their own, and what concerns all: cancels, workers, state."""

    # ------------------------------------------------------------------- cancel

    def cancel(self, key: int, force: bool, recursive: bool) -> None:
        """Cancel the task that makes an object; harmless when it has ended."""
        row = self.rows.get(key)
        if row is not None and row.maker > 0:
            row = self.rows.get(row.maker)
        if row is not None and row.maker == METHOD and force:
            raise ValueError("force=True is not supported for actor tasks: use ray.kill to end the actor itself.")
        if row is None or row.spec is None or row.actor is not None:
            return
        self._cancel(row, row.spec, force, recursive)

    def _cancel(self, row: Row, spec: TaskSpec, force: bool, recursive: bool) -> None:
        if recursive:
            for child in self._descendants(spec.task):
                if child.spec is not None:
                    self._cancel(child, child.spec, force and not child.spec.actor, False)
        row.cancelled = True
        worker = row.worker
        if worker is not None and force and next(iter(worker.running.values())) is row:
            self.ports.signal(worker, signal.SIGKILL)
            return
        if worker is not None:
            worker.link.send(Cancel(spec.task))
            self.urgent.append(worker)
            self.ports.signal(worker, POKE)
            if not spec.actor:
                self.timers.at(self.timers.clock() + INSIST_AFTER, partial(self._insist, row, worker, INSIST_AFTER))
            if not spec.actor or worker.is_async:
                return  # the worker says how it ended
        # Not begun, or a sync method, which cannot be stopped half way: whoever waits for it need not wait on.
        owner = row.owner
        if worker is not None:
            worker.lingering[spec.task] = spec
            self.hold_inputs(spec)
        self.finish(row, FAILED, errors.cancelled(spec.task, self.label(row)))
        actor = self.actors.get(spec.actor)
        if actor is not None:
            self.call_ended(actor)
            self.send_waiting(actor, owner)  # it may have held up the calls after it

    def _descendants(self, task: int) -> list[Row]:
        """The calls that have not ended and were made inside a call, or inside such; the innermost first."""
        found: dict[int, Row] = {}
        layer = [task]
        while layer:
            made = [key for parent in layer for key in self.children.get(parent, ()) if key not in found]
            found.update((key, self.rows[key]) for key in made if key in self.rows)
            layer = made
        return list(reversed(found.values()))

    def abandon_stream(self, task: int) -> None:
        """A generator was dropped: nobody reads on, so its task need not go on."""
        row = self.rows.get(task)
        if self.close_stream(task) and row is not None:
            self.cancel(task, False, False)

    def _insist(self, row: Row, worker: Worker, delay: float) -> None:
        """Signal again: one that comes just before a system call begins does not interrupt it."""
        if row.spec is not None and row.worker is worker and delay < 5:
            self.ports.signal(worker, POKE)
            self.timers.at(self.timers.clock() + 2 * delay, partial(self._insist, row, worker, 2 * delay))

    # ------------------------------------------------------------------ workers

    def arrived(self, worker: Worker, pid: int) -> None:
        """A worker is up."""
        worker.pid = worker.pid or pid  # who forked it knows better
        worker.up = True
        self.history.arrived(worker)
        self.stillborn.pop(worker.environment, None)
        worker.idle_since = self.timers.clock()
        self.scheduler.arrived(worker)
        self.decide()

    def expel(self, worker: Worker, why: str) -> None:
        """A worker sent what no worker sends: take nothing more from it, and end it. Its calls fare as with a crash."""
        if worker.outlaw:
            return
        worker.outlaw = why
        self.ports.warn(f"worker {worker.pid} sent nonsense, and is ended: it {why}")
        self.ports.signal(worker, signal.SIGKILL)
        if worker.up:
            self.scheduler.gone(worker)
            self.decide()

    def block(self, worker: Worker) -> None:
        """A worker's task waits for an object: take back its resources and what it has not begun."""
        self.scheduler.block(worker)
        if worker.actor is None and len(worker.running) > 1:
            worker.link.send(Yield())
        self.decide()

    def given_back(self, worker: Worker, tasks: list[int]) -> None:
        """Tasks that a worker had been sent and has not begun: queue them again, first in line."""
        for task in reversed(tasks):
            row = worker.running.pop(task, None)
            if row is None or row.spec is None:
                self.lingered(worker, task)
                continue
            row.worker = None
            if row.cancelled:
                self.finish(row, FAILED, errors.cancelled(row.spec.task, self.label(row)))
                continue
            if row.spec.actor:
                self.actors[row.spec.actor].queues.setdefault(row.owner, deque()).appendleft(row)
                self._call_ready(row)
                continue
            self.scheduler.give_back(self._family(row.options), row)
        self.refill(worker)
        self.decide()

    def died(self, worker: Worker, how: str) -> None:
        """A worker's process is gone; `how` says of what."""
        if self.workers.pop(worker.client, None) is None:
            return
        self.scheduler.reaped(worker)
        if not worker.up and not worker.leaving and not worker.node.death:
            self._was_stillborn(worker, how)
        how = _cause(worker, how)
        self.history.died(worker, how)
        running = list(worker.running.values())
        worker.running = {}
        for offset, size in worker.granted:
            self.arena.free(offset, size)
        for key, size in worker.aside.items():
            self.ports.unspill(key, size)
        for task in list(worker.lingering):
            self.lingered(worker, task)
        if worker.actor is not None:
            self.host_died(worker, worker.actor, running, how)
        else:
            self._tasks_died(worker, running, how)
        for key, count in worker.shown.items():
            for _ in range(count):
                self.release_view(key)
        worker.shown.clear()
        for key in list(worker.held):
            if key in self.streams:
                self.abandon_stream(key)
            self.release(key)
        worker.held.clear()
        if worker.node.death and all(other.node is not worker.node for other in self.workers.values()):
            self.node_gone(worker.node)
        self.decide()

    def _was_stillborn(self, worker: Worker, how: str) -> None:
        """When workers cannot even start, tell those who wait for one, rather than try for ever."""
        count = self.stillborn[worker.environment] = self.stillborn.get(worker.environment, 0) + 1
        if count < STILLBORN:
            return
        del self.stillborn[worker.environment]
        for family in list(self.scheduler.families.values()):
            if family.environment == worker.environment:
                for row in self._unqueue(family):
                    self.give_up(row, errors.crashed(self.label(row), worker, f"{how} before it was ready", 0))

    def unprepared(self, environment: str, why: str) -> None:
        """An environment could not be made: none of its workers that are on their way comes up."""
        for worker in self.workers.values():
            if worker.environment == environment and not worker.up:
                worker.leaving = (why, True)
        self.without_environment(environment, why)

    def without_environment(self, environment: str, why: str) -> None:
        """Tell those who wait for a worker of an environment that there is none."""
        cause = errors.no_environment(why)
        for family in list(self.scheduler.families.values()):
            if family.environment == environment:
                for row in self._unqueue(family):
                    self.give_up(row, cause)

    def dismiss(self, environment: str, now: float, after: float) -> None:
        """End the workers of an environment when all of them have been idle for `after` seconds."""
        workers = [each for each in self.workers.values() if each.environment == environment and not each.leaving]
        if any(not worker.up or worker.family or worker.actor or worker.held for worker in workers):
            return
        if all(now - worker.idle_since > after for worker in workers):
            for worker in workers:
                self.scheduler.gone(worker)
                self.retire(worker)

    def _unqueue(self, family: Family) -> list[Row]:
        rows = [row for row in family.queue if row.spec is not None]
        family.queue.clear()
        self.scheduler.waiting.pop(family, None)
        return rows

    def break_down(self) -> None:
        """No worker can be started any more, and those there were are gone: nothing waits in vain."""
        self.broken = errors.no_zygote()
        for family in list(self.scheduler.families.values()):
            for row in self._unqueue(family):
                self.give_up(row, self.broken)
        for actor in list(self.actors.values()):
            if not actor.dead:
                self.bury(actor, self.broken)

    def _tasks_died(self, worker: Worker, running: list[Row], how: str) -> None:
        for position, row in enumerate(running):
            spec = row.spec
            if spec is None:
                continue
            row.worker = None
            if row.cancelled:
                self.finish(row, FAILED, errors.cancelled(spec.task, self.label(row)))
            elif position or not worker.up or (worker.leaving and worker.leaving[0] == "retired"):
                self.enqueue(row)  # it had not begun
            elif worker.doom is not None:
                self.ended_for_memory(worker, row, spec, worker.doom)
            elif self._may_retry(row):
                self._again(row, spec, self._crash(row, worker, how), None, worker)
            else:
                self.finish(row, FAILED, self._crash(row, worker, how), (), None, worker)

    def _crash(self, row: Row, worker: Worker, how: str) -> bytes:
        if worker.node.death:
            return errors.node_died(self.label(row), worker, row.attempt)
        return errors.crashed(self.label(row), worker, how, row.attempt)

    def reap(self, now: float, after: float) -> None:
        """End workers that have been idle for `after` seconds, but for as many as a node has CPUs: those used last."""
        for node in self.scheduler.nodes.values():
            keep = -(-node.total.get("CPU", 0) // UNIT)
            for workers in node.idle.values():
                for worker in workers[: max(0, len(workers) - keep)]:
                    if now - worker.idle_since > after and not worker.held:
                        self.scheduler.gone(worker)
                        self.retire(worker)

    # ------------------------------------------------------------------ objects

    def lost(self, key: int) -> bytes:
        """The packed error of an object that nobody knows."""
        return errors.unknown_object(key)

    def in_use(self) -> set[int]:
        """Keys of values that calls under way read."""
        used: set[int] = set()
        for worker in self.workers.values():
            for spec in (*worker.lingering.values(), *(row.spec for row in worker.running.values())):
                if spec is not None:
                    used.update(self.inputs(spec))
        return used

    def hopeless(self, rows: list[Row], count: int) -> tuple[Row, bytes] | None:
        """What nothing can run, when somebody would wait for it until `count` of these are ready; and the error.

        Whoever asks is told, and gives it up: so that its arguments are freed, and others who wait are told too.
        """
        if not self.doubtful:
            return None
        found = deadlock.never(self, deadlock.Wait(rows, count))
        row = found.hopeless if found is not None else None
        if row is None or (row.spec is None and row.maker != GROUP):
            return None
        why = self.why_never_in_group(row)
        if why:
            return row, why
        family = self._family(row.options)
        limit = self.scheduler.limit
        if family.places and limit is not None:
            names = [errors.name_of(worker.actor) for worker in self.workers.values() if worker.actor is not None]
            return row, errors.no_room(self.label(row), family, limit.most, names)
        return row, errors.unschedulable(self.label(row), family, self.scheduler.nodes)

    def short_of_workers(self, limit: Limit) -> None:
        """Calls wait for worker processes that there may not be."""
        watch(self, limit)

    # -------------------------------------------------------------------- state

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """Total and free resources."""
        scheduler = self.scheduler
        free = {name: max(0, units) for name, units in scheduler.free.items()}
        return as_floats(scheduler.total.items()), as_floats(free.items())

    def state(self, kind: str) -> list[dict[str, Any]]:
        """Rows of the session's state."""
        return state.rows(self, kind)


def _cause(worker: Worker, how: str) -> str:
    """How a worker ended, in words: why we ended it, if that was it."""
    if worker.node.death:
        return worker.node.death
    if worker.outlaw:
        return f"was ended because it {worker.outlaw}"
    if worker.leaving is not None and worker.leaving[0] == REMOVED:
        return f"was ended: {REMOVED}"
    return worker.doom.why if worker.doom is not None else how
