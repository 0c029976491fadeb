"""Any sequence of calls, puts, gets, holds, streams and deaths ends with an empty table and an empty arena."""

from __future__ import annotations

import sys

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scripted import CPU, NONE, Session

from skate.core.spec import Resources
from skate.engines.local.boot import PAGE
from skate.engines.local.messages import (
    Ask,
    Back,
    Cancel,
    CloseStream,
    Done,
    DoneMany,
    Failed,
    Get,
    Hold,
    Item,
    Leave,
    Leaving,
    Next,
    Put,
    Release,
    Stored,
    Submit,
    TaskSpec,
    Unused,
    encode_any,
    encoder,
)
from skate.engines.local.placing import has_room
from skate.engines.local.rows import Worker

ERROR = b"\x80\x05N."
NEEDS: list[Resources] = [
    (("CPU", CPU),), (("CPU", CPU),), (), (("CPU", CPU // 2),), (("CPU", CPU), ("GPU", CPU)), (("GPU", 3_000),),
    (("disk", 4),), (("CPU", 3 * CPU),),
]  # fmt: skip
"""With one or two CPUs the last can never be met."""
HELD: list[Resources] = [(), (), (("CPU", CPU // 2),), (("GPU", CPU),), (("disk", 2),)]


class Holding:
    """What a worker process knows and may do: it holds only what it was given."""

    def __init__(self) -> None:
        self.known: set[int] = set()
        """Keys with references in the process that the hub was told of."""


class Counting(RuleBasedStateMachine):
    """Acts as driver and as workers; a process only names what it holds a reference to, as real ones do."""

    @initialize(cpus=st.integers(1, 3))
    def start(self, cpus: int) -> None:
        self.session = Session(cpus=cpus, pages=512, GPU=2 * CPU, disk=5)
        self.came_back = False
        self.held: dict[int, int] = {}
        """Key -> references of the driver."""
        self.actors: set[int] = set()
        self.streams: set[int] = set()
        self.holding: dict[Worker, Holding] = {}
        self.laid_down: list[tuple[int, int]] = []
        """Blocks that the worker at hand has filled and not yet sent."""

    # -------------------------------------------------------------------- choices

    def some(self, data: st.DataObject, keys: set[int], most: int = 2) -> tuple[int, ...]:
        if not keys:
            return ()
        fewest = 1 if data.draw(st.integers(0, 3)) else 0
        return tuple(data.draw(st.lists(st.sampled_from(sorted(keys)), min_size=fewest, max_size=most)))

    def workers(self) -> list[Worker]:
        workers = self.session.hub.workers.values()
        return [worker for worker in workers if worker.up and not worker.leaving and not worker.outlaw]

    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers() if worker.running and not worker.questions]

    def value(self, data: st.DataObject, worker: Worker | None = None) -> bytes | Stored:
        """Drawn last of all that a rule draws: a block of the driver's must come to the hub."""
        if not data.draw(st.booleans()):
            return NONE
        if worker is not None:
            self.laid_down = [grant for grant in self.laid_down if grant in worker.granted]
        size = data.draw(st.sampled_from([1, PAGE, 2 * PAGE]))
        if worker is None:
            return self.session.block(size)
        unused = [grant for grant in worker.granted if grant not in self.laid_down]
        if unused and data.draw(st.booleans()):
            self.laid_down.append(unused[-1])
            return Stored(self.session.new(worker), *unused[-1])
        key = self.session.new(worker)
        self.session.tell(worker, Ask(1, "allocate", encode_any([key, size])))
        if key in worker.aside:  # the store is full of what is being read: the value went to a file
            return self.session.file(key, size)
        self.laid_down.append(worker.granted[-1])
        return Stored(self.session.new(worker), *worker.granted[-1])

    def rekey(self, value: bytes | Stored, key: int) -> bytes | Stored:
        if not isinstance(value, Stored):
            return value
        if value.offset < 0:
            self.session.rename_spill(value.key, key)
            for worker in self.session.everyone:
                if value.key in worker.aside:
                    worker.aside[key] = worker.aside.pop(value.key)
        return Stored(key, value.offset, value.size)

    def knows(self, worker: Worker) -> set[int]:
        """What the code in a worker can name: what it holds, and the references inside its arguments."""
        mine = set(self.holding.setdefault(worker, Holding()).known)
        row = next(iter(worker.running.values()), None)
        if row is not None and row.spec is not None:
            mine |= set(row.spec.refs)
        return mine & set(self.session.hub.rows)

    def older(self, worker: Worker, task: int) -> set[int]:
        """Without those that came after the call: a result that holds itself, on whatever ways, is never freed."""
        born = self.session.born
        return {key for key in self.knows(worker) if born[key] < born[task]}

    # --------------------------------------------------------------------- driver

    @rule(data=st.data())
    def put(self, data: st.DataObject) -> None:
        key = self.session.ids.take()
        refs = self.some(data, set(self.held))
        self.session.hub.put(key, self.rekey(self.value(data), key), refs, None)
        self.held[key] = 1

    @rule(data=st.data(), returns=st.sampled_from([1, 1, 1, 0, 3, -1]), retries=st.integers(0, 1),
          need=st.sampled_from(NEEDS))  # fmt: skip
    def submit(self, data: st.DataObject, returns: int, retries: int, need: Resources) -> None:
        keys = set(self.held) - self.actors
        task = self.session.task(
            deps=self.some(data, keys), refs=self.some(data, set(self.held)), returns=returns,
            args=self.value(data), max_retries=retries, resources=need,
        )  # fmt: skip
        self.got(task, returns)

    def got(self, task: int, returns: int) -> None:
        for key in range(task, task + returns):
            self.held[key] = 1
        if returns == -1:
            self.held[task] = 1
            self.streams.add(task)

    @rule(data=st.data(), restarts=st.integers(0, 1), retries=st.integers(0, 1), held=st.sampled_from(HELD))
    def spawn(self, data: st.DataObject, restarts: int, retries: int, held: Resources) -> None:
        keys = set(self.held) - self.actors
        actor = self.session.actor(
            deps=self.some(data, keys, 1), refs=self.some(data, set(self.held), 1), max_restarts=restarts,
            resources=held, max_task_retries=retries, out_of_order=data.draw(st.booleans()), args=self.value(data),
        )  # fmt: skip
        self.held[actor] = 1
        self.actors.add(actor)

    @precondition(lambda self: self.actors & set(self.held))
    @rule(data=st.data(), returns=st.sampled_from([1, 1, 1, 0, 2, -1]))
    def call(self, data: st.DataObject, returns: int) -> None:
        actor = data.draw(st.sampled_from(sorted(self.actors & set(self.held))))
        keys = set(self.held) - self.actors
        task = self.session.call(
            actor, deps=self.some(data, keys), refs=self.some(data, set(self.held)), returns=returns,
            args=self.value(data),
        )  # fmt: skip
        self.got(task, returns)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def copy_a_reference(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        self.session.hub.hold(key)
        self.held[key] += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drop_a_reference(self, data: st.DataObject) -> None:
        self.drop(data.draw(st.sampled_from(sorted(self.held))))

    def drop(self, key: int) -> None:
        self.held[key] -= 1
        if not self.held[key]:
            del self.held[key]
        self.session.release(key)
        if key in self.streams and key not in self.held:
            self.streams.discard(key)
            self.session.hub.abandon_stream(key)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def ask_for_an_item(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.streams)))
        key = self.session.ids.take()
        self.session.hub.promise(task, key, None)
        self.session.hub.read_on(task)
        self.held[key] = 1

    @precondition(lambda self: set(self.held) - self.actors)
    @rule(data=st.data(), recursive=st.booleans())
    def cancel(self, data: st.DataObject, recursive: bool) -> None:
        self.session.hub.cancel(data.draw(st.sampled_from(sorted(set(self.held) - self.actors))), False, recursive)

    @precondition(lambda self: self.actors & set(self.held))
    @rule(data=st.data(), no_restart=st.booleans())
    def kill(self, data: st.DataObject, no_restart: bool) -> None:
        actor = data.draw(st.sampled_from(sorted(self.actors & set(self.held))))
        record = self.session.hub.actors.get(actor)
        worker = record.worker if record is not None and not record.dead else None
        self.session.hub.kill(actor, no_restart)
        if worker is not None:
            self.session.die(worker)

    # -------------------------------------------------------------------- workers

    @precondition(lambda self: self.session.newcomers)
    @rule()
    def a_worker_arrives(self) -> None:
        self.session.arrive(1)

    @precondition(lambda self: self.session.newcomers)
    @rule()
    def a_worker_dies_while_it_starts(self) -> None:
        self.session.die(self.session.newcomers.pop())

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), ending=st.sampled_from(["done", "done", "done", "failed", "again"]),
          took=st.sampled_from([10, 10**6]))  # fmt: skip
    def a_call_ends(self, data: st.DataObject, ending: str, took: int) -> None:
        self.end_call(data, data.draw(st.sampled_from(self.busy())), ending, took)

    def end_call(self, data: st.DataObject, worker: Worker, ending: str, took: int) -> None:
        task, row = next(iter(worker.running.items()))
        spec = row.spec or next(s for s in reversed(worker.link.of(TaskSpec)) if s.task == task)
        cancelled = any(message.task == task for message in worker.link.of(Cancel))
        if ending != "done" or (cancelled and data.draw(st.booleans())):
            self.session.tell(worker, Failed(task, ERROR, ending == "again", cancelled, took))
            return
        if spec.actor and not spec.method:
            self.session.tell(worker, Done(task, NONE, (), 0))
            return
        count = spec.returns if spec.returns >= 0 else 1
        # Values are laid down first: room for them is asked for, and other messages may come in between.
        values = [self.rekey(self.value(data, worker), task + i) if spec.returns >= 0 else NONE for i in range(count)]
        refs = [self.some(data, self.older(worker, task)) for _ in range(count)]
        if spec.returns == 1:
            self.session.tell(worker, Done(task, values[0], refs[0], took))
        else:
            self.session.tell(worker, DoneMany(task, values, refs if spec.returns >= 0 else [()], took))

    @precondition(lambda self: any(spec.returns == -1 for spec in self.current()))
    @rule(data=st.data())
    def a_stream_yields(self, data: st.DataObject) -> None:
        workers = [w for w in self.busy() if (s := self.spec_of(w)) is not None and s.returns == -1]
        worker = data.draw(st.sampled_from(workers))
        value = self.value(data, worker)
        task = next(iter(worker.running))
        self.session.tell(worker, Item(task, value, self.some(data, self.older(worker, task))))

    def spec_of(self, worker: Worker) -> TaskSpec | None:
        return next(iter(worker.running.values())).spec

    def current(self) -> list[TaskSpec]:
        return [spec for worker in self.busy() if (spec := self.spec_of(worker)) is not None]

    @precondition(lambda self: self.busy())
    @rule(data=st.data())
    def a_worker_puts(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        key = self.session.new(worker)
        value = self.rekey(self.value(data, worker), key)
        self.session.tell(worker, Put(key, value, self.some(data, self.knows(worker))))
        self.holding.setdefault(worker, Holding()).known.add(key)

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), returns=st.sampled_from([1, 1, 0, 2, -1]))
    def a_worker_submits(self, data: st.DataObject, returns: int) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        task = self.session.new(worker, max(1, returns))
        parent = next(iter(worker.running))
        known = self.knows(worker)
        spec = TaskSpec(task, b"g", self.value(data, worker), returns, self.some(data, known - self.actors),
                        self.some(data, known))  # fmt: skip
        self.session.tell(worker, Submit(spec, self.session.options(returns=returns), parent))
        known = self.holding.setdefault(worker, Holding()).known
        known |= set(range(task, task + returns)) if returns >= 0 else {task}

    @precondition(lambda self: any(worker.held & self.worker_streams() for worker in self.busy()))
    @rule(data=st.data(), closes=st.booleans())
    def a_worker_reads_or_closes_a_stream(self, data: st.DataObject, closes: bool) -> None:
        worker = data.draw(st.sampled_from([w for w in self.busy() if w.held & self.worker_streams()]))
        task = data.draw(st.sampled_from(sorted(worker.held & self.worker_streams())))
        if closes:
            self.session.tell(worker, Release([task]), CloseStream(task))
            self.holding[worker].known.discard(task)
        else:
            key = self.session.new(worker)
            self.session.tell(worker, Next(task, key))
            self.holding.setdefault(worker, Holding()).known.add(key)

    def worker_streams(self) -> set[int]:
        return set(self.session.hub.streams) - self.streams

    @precondition(lambda self: self.busy())
    @rule(data=st.data())
    def a_worker_keeps_what_came_in_its_arguments(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        keys = self.some(data, self.knows(worker))
        self.session.tell(worker, Hold(list(keys)))
        self.holding[worker].known |= set(keys)

    @precondition(lambda self: any(holding.known for holding in self.holding.values()))
    @rule(data=st.data())
    def a_worker_drops(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([w for w in self.workers() if self.knows(w)] or [None]))
        if worker is not None:
            mine = self.holding[worker].known
            keys = self.some(data, mine - self.worker_streams(), 3)
            self.session.tell(worker, Release(list(keys)))
            mine -= set(keys)

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), timeout=st.sampled_from([None, None, 0.0, 1.0]), blocks=st.booleans(), values=st.booleans())
    def a_worker_gets(self, data: st.DataObject, timeout: float | None, blocks: bool, values: bool) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        mine = next(iter(worker.running))
        keys = [key for key in self.some(data, self.knows(worker) - self.actors, 3) if key != mine]
        if keys:
            sent = len(worker.running)
            self.session.tell(worker, Get(1, keys, len(set(keys)) and len(keys), timeout, values, blocks))
            self.came_back |= blocks
            if blocks and worker.questions and sent > 1 and worker.actor is None:
                self.session.tell(worker, Back(list(worker.running)[1:]))

    @rule(seconds=st.sampled_from([0.01, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.session.wait(seconds)

    @precondition(lambda self: self.session.hub.workers)
    @rule(data=st.data())
    def a_worker_dies(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(list(self.session.hub.workers.values())))
        if worker in self.session.newcomers:
            self.session.newcomers.remove(worker)
        self.session.die(worker)

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), what=st.sampled_from(["result", "memory", "key", "block", "file"]))
    def a_worker_sends_nonsense(self, data: st.DataObject, what: str) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        mine, taken = self.session.new(worker), data.draw(st.sampled_from(sorted(self.session.hub.rows)))
        message = {
            "result": Done(mine, NONE),
            "memory": Put(mine, Stored(mine, data.draw(st.integers(0, 511)) * PAGE + 1, PAGE)),
            "key": Put(taken, NONE),
            "block": Unused([data.draw(st.integers(0, 511)) * PAGE + 1]),
            "file": Put(mine, Stored(mine, -5, PAGE)),
        }[what]
        self.session.hear(worker, encoder.encode([message]))
        assert worker.outlaw

    @precondition(lambda self: self.busy())
    @rule(data=st.data())
    def a_worker_retires_after_a_call(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        if worker.actor is None:
            self.end_call(data, worker, "done", 10)
            self.session.tell(worker, Leaving("retired", False))
            self.session.die(worker, "exited with code 0")

    # ------------------------------------------------------------------- promises

    @invariant()
    def what_the_driver_holds_is_there(self) -> None:
        if hasattr(self, "session"):
            assert set(self.held) <= set(self.session.hub.rows), "an object with a reference was dropped"

    @invariant()
    def memory_in_use_is_that_of_known_objects(self) -> None:
        if not hasattr(self, "session"):
            return
        hub = self.session.hub
        stored = [row.value for row in hub.rows.values() if isinstance(row.value, Stored)]
        stored += [
            row.value for stream in hub.streams.values() for row in stream.items if isinstance(row.value, Stored)
        ]
        blocks = [(value.offset, value.size) for value in stored if value.offset >= 0]
        assert {value.key for value in stored if value.offset < 0} <= set(self.session.disk), "a file is gone"
        assert set(self.session.disk) <= {value.key for value in stored}, "a file has no owner"
        blocks += [grant for worker in hub.workers.values() for grant in worker.granted]
        assert len({offset for offset, _ in blocks}) == len(blocks), "two objects share a block"
        assert self.session.arena.used == sum(-(-size // PAGE) * PAGE for _, size in blocks), "a block has no owner"

    @invariant()
    def what_is_not_free_is_lent(self) -> None:
        if not hasattr(self, "session"):
            return
        scheduler = self.session.hub.scheduler
        free = dict(scheduler.total)
        for worker in self.session.hub.workers.values():
            for name, units in worker.taken:
                if name != "CPU" or not worker.blocked:
                    free[name] -= units
        assert {name: scheduler.free.get(name, 0) for name in free} == free
        for name, units in free.items():
            assert units >= 0 or (name == "CPU" and self.came_back), f"{name} is lent twice"
        assert all(0 <= left <= CPU for left in scheduler.head.gpus.values())

    @invariant()
    def nobody_who_could_run_waits_for_ever(self) -> None:
        """Whatever fits into what is free has a worker on its way, or a worker of its own that will take it."""
        if not hasattr(self, "session"):
            return
        hub = self.session.hub
        for family in hub.scheduler.families.values():
            waiting = [row for row in family.queue if row.spec is not None and row.state == 0]
            if waiting and not family.infeasible and has_room(family.need, hub.scheduler.head):
                coming = hub.scheduler.head.starting.get(family.environment, 0)
                assert family in hub.scheduler.waiting and (coming or family.workers), "a call was forgotten"

    @invariant()
    def no_dead_worker_is_at_work(self) -> None:
        if hasattr(self, "session"):
            hub = self.session.hub
            living = set(hub.workers.values())
            assert all(row.worker is None or row.worker in living for row in hub.rows.values() if row.spec is not None)

    def teardown(self) -> None:
        """Everybody finishes, everybody lets go."""
        if not hasattr(self, "session"):
            return
        try:
            if sys.exc_info()[0] is None:  # otherwise a rule was left in the middle
                self.settle()
        finally:
            self.session.close()

    def settle(self) -> None:
        session = self.session
        for key in list(self.held):
            for _ in range(self.held[key]):
                self.drop(key)
        for _ in range(3000):
            if not self.go_on():
                break
        self.give_up_what_waits()
        for worker in list(session.hub.workers.values()):
            session.die(worker)
            session.arrive()
        for _ in range(100):
            self.answer_leave()
            session.arrive()
            for worker in self.busy():
                session.tell(worker, Failed(next(iter(worker.running)), ERROR))
            for worker in list(session.hub.workers.values()):
                if (worker.actor is None or worker.actor.dead) and not worker.running:  # killed, if its actor is dead
                    session.die(worker)
        session.check_empty()
        assert session.hub.scheduler.free == session.hub.scheduler.total
        assert list(session.hub.scheduler.head.gpus.values()) == [CPU, CPU]
        assert session.arena.used == 0

    def go_on(self) -> bool:
        """Whoever can do something does; whether there was anybody."""
        session = self.session
        session.wait(0.001)
        session.arrive()
        self.answer_leave()
        for worker in list(session.hub.workers.values()):
            if worker.outlaw:
                session.die(worker)
        if self.busy():
            worker = self.busy()[0]
            session.tell(worker, Failed(next(iter(worker.running)), ERROR))
        elif waiting := [worker for worker in self.workers() if worker.questions]:
            session.die(waiting[0])  # what it waits for will never come, as far as this script goes
        else:
            return bool(session.newcomers)
        return True

    def give_up_what_waits(self) -> None:
        """When nothing goes on, all that waits waits for what there never is, or an actor has that it keeps alive."""
        hub = self.session.hub
        for family in hub.scheduler.families.values():
            for row in list(family.queue):
                if row.spec is not None:
                    fits = has_room(family.need, hub.scheduler.head)
                    assert family.infeasible or not fits, "a call that could run was not run"
                    hub.cancel(row.spec.task, False, False)

    def answer_leave(self) -> None:
        for worker in list(self.session.hub.workers.values()):
            if worker.link.of(Leave):
                self.session.die(worker, "exited with code 0")


TestCounting = Counting.TestCase
TestCounting.settings = settings(max_examples=100, stateful_step_count=50, phases=[Phase.generate])
