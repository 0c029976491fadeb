"""Faults on purpose, by a seed: workers that die, objects that are lost, spills that fail, links that stall, nodes
that come and go.

::

    with faults.inject(FaultPlan(seed=7, kill_every=300)) as log:
        ...  # tasks and actors as ever
    print(log)

What is to happen is a function of the seed and of counts (the 312th call sent to a worker, the 5th spill), never of
time. So one seed gives one schedule (`FaultPlan.schedule`), whatever the machine. Only the embedded engine can be
rehearsed so; without a plan in force it pays nothing.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from skate.core import engine as engines
from skate.core.calls import pack_call
from skate.core.nodes import address
from skate.core.serialization import dump_definition
from skate.engines.local.link import Link
from skate.engines.local.messages import Define, Stored, TaskSpec
from skate.engines.local.rows import READY, Node, Worker
from skate.engines.local.tap import send_by
from skate.engines.local.trace import Recorder
from skate.testing.doom import Doom, number_of
from skate.testing.fault_plan import Clockwork, Fault, FaultPlan, Kill

if TYPE_CHECKING:
    from skate.engines.local.engine import LocalEngine

__all__ = ["Fault", "FaultPlan", "Kill", "inject"]

SETTLE = 0.5
"""Seconds that the end of a plan waits for a death on its way; a call that was to die may be cancelled before."""


@dataclass
class _Victim:
    """A worker under the plan."""

    worker: Worker
    number: int = 0
    calls: int = 0
    doomed: tuple[int, str, int] | None = None
    """Count, text and task of the kill that is on its way."""
    held: list[Any] = field(default_factory=list)
    """Messages that wait because the link stalls."""


class Injection:
    """A plan in force on a session."""

    def __init__(self, engine: LocalEngine, plan: FaultPlan) -> None:
        self.engine = engine
        self.host, self.hub = engine.host, engine.hub
        self.plan = plan
        self.log: list[Fault] = []
        self.began = time.monotonic()
        self.kinds = {
            kind: Clockwork(plan, kind)
            for kind in ("kill", "drop", "stall", "node", "fail_spill", "delay_spill", "fail_restore")
        }
        self.exact = {(kill.worker, kill.task): kill for kill in plan.kills}
        self.numbers = itertools.count(1)
        self.victims: dict[int, _Victim] = {}
        self.workers: dict[int, _Victim] = {}
        """The same by client number."""
        self.given: dict[int, _Victim] = {}
        """Who was sent a deadly call, by its task."""
        self.chance = random.Random(f"{plan.seed}:which")
        self.removed: list[Node] = []
        """Nodes that the plan has removed and not replaced."""
        self.real: dict[str, Any] = {}
        """What stood where the plan's own methods stand now."""
        self.replaced: list[tuple[Any, str, Any]] = []

    # ------------------------------------------------------------- in and out of force

    def begin(self) -> None:
        """Come into force; the engine's lock is held."""
        if "start" in vars(self.host):
            raise RuntimeError("A fault plan is in force already: end it before the next begins.")
        for worker in self.hub.workers.values():
            self._take(worker)
        self._replace(self.host, "start", self._start)
        self._replace(self.host, "_bury", self._bury)
        self._replace(self.host, "spill", self._spill)
        self._replace(self.host, "restore", self._restore)

    def settle(self) -> None:
        """Let the deaths that are on their way happen; without the lock."""
        self.engine.pump.turns.until(
            lambda: self.engine.closed or not any(victim.doomed for victim in list(self.workers.values())),
            time.monotonic() + SETTLE,
        )

    def end(self) -> None:
        """Let things take their course again; the engine's lock is held."""
        for target, name, own in self.replaced:
            if own is None:
                delattr(target, name)
            else:
                setattr(target, name, own)
        for victim in self.workers.values():
            self._let_go(victim)
            send_by(victim.worker.link, None)

    def _replace(self, target: Any, name: str, stand_in: Any) -> None:
        self.real[name] = getattr(target, name)
        self.replaced.append((target, name, vars(target).get(name)))
        setattr(target, name, stand_in)

    def _take(self, worker: Worker) -> None:
        self.workers[worker.client] = self.victims[id(worker.link)] = _Victim(worker)
        send_by(worker.link, self._send)

    def _note(self, kind: str, count: int, what: str, task: int = 0) -> None:
        self.log.append(Fault(kind, count, time.monotonic() - self.began, what, task))

    # ------------------------------------------------------------------------ stand-ins

    def _start(self, environment: str, node: Node) -> Worker | None:
        worker: Worker | None = self.real["start"](environment, node)
        if worker is not None:
            self._take(worker)
        return worker

    def _bury(self, worker: Worker, how: str) -> None:
        victim = self.workers.get(worker.client)
        if victim is not None and victim.doomed is not None:
            count, what, task = victim.doomed
            self._note("kill", count, f"{what}: pid {worker.pid} {how}", task)
        self.real["_bury"](worker, how)  # its last messages may have the hub send it something
        self.workers.pop(worker.client, None)
        self.victims.pop(id(worker.link), None)

    def _spill(self, key: int, offset: int, size: int) -> int | None:
        if self.kinds["delay_spill"].due():
            self._note("delay_spill", self.kinds["delay_spill"].count, f"object {key:#x}", key)
            time.sleep(self.plan.spill_delay)  # in the hub, as a slow disk would
        if self.kinds["fail_spill"].due():
            self._note("fail_spill", self.kinds["fail_spill"].count, f"object {key:#x}", key)
            return None
        check: int | None = self.real["spill"](key, offset, size)
        return check

    def _restore(self, value: Stored, offset: int) -> bool:
        if self.kinds["fail_restore"].due():
            self._note("fail_restore", self.kinds["fail_restore"].count, f"object {value.key:#x}", value.key)
            return False
        restored: bool = self.real["restore"](value, offset)
        return restored

    # ---------------------------------------------------------------------- sent messages

    def _send(self, link: Link, message: Any) -> None:
        victim = self.victims[id(link)]
        if type(message) is TaskSpec:
            message = self._assigned(victim, message)
        self._pass(victim, message)

    def _pass(self, victim: _Victim, message: Any) -> None:
        if victim.held:
            victim.held.append(message)
        else:
            Link.send(victim.worker.link, message)

    def _assigned(self, victim: _Victim, spec: TaskSpec) -> TaskSpec:
        """A call is on its way to a worker: the one chance for everything but spills."""
        if self.kinds["drop"].due():  # in a moment: the hub is in the middle of something
            self.engine.pump.calls.append(partial(self._drop, self.kinds["drop"].count))
        if self.kinds["node"].due():
            self.engine.pump.calls.append(partial(self._change_nodes, self.kinds["node"].count))
        if self.kinds["stall"].due():
            self._stall(victim)
        if not victim.number:
            victim.number = next(self.numbers)
        victim.calls += 1
        before = self.given.pop(spec.task, None)
        if before is not None and before.doomed is not None:  # the call that was to die there was given back
            before.doomed = None
        kill = self.kinds["kill"].due()
        exact = self.exact.get((victim.number, victim.calls))
        if exact is not None:
            kill = exact.how, exact.when
        if kill is None or victim.doomed is not None or (self.plan.spare_actors and spec.actor):
            return spec
        return self._kill(victim, spec, *kill)

    def _kill(self, victim: _Victim, spec: TaskSpec, how: str, when: str) -> TaskSpec:
        worker = victim.worker
        if how == "exit" and when == "any":
            when = "begin"
        if spec.method and when == "end":
            when = "begin"
        name = spec.method or self.hub.definitions[spec.function].name
        text = f"{how} ({when}) at call {victim.calls} of worker {victim.number}, {name}"
        victim.doomed = self.kinds["kill"].count, text, spec.task
        if when == "any":
            self.host.signal(worker, number_of(how))
            return spec
        self.given[spec.task] = victim
        if spec.method:
            args = pack_call((Doom(how, False, b""),), {}).packed.to_bytes()
            return msgspec.structs.replace(spec, method="__ray_call__", args=args, deps=(), refs=())
        blob = dump_definition(Doom(how, when == "end", self.hub.definitions[spec.function].blob))
        doom = b"doom of %d" % spec.task
        self._pass(victim, Define(doom, blob, name))
        return msgspec.structs.replace(spec, function=doom)

    def _drop(self, count: int) -> None:
        if self.engine.closed:
            return
        with self.engine.lock:
            hub = self.hub
            read = hub.in_use()  # who reads a value while it goes would read another's
            keys = [
                key
                for key, row in hub.resident.items()
                if row.state == READY and key not in read and key not in hub.views
            ]
            if keys:
                key = keys[self.chance.randrange(len(keys))]
                self._note("drop", count, f"object {key:#x}", key)
                hub.lose(key)
                self.host.posted()

    def _change_nodes(self, count: int) -> None:
        """A node goes, or one like a node that went comes."""
        if self.engine.closed:
            return
        with self.engine.lock:
            hub = self.hub
            others = list(hub.scheduler.nodes.values())[1:]
            if len(others) >= self.plan.least_nodes and (not self.removed or self.chance.random() < 0.5):
                node = others[self.chance.randrange(len(others))]
                self._note("remove_node", count, f"node {node.key}")
                self.removed.append(hub.remove_node(node.key))
            elif self.removed:
                before = self.removed.pop(self.chance.randrange(len(self.removed)))
                number = hub.next_node()
                own = {f"node:{before.address}": f"node:{address(number)}"}
                total = {own.get(name, name): units for name, units in before.total.items()}
                labels = {name: value for name, value in before.labels.items() if name != "ray.io/node-id"}
                self._note("add_node", count, f"node {number}, like node {before.key}")
                hub.add_node(total, labels, before.name, number)
            self.host.posted()

    def _stall(self, victim: _Victim) -> None:
        if not victim.held:
            victim.held.append(None)  # a mark: whatever follows waits too
            self._note("stall", self.kinds["stall"].count, f"pid {victim.worker.pid} for {self.plan.stall:g} s")
            self.hub.timers.at(time.monotonic() + self.plan.stall, partial(self._let_go, victim))

    def _let_go(self, victim: _Victim) -> None:
        held, victim.held = victim.held, []
        for message in held:
            if message is not None:
                Link.send(victim.worker.link, message)


@contextmanager
def inject(plan: FaultPlan | None = None, *, trace: str | os.PathLike[str] | None = None) -> Iterator[list[Fault]]:
    """Put a plan in force on the running session; the list has the faults that were really done, in order.

    With `trace` a trace for `skate.testing.replay` is written to that file until the session ends; as it has to begin
    with the session, no call may have been made before. Raises RuntimeError when that is so, when no session of the
    embedded engine runs in this process, and when a plan is in force already.
    """
    engine: Any = engines.running()
    if engine is None or engine.name != "local" or not hasattr(engine, "host"):
        name = "none" if engine is None else repr(engine.name)
        text = f"Faults need a driver with the engine 'local'; running here: {name}. Call skate.init() first."
        raise RuntimeError(text)
    injection = Injection(engine, plan or FaultPlan())
    with engine.lock:
        if trace is not None:
            _record(engine, os.fspath(trace))
        injection.begin()
    try:
        yield injection.log
    finally:
        if not engine.closed:
            injection.settle()
            with engine.lock:
                injection.end()
                engine.host.posted()


def _record(engine: LocalEngine, path: str) -> None:
    hub = engine.hub
    if engine.recorder is not None or hub.workers or hub.rows or hub.history.calls:
        raise RuntimeError("A trace begins with its session: call inject(trace=...) right after init, and once.")
    engine.recorder = Recorder(hub, path)
