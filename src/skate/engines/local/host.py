"""The driver's end of the processes: the hub and its ports, the pump, the pool, the workers' pipes."""

from __future__ import annotations

import itertools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from skate.core import ids, preloads, refs
from skate.core.environment import logs_of, shown_environment
from skate.core.nodes import NodeSpec, address
from skate.core.resources import UNIT, to_units
from skate.core.settings import Settings
from skate.engines.local import departures, errors
from skate.engines.local.arena import Arena
from skate.engines.local.boot import POKE, Boot, memory, search_path
from skate.engines.local.door import Door, Peer
from skate.engines.local.jobs import Job, Jobs
from skate.engines.local.link import BrokenFrame, Link
from skate.engines.local.logbook import Logbook
from skate.engines.local.logs import LogPipe
from skate.engines.local.memory_watch import MemoryWatch
from skate.engines.local.messages import Welcome, to_hub
from skate.engines.local.meters import kernel_kills
from skate.engines.local.pool import Pool
from skate.engines.local.pump import Pump
from skate.engines.local.requests import Requests
from skate.engines.local.rows import HEAD, Node, Worker
from skate.engines.local.spill_ports import SpillPorts
from skate.engines.local.spills import Spills

if TYPE_CHECKING:
    from skate.engines.local.environments import Environments

REAP_EVERY = 2.0
LOOK_AGAIN = 0.05
"""Seconds after which a driver is looked at again that was slow to take what its workers print."""
REAP_AFTER = 10.0
PRELOADED = ("numpy",)
"""Modules that workers get from the zygote: costly to import, and without threads when OMP_NUM_THREADS is 1."""

clients = itertools.count(8 * int.from_bytes(os.urandom(2)) + 1)
"""Client numbers: never used twice in this process, so that references of an old session mean nothing in a new one.
They begin anywhere, for a program may have been a driver of another hub before; below 2^20 keys fit into 60 bits.
"""


class Host(SpillPorts):
    """The hub with hands. `lock` guards it; every method but `open` and `close` is called with it held."""

    def __init__(self, settings: Settings, boot: Boot, lock: threading.Lock) -> None:
        self.settings = settings
        self.lock = lock
        super().__init__(
            Arena(boot.arena_fd, boot.capacity), Spills(settings.spill_folder, settings.spill_limit, settings.disk_full)
        )
        self.pool = Pool(boot)
        self.pump = Pump(lock, self.before, self.after)
        self.hub = Requests(settings, _resources(settings, boot.capacity), self.arena, self)
        self.pump.watch(self.pool.control.fileno(), self._reports)
        self.jobs = Jobs(settings.alone)
        self.door: Door | None = None
        self.logs: dict[Worker, tuple[LogPipe, LogPipe]] = {}
        self.hub.history.environments = lambda: self._environments.rows() if self._environments is not None else []
        self.logbook = Logbook(settings.folder, settings.keeping)
        if settings.keeping.event_file:
            self.hub.history.sink = self.logbook.event
        self.path = search_path()
        self.preloaded: set[str] = set()
        self.imported = 0
        """How many of `preloads.modules` the zygote was told of."""
        self._import()
        self.signals: list[tuple[Worker, int]] = []
        self.hub.timers.at(time.monotonic() + REAP_EVERY, self._reap)
        self.meter: Callable[[Worker], int] | None = None
        self.watch = MemoryWatch(self, settings.memory)
        self.kernel_kills = kernel_kills()
        self._environments: Environments | None = None

    # ------------------------------------------------------------ the hub's ports

    def start(self, environment: str, node: Node) -> Worker | None:
        """Start a worker process of a node; None when the zygote is gone."""
        if len(preloads.modules) > self.imported:
            self._import()
        client = self.new_client()
        job = self.jobs.of(environment)
        special = bool(self.job_environment(job) or shown_environment(environment))
        pipes = self.environments.pipes(client) if special else self.pool.fork(client)
        if pipes is None:
            return None
        link = Link(pipes.read_fd, pipes.write_fd, to_hub.decode, self.pump.dirty)
        worker = Worker(client, environment, link, node)
        worker.job = job
        quiet = not (self.settings.log_to_driver if job is None else job.asked.log)
        worker.card.launched = time.monotonic()
        worker.card.job = 1 if job is None else job.number
        out = LogPipe(pipes.stdout_fd, worker.tail, False, quiet, partial(self.logbook.keep, worker, "out"))
        err = LogPipe(pipes.stderr_fd, worker.tail, True, quiet, partial(self.logbook.keep, worker, "err"))
        out.plain = err.plain = bool(logs_of(self.job_environment(job)))
        if job is not None:
            out.sink = err.sink = job.show
        self.logs[worker] = (out, err)
        self.pump.watch(pipes.read_fd, lambda _: self._readable(worker))
        for pipe in (out, err):
            self.pump.watch(pipe.fd, partial(self._log, worker, pipe))
        if special:
            self.environments.place(worker)
        else:
            self.greet(worker, self.search_path(job), "")
        return worker

    def job_environment(self, job: Job | None) -> str:
        """The runtime environment of all calls of a driver."""
        return self.settings.environment if job is None else job.asked.environment

    def search_path(self, job: Job | None) -> list[str]:
        """Where a driver imports from."""
        return self.path if job is None else job.asked.path

    @property
    def environments(self) -> Environments:
        """Runtime environments; most sessions have none."""
        if self._environments is None:
            from skate.engines.local.environments import Environments

            self._environments = Environments(self)
        return self._environments

    def zygotes(self) -> list[int]:
        """The processes that fork workers."""
        return [self.pool.pid, *(self._environments.zygotes() if self._environments is not None else ())]

    def greet(self, worker: Worker, path: list[str], setup: str) -> None:
        """Tell a worker who it is."""
        job = worker.job
        worker.link.send(
            Welcome(
                worker.client,
                ids.salt(),
                self.settings.namespace if job is None else job.namespace,
                ids.node_hex(worker.node.key),
                path,
                working_folder() if job is None else job.asked.folder,
                self.job_environment(job),
                worker.environment,
                self.settings.folder,
                1 if job is None else job.number,
                setup,
                self.settings.keeping.sites,
            )
        )

    def new_client(self) -> int:
        """A number for somebody who names things."""
        return next(clients)

    def signal(self, worker: Worker, number: int) -> None:
        """Send a signal to a worker's process, after the messages that are there for it."""
        self.signals.append((worker, number))

    def _send_signals(self) -> None:
        signals, self.signals = self.signals, []
        for worker, number in signals:
            if worker.client not in self.hub.workers:
                continue
            if type(worker) is Peer:
                if number == signal.SIGKILL and self.door is not None:
                    self.door.hang_up(worker, "it was shut out")
            elif worker.link.unsent and number == POKE:
                self.signals.append((worker, number))  # it could not know yet what to stop
            elif worker.pid:
                elsewhere = self._environments is not None and self._environments.home(worker)
                (elsewhere or self.pool).signal(worker.pid, number)
            else:
                self.signals.append((worker, number))

    def warn(self, text: str, source: str = "SESSION") -> None:
        """Tell the user something; `source` says which part of the session does."""
        self.hub.history.event("WARNING", source, text)
        print(f"skate: {text}", file=sys.stderr, flush=True)

    def refusals(self) -> list[dict[str, Any]]:
        """Who was not let in at the door, and why."""
        return list(self.door.refusals) if self.door is not None else []

    def collect(self) -> None:
        """Count the references that this process has dropped; `lock` is held."""
        released, release = refs.released, self.hub.release
        while released:
            release(released.popleft())
        while refs.closed_streams:
            self.hub.abandon_stream(refs.closed_streams.popleft())

    # ----------------------------------------------------------------------- I/O

    def before(self) -> float | None:
        """Ahead of a sleep: send all there is; the longest allowed sleep in seconds."""
        if refs.released or refs.closed_streams:
            self.collect()
        self.hub.urgent.clear()
        if self.watch.resting:
            self.watch.arm()
        if self.pump.dirty:
            self.pump.flush()
        if self.signals:
            self._send_signals()
        deadline = self.hub.timers.next()
        history = self.hub.history
        history.clock = now = time.monotonic()
        if len(history.calls) > history.most:
            history.trim()
        return None if deadline is None else max(0.0, deadline - now)

    def after(self) -> None:
        """When events were handled: do what is due, and send what that gave."""
        timers = self.hub.timers
        if timers:
            timers.tick(time.monotonic())
        self.hub.urgent.clear()
        self.pump.flush()
        if self.signals:
            self._send_signals()

    def flush_urgent(self) -> None:
        """Write to workers that had nothing to do; what goes to busy ones may wait for company."""
        urgent = self.hub.urgent
        for worker in urgent:
            link = worker.link
            if link.out and not link.unsent and not link.flush():
                self.pump.resume_later(link)
        urgent.clear()
        self.pump.dirty[:] = [link for link in self.pump.dirty if link.out]
        if self.signals:
            self._send_signals()

    def _readable(self, worker: Worker) -> None:
        try:
            messages = worker.link.read()
        except BrokenFrame as problem:
            self.hub.expel(worker, f"sent what is no message: {problem}")
            messages = None
        if messages is None:
            self.pump.unwatch(worker.link.read_fd)  # its death is reported by the zygote
        elif messages:
            self.hub.receive(worker, messages)

    def _log(self, worker: Worker, pipe: LogPipe, _: int) -> None:
        if worker.job is not None and worker.job.congested():
            self.pump.unwatch(pipe.fd)
            self.hub.timers.at(time.monotonic() + LOOK_AGAIN, partial(self._read_on, worker, pipe))
        elif not pipe.read(self._origin(worker)):
            self.pump.unwatch(pipe.fd)

    def _read_on(self, worker: Worker, pipe: LogPipe) -> None:
        if worker in self.logs:
            self.pump.watch(pipe.fd, partial(self._log, worker, pipe))

    def _origin(self, worker: Worker) -> str:
        if worker.actor is not None:
            return f"{worker.actor.info.options.class_name} pid={worker.pid}"
        export = self.hub.definitions.get(worker.last)
        return f"{export.name if export is not None else 'worker'} pid={worker.pid}"

    def _reports(self, _: int) -> None:
        if not self.pool.reports(self.report):
            self.pump.unwatch(self.pool.control.fileno())
            self.hub.break_down()
            for worker in list(self.logs):
                self._bury(worker, "was lost with the process that starts workers")

    def report(self, kind: str, client: int, number: int, peak: int) -> None:
        """A zygote has forked a worker, or seen one end."""
        worker = self.hub.workers.get(client)
        if worker is None:
            return
        if kind == "forked":
            worker.pid = number
            self._preload()
        else:
            self._bury(
                worker, errors.how_it_ended(number, peak, self._starved() if number == -signal.SIGKILL else None)
            )

    def _starved(self) -> bool | None:
        """Whether the kernel has ended a process for want of memory since we last looked."""
        before, self.kernel_kills = self.kernel_kills, kernel_kills()
        return None if before < 0 else self.kernel_kills > before

    def _preload(self) -> None:
        """What this program has imported and workers will need, if it is safe to fork with."""
        modules = [name for name in PRELOADED if name in sys.modules and name not in self.preloaded]
        if modules:
            self.preloaded.update(modules)
            self.pool.preload(modules)

    def _import(self) -> None:
        """What libraries of ours want workers to have."""
        modules = preloads.modules[self.imported :]
        self.imported += len(modules)
        if modules:
            self.pool.preload(modules, at_once=True)

    def _bury(self, worker: Worker, how: str) -> None:
        """Take in the last messages and lines of a dead worker, then tell the hub."""
        link = worker.link
        readable = select.poll()
        readable.register(link.read_fd, select.POLLIN)
        while readable.poll(0):
            try:
                messages = link.read()
            except BrokenFrame:
                break
            if messages is None:
                break
            self.hub.receive(worker, messages)
        for pipe in self.logs.pop(worker):
            pipe.drain(self._origin(worker))
            self.pump.unwatch(pipe.fd)
            os.close(pipe.fd)
        self.pump.unwatch(link.read_fd)
        self.pump.unwatch(link.write_fd)
        if link in self.pump.dirty:
            self.pump.dirty.remove(link)
        link.close()
        self.hub.died(worker, how)

    def _reap(self) -> None:
        now = time.monotonic()
        self.hub.reap(now, REAP_AFTER)
        if self.jobs.jobs:
            departures.retire_idle(self.hub)
            departures.tidy(self.hub, self.jobs)
        if self._environments is not None:
            self._environments.reap(now)
        self.hub.timers.at(now + REAP_EVERY, self._reap)

    def posted(self) -> None:
        """Something was posted, `lock` held: see that it goes out."""
        if self.hub.urgent or self.signals:
            self.flush_urgent()
        if self.pump.asleep:
            self.pump.nudge()

    def add_node(self, spec: NodeSpec) -> Node:
        """A virtual node joins."""
        number = spec.number or self.hub.next_node()
        total = node_resources(spec, number, self.arena.capacity)
        node = self.hub.add_node(total, spec.labels, spec.name, number)
        self.posted()
        return node

    def open(self) -> None:
        """Begin to pump."""
        if self.settings.environment:
            with self.lock:
                self.environments.begin()
        self.pump.thread.start()

    def open_door(self, folder: str) -> None:
        """Let other programs of this user attach, by a socket in the session's folder. Called without the lock."""
        with self.lock:
            try:
                self.door = Door(self, folder)
            except OSError as error:  # a folder on a file system without sockets, no descriptors left
                self.warn(f"no other program can attach to this session: {error}")

    def close(self) -> None:
        """End every process and free every byte of the session. Called without the lock."""
        self.pump.close()
        self.pool.close()
        if self._environments is not None:
            self._environments.close()
        with self.lock:
            if self.door is not None:
                self.door.close()
            for worker in list(self.hub.workers.values()):
                for pipe in self.logs.pop(worker, ()):
                    pipe.drain(self._origin(worker))
                    os.close(pipe.fd)
                worker.link.close()
            self.hub.workers.clear()
            self.arena.close()
            self.spills.close()


def working_folder() -> str:
    """Where this process is; empty: nowhere, for the folder is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""  # deleted under us: a worker stays where it is


def _resources(settings: Settings, store: int) -> dict[str, int]:
    """What the driver's node has, in units."""
    cpus = settings.num_cpus if settings.num_cpus is not None else len(os.sched_getaffinity(0))
    spec = NodeSpec(cpus, settings.num_gpus or 0, settings.resources, memory=settings.node_memory)
    return {**node_resources(spec, HEAD, store), "node:__internal_head__": UNIT}


def node_resources(spec: NodeSpec, number: int, store: int) -> dict[str, int]:
    """What a node has, in units."""
    amounts = {
        "CPU": spec.num_cpus,
        "GPU": spec.num_gpus,
        "memory": spec.memory if spec.memory is not None else int(memory() * 0.7),
        "object_store_memory": spec.object_store_memory if spec.object_store_memory is not None else store,
        f"node:{address(number)}": 1,
        **spec.resources,
    }
    return {name: to_units(amount, name) for name, amount in amounts.items() if amount}
