"""Tasks: from their submission to the worker that runs them. The part of the hub that hands calls out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from skate.core.nodes import NodeSpec
from skate.core.placement import ALONE
from skate.core.settings import Settings
from skate.core.spec import TaskOptions
from skate.engines.local import errors
from skate.engines.local.arena import Arena
from skate.engines.local.boot import POKE
from skate.engines.local.history import History
from skate.engines.local.jobs import Jobs
from skate.engines.local.limit import Limit
from skate.engines.local.messages import (
    Define,
    Export,
    Leave,
    Stored,
    TaskSpec,
    Using,
    Yield,
)
from skate.engines.local.placing import has_room
from skate.engines.local.rows import FAILED, PENDING, Family, Node, Row, Stream, Worker
from skate.engines.local.scheduler import SHORT, Assign, Retire, Scheduler, Start
from skate.engines.local.store import Files
from skate.engines.local.streams import Streams
from skate.engines.local.timers import Timers

STUCK_AFTER = 0.02
"""Seconds without a result after which a worker must give back the calls queued in it."""


class Ports(Files, Protocol):
    """What the hub needs done by others."""

    meter: Callable[[Worker], int] | None
    """Tells how much memory a worker has, where ``memory=`` is enforced."""

    def start(self, environment: str, node: Node) -> Worker | None:
        """Start a worker process of a node; `Hub.arrived` follows, or `Hub.died`. None: nobody can fork any more."""

    def signal(self, worker: Worker, number: int) -> None:
        """Send a signal to a worker's process, if it still lives."""

    def warn(self, text: str, source: str = "SESSION") -> None:
        """Tell the user something on the driver's standard error."""

    def add_node(self, spec: NodeSpec) -> Node:
        """A virtual node joins."""

    jobs: Jobs
    """The drivers that attached."""

    def refusals(self) -> list[dict[str, Any]]:
        """Who was not let in, and why."""


class Dispatch(Streams):
    """Tasks, from submission to a worker."""

    def __init__(self, settings: Settings, total: dict[str, int], arena: Arena, ports: Ports) -> None:
        super().__init__(arena)
        self.settings = settings
        self.ports = ports
        self.scheduler = Scheduler(total, settings.labels)
        if settings.max_workers is not None:
            self.scheduler.limit = Limit(settings.max_workers)
        self.workers: dict[int, Worker] = {}
        self.definitions: dict[bytes, Export] = {}
        self.urgent: list[Worker] = []
        """Workers that were idle and have just been given something: flush them at once."""
        self.timers = Timers()
        self._families: dict[int, tuple[Any, Family]] = {}
        self.doubtful: set[Any] = set()
        """Families that nothing here can ever serve, and that the user was told of."""
        self._watching = False
        self._spared: list[Worker] = []
        """Workers whose call could not be sent after all."""
        self.broken = b""
        """The packed error of everything, once no worker can be started any more."""
        self.stillborn: dict[str, int] = {}
        """Workers of an environment that died before they were up, one after another."""
        self.history = History(settings.keeping)

    # --------------------------------------------------------------- submission

    def submit(self, spec: TaskSpec, options: TaskOptions, owner: Worker | None, parent: int = 0) -> None:
        """A new task. Its returns count one reference each, of the owner."""
        made = self.history.clock
        row = self.rows[spec.task] = Row(PENDING, 1, None, (), spec, options, owner, parent, 0, made)
        if parent:
            self.children.setdefault(parent, set()).add(spec.task)
        if spec.returns != 1:
            self._more_returns(spec, row, owner)
        elif owner is not None:
            owner.held.add(spec.task)
        if spec.deps or spec.refs or type(spec.args) is Stored:
            self.pin(row, spec, self._ready)
            if row.missing:
                return
        self._ready(row)

    def _more_returns(self, spec: TaskSpec, row: Row, owner: Worker | None) -> None:
        if spec.returns == 0:
            row.count = 0
            return
        for key in range(spec.task + 1, spec.task + spec.returns):
            self.rows[key] = Row(maker=spec.task)
        if owner is not None:
            owner.held.update(range(spec.task, spec.task + max(1, spec.returns)))
        if spec.returns == -1 and spec.task not in self.streams:
            self.streams[spec.task] = Stream()

    def _ready(self, row: Row) -> None:
        """All dependencies are there: queue the task, or fail it as they failed."""
        spec = row.spec
        if spec is None:
            return
        if spec.deps or type(spec.args) is Stored:
            source = self.failed_input(spec)
            if source is not None:
                self.finish(row, FAILED, source.value)
                return
        self.enqueue(row)

    def enqueue(self, row: Row) -> None:
        """Queue a call that needs a worker, and set going what can go."""
        if self.broken:
            self.give_up(row, self.broken)
            return
        family = self._family(row.options)
        scheduler = self.scheduler
        worker = scheduler.at_once(family)
        if worker is not None:
            self.assign(worker, row)
            if self._spared:
                self.refill(self._spared.pop())
            return
        scheduler.add(family, row)
        if family.picky and self._refused(family, row):
            return
        queued = len(family.queue)
        # With no worker idle and others queued before it, nothing can go now that could not before; a longer
        # queue may be worth another worker.
        if scheduler.resting.get(family.environment) or not queued & (queued - 1):
            self.decide()

    def _family(self, options: Any) -> Family:
        """The family of a call; options objects are shared by all calls of a function, so remember it by identity."""
        known = self._families.get(id(options))
        if known is not None and known[0] is options:
            return known[1]
        if isinstance(options, TaskOptions):
            least, priority = None, options.priority
        else:
            least, priority = options.placement, 0
        where = options.where if options.where != ALONE else None
        family = self.scheduler.family(options.resources, options.environment, least, where, priority)
        if len(self._families) > 4096:
            self._families.clear()
        self._families[id(options)] = (options, family)
        return family

    def _refused(self, family: Family, row: Row) -> bool:
        """Whether a queued call cannot run; False when it is to run at once, and can."""
        if not family.infeasible and any(has_room(family.need, place) for place in family.places):
            return False
        self._never(family, row)
        return True

    def _never(self, family: Family, row: Row) -> None:
        """Nothing here can run a call: warn, for that may change; but on the very node that was named it will not."""
        if family.where is not None and family.where.group:
            self.never_in_group(family, row, family.where.group)
        elif family.where is not None and family.where.node and not family.where.soft:
            self.give_up(row, errors.unschedulable(self.label(row), family, self.scheduler.nodes))
        elif family not in self.doubtful:
            self.doubtful.add(family)
            self.ports.warn(errors.infeasible(self.label(row), family, self.scheduler.nodes), "SCHEDULER")
            self.doubt()

    def give_up(self, row: Row, cause: bytes) -> None:
        """Fail a call, or bury the actor whose constructor it is."""
        if row.actor is not None:
            self.bury(row.actor, cause)
        else:
            self.finish(row, FAILED, cause)

    def place_groups(self) -> None:
        """Something is free for a placement group that waits."""
        raise NotImplementedError

    def never_in_group(self, family: Family, row: Row, group: int) -> None:
        """A call can never run in its placement group."""
        raise NotImplementedError

    def doubt(self) -> None:
        """Something can never run: look who waits for it."""
        raise NotImplementedError

    def retire(self, worker: Worker) -> None:
        """Have a worker end that does nothing, and that the scheduler has let go."""
        worker.leaving = ("idle", False)
        worker.link.send(Leave())
        self.urgent.append(worker)

    def short_of_workers(self, limit: Limit) -> None:
        """Calls wait for worker processes that there may not be."""
        raise NotImplementedError

    def decide(self) -> None:
        """Set going everything that can go now."""
        scheduler = self.scheduler
        if scheduler.groups.due:
            self.place_groups()
        if not scheduler.waiting:
            return
        limit = scheduler.limit
        for decision in scheduler.decide():
            if type(decision) is Assign:
                self.assign(decision.worker, decision.row)
            elif type(decision) is Start:
                for _ in range(decision.workers):
                    worker = self.ports.start(decision.environment, decision.node)
                    if worker is None:
                        return  # `break_down` follows
                    self.workers[worker.client] = worker
                    if limit is not None:
                        limit.alive.add(worker.client)
            elif type(decision) is Retire:
                self.retire(decision.worker)
        while self._spared:
            self.refill(self._spared.pop())
        if limit is not None and limit.cut:
            self.short_of_workers(limit)

    def assign(self, worker: Worker, row: Row) -> None:
        """Send a call to a worker that is leased for it."""
        spec = row.spec
        assert spec is not None
        running = worker.running
        if not running:
            self.urgent.append(worker)
            worker.card.since = self.history.clock
            if self.ports.meter is not None:
                worker.base = self.ports.meter(worker)
        elif not self._watching:
            self._watching = True
            self.timers.at(self.timers.clock() + STUCK_AFTER, self._free_stuck)
        running[spec.task] = row
        row.worker = worker
        feed = None
        if spec.deps or type(spec.args) is Stored:
            supplied = self.supply(row, spec)
            if supplied is None:
                del running[spec.task]
                self._spared.append(worker)
                self.wait_again(row, spec, self._constructor_ready if spec.actor else self._ready)
                return
            spec, feed = supplied
        if spec.actor:
            self.host(worker, row, spec, feed)
            return
        send = worker.link.send
        if spec.function not in worker.known:
            self.define(worker, spec.function)
        worker.last = spec.function
        options = row.options
        if worker.options is not options or row.attempt or worker.gpus:
            worker.options = options if not row.attempt else None
            send(Using(options, worker.gpus, row.attempt))
        if feed:
            self.feed(worker, feed.values)
        if spec.returns == -1:
            self.let_run_ahead(worker, row, spec)
        send(spec)

    def refill(self, worker: Worker) -> None:
        """Keep a worker busy, or let it rest."""
        if worker.family is None or worker.actor is not None or len(worker.running) > worker.low:
            return
        for _, row in self.scheduler.refill(worker):
            self.assign(worker, row)
        if not worker.running and not worker.leaving:
            self.scheduler.dry(worker, self.timers.clock())
            self.decide()

    def _free_stuck(self) -> None:
        """Take back what waits behind a call that turned out to be long, though its function had been short."""
        self._watching = False
        for worker in self.workers.values():
            if len(worker.running) < 2 or worker.actor is not None or worker.blocked:
                continue
            if worker.progress == worker.progress_seen:
                row = next(iter(worker.running.values()))
                if row.spec is not None:  # its function is no longer taken for short
                    self.scheduler.speed[row.spec.function] = 2 * SHORT
                worker.link.send(Yield())
                self.ports.signal(worker, POKE)
            worker.progress_seen = worker.progress
            self._watching = True
        if self._watching:
            self.timers.at(self.timers.clock() + STUCK_AFTER, self._free_stuck)

    def define(self, worker: Worker, function: bytes) -> None:
        """Send a definition that the worker does not know yet."""
        worker.known.add(function)
        export = self.definitions[function]
        worker.link.send(Define(function, export.blob, export.name))

    def label(self, row: Row) -> str:
        """A call's name for messages."""
        spec, options = row.spec, row.options
        if spec is None:
            return "a finished task"
        if spec.actor:
            return self.actor_label(spec)
        export = self.definitions.get(spec.function)
        return options.name or (export.name if export is not None else "a task")
