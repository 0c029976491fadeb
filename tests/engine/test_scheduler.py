"""The scheduler against a simple model: what is taken is given back, and whoever waits gets a turn."""

from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scripted import ScriptedWorker

from skate.core.spec import Resources, TaskOptions
from skate.engines.local.messages import TaskSpec
from skate.engines.local.rows import READY, Family, Row, Worker
from skate.engines.local.scheduler import SHORT, STARTING, Assign, Scheduler, Start

CPU = 10_000
ONE_CPU: Resources = (("CPU", CPU),)
NEEDS: list[Resources] = [
    (), ONE_CPU, (("CPU", CPU // 2),), (("CPU", 2 * CPU),), (("CPU", CPU), ("GPU", CPU)), (("GPU", CPU),),
    (("GPU", 2 * CPU),), (("GPU", 6_000),), (("GPU", 3_000),), (("CPU", CPU // 10), ("disk", 5)),
    (("disk", 20),), (("CPU", 99 * CPU),), (("other", 1),),
]  # fmt: skip
"""The last two can never be met."""
TOTAL = {"CPU": 3 * CPU, "GPU": 3 * CPU, "disk": 20}
LONG = 100 * SHORT


class Bench:
    """Runs a scheduler as the hub does, and remembers what happened."""

    def __init__(self, total: dict[str, int] = TOTAL) -> None:
        self.scheduler = Scheduler(total)
        self.numbers = itertools.count(1)
        self.starting: list[Worker] = []
        self.workers: list[Worker] = []
        self.begun: list[tuple[Family, int]] = []
        self.functions: dict[int, bytes] = {}

    def family(self, need: Resources = ONE_CPU, environment: str = "", actors: bool = False) -> Family:
        return self.scheduler.family(need, environment, need if actors else None)

    def add(self, family: Family, function: bytes = b"f", **options: object) -> Row:
        task = next(self.numbers)
        row = Row(spec=TaskSpec(task, function, b""), options=TaskOptions(**options))  # type: ignore[arg-type]
        self.functions[task] = function
        self.scheduler.add(family, row)
        return row

    def decide(self) -> None:
        for decision in self.scheduler.decide():
            if isinstance(decision, Start):
                for _ in range(decision.workers):
                    self.starting.append(ScriptedWorker(next(self.numbers), decision.environment, decision.node))
            else:
                self.assign(decision)

    def assign(self, decision: Assign) -> None:
        worker, row = decision
        assert row.spec is not None and worker.family is not None
        worker.running[row.spec.task] = row
        self.begun.append((worker.family, row.spec.task))

    def arrive(self, worker: Worker | None = None) -> None:
        worker = worker or self.starting[0]
        self.starting.remove(worker)
        worker.up = True
        self.workers.append(worker)
        self.scheduler.arrived(worker)
        self.decide()

    def arrive_all(self) -> None:
        for _ in range(200):
            if self.starting:
                self.arrive()
        assert not self.starting, "workers are started without end"

    def finish(self, worker: Worker, took: int = LONG) -> int:
        """The worker's first call ends; it gets more, or rests."""
        task, row = next(iter(worker.running.items()))
        del worker.running[task]
        row.state, row.spec = READY, None
        self.scheduler.measured(self.functions[task], took)
        if len(worker.running) <= worker.low:
            for decision in self.scheduler.refill(worker):
                self.assign(decision)
            if not worker.running:
                self.scheduler.dry(worker, 0.0)
                self.decide()
        return task

    def gone(self, worker: Worker) -> None:
        self.scheduler.gone(worker)
        (self.workers if worker.up else self.starting).remove(worker)
        for row in worker.running.values():
            self.scheduler.add(worker_family(self, row), row)
        worker.running = {}
        self.decide()

    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.running]


def worker_family(bench: Bench, row: Row) -> Family:
    return bench.families[row.spec.task] if hasattr(bench, "families") else bench.family()  # type: ignore[union-attr]


class ComingAndGoing(RuleBasedStateMachine):
    """What happens to workers and their calls on any machine."""

    bench: Bench

    @precondition(lambda self: self.bench.starting)
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        self.bench.arrive(data.draw(st.sampled_from(self.bench.starting)))

    @precondition(lambda self: self.bench.busy())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.bench.busy()))
        if not worker.blocked:
            function = self.bench.functions[next(iter(worker.running))]
            self.bench.finish(worker, 10 if function == b"short" else LONG)

    @precondition(lambda self: self.bench.busy())
    @rule(data=st.data())
    def block(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.bench.busy()))
        self.bench.scheduler.block(worker)
        self.bench.decide()


class SchedulerAgainstAModel(ComingAndGoing):
    """Every promise that holds at any moment is an invariant; that all is run in the end is checked at the end."""

    @initialize()
    def start(self) -> None:
        self.bench = Bench()
        self.bench.families = {}  # type: ignore[attr-defined]
        self.queued: dict[int, Row] = {}
        self.came_back = False

    @property
    def scheduler(self) -> Scheduler:
        return self.bench.scheduler

    # -------------------------------------------------------------------- rules

    @rule(need=st.sampled_from(NEEDS), environment=st.sampled_from(["", "", "other"]), count=st.integers(1, 12),
          function=st.sampled_from([b"short", b"long", b"new"]), retires=st.booleans())  # fmt: skip
    def submit(self, need: Resources, environment: str, count: int, function: bytes, retires: bool) -> None:
        family = self.bench.family(need, environment)
        for _ in range(count):
            row = self.bench.add(family, function, max_calls=int(retires))
            self.bench.families[row.spec.task] = family  # type: ignore[attr-defined, union-attr]
            self.queued[row.spec.task] = row  # type: ignore[union-attr]
        self.bench.decide()

    @precondition(lambda self: any(worker.blocked for worker in self.bench.workers))
    @rule(data=st.data())
    def unblock(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.bench.workers if worker.blocked]))
        self.came_back = True
        self.scheduler.unblock(worker)

    @precondition(lambda self: self.bench.workers or self.bench.starting)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        self.bench.gone(data.draw(st.sampled_from(self.bench.workers + self.bench.starting)))

    @precondition(lambda self: any(row.spec is not None for row in self.queued.values()))
    @rule(data=st.data())
    def cancel_one_that_waits(self, data: st.DataObject) -> None:
        at_work = {task for worker in self.bench.workers for task in worker.running}
        waiting = [task for task, row in self.queued.items() if row.spec is not None and task not in at_work]
        if waiting:
            row = self.queued[data.draw(st.sampled_from(waiting))]
            row.state, row.spec = READY, None

    # --------------------------------------------------------------- invariants

    def holding(self) -> list[Worker]:
        return [worker for worker in self.bench.workers if worker.family is not None]

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "bench"):
            return
        free = dict(TOTAL)
        for worker in self.holding():
            for name, units in worker.taken:
                if name != "CPU" or not worker.blocked:
                    free[name] = free.get(name, 0) - units
        found = {name: units for name, units in self.scheduler.free.items() if units or name in TOTAL}
        assert found == {name: units for name, units in free.items() if units or name in TOTAL}
        for name, units in found.items():
            assert units <= TOTAL.get(name, 0)
            assert units >= 0 or (name == "CPU" and self.came_back), (
                f"{name} is below zero though nobody came back for it"
            )

    @invariant()
    def a_worker_has_one_long_call_at_most(self) -> None:
        if hasattr(self, "bench"):
            for worker in self.bench.workers:
                tasks = list(worker.running)
                assert all(self.bench.functions[task] != b"long" for task in tasks[1:]) or self.mean(b"long") is None
                assert sum(self.bench.functions[task] in (b"long", b"new") for task in tasks) <= 1

    def mean(self, function: bytes) -> float | None:
        return self.scheduler.speed.get(function)

    @invariant()
    def no_call_is_at_two_workers_or_both_queued_and_sent(self) -> None:
        if hasattr(self, "bench"):
            at_work = [task for worker in self.bench.workers for task in worker.running]
            queued = [r.spec.task for f in self.scheduler.families.values() for r in f.queue if r.spec is not None]
            everything = at_work + queued
            assert len(everything) == len(set(everything))
            unfinished = {task for task, row in self.queued.items() if row.spec is not None}
            assert set(everything) == unfinished, "a call was lost, or came back from the dead"

    @invariant()
    def workers_are_idle_or_leased(self) -> None:
        if hasattr(self, "bench"):
            idle = [worker for workers in self.scheduler.head.idle.values() for worker in workers]
            assert len(idle) == len(set(map(id, idle)))
            assert {id(w) for w in idle} == {id(w) for w in self.bench.workers if w.family is None}
            assert all(not worker.running for worker in idle)
            for environment, workers in self.scheduler.head.idle.items():
                assert all(worker.environment == environment for worker in workers)
            counted = {e: n for e, n in self.scheduler.head.starting.items() if n}
            assert sum(counted.values()) == len(self.bench.starting)

    @invariant()
    def no_gpu_is_lent_more_than_once_over(self) -> None:
        if hasattr(self, "bench"):
            left = [CPU] * 3
            for worker in self.holding():
                units = dict(worker.taken).get("GPU", 0)
                assert len(set(worker.gpus)) == len(worker.gpus) == -(-units // CPU)
                for number in worker.gpus:
                    left[number] -= min(CPU, units)
            assert left == list(self.scheduler.head.gpus.values())
            assert min(left) >= 0, "whole GPUs overlap, or fractions of one sum up to more than it"

    @invariant()
    def no_more_workers_than_could_ever_be_of_use(self) -> None:
        if hasattr(self, "bench"):
            idle = sum(map(len, self.scheduler.head.idle.values()))
            assert idle + len(self.bench.starting) <= 3 * STARTING, "workers are started without end"

    def teardown(self) -> None:
        """When everybody comes back and workers come and finish, all that can be run is run, and all is given back."""
        if not hasattr(self, "bench") or sys.exc_info()[0] is not None:
            return
        for worker in self.bench.workers:
            while worker.blocked:
                self.scheduler.unblock(worker)
        self.bench.decide()
        for _ in range(2000):
            if self.bench.starting:
                self.bench.arrive()
                assert len(self.bench.workers) < 500, "workers are started without end"
            elif self.bench.busy():
                self.bench.finish(self.bench.busy()[0])
            else:
                break
        left = [row.spec.task for row in self.queued.values() if row.spec is not None]
        assert all(self.bench.families[task].infeasible for task in left), "a call that could run was not run"  # type: ignore[attr-defined]
        assert all(self.scheduler.free.get(name, 0) == units for name, units in TOTAL.items())
        assert list(self.scheduler.head.gpus.values()) == [CPU] * 3


TestSchedulerAgainstAModel = SchedulerAgainstAModel.TestCase
TestSchedulerAgainstAModel.settings = settings(max_examples=80, stateful_step_count=40)


# ------------------------------------------------------------------------ order


def test_calls_of_a_family_run_in_the_order_of_their_submission():
    bench = Bench({"CPU": 2 * CPU})
    tasks = [bench.add(bench.family()).spec.task for _ in range(20)]
    bench.decide()
    bench.arrive_all()
    while bench.busy():
        bench.finish(bench.busy()[0])
    assert [task for _, task in bench.begun] == tasks


def test_two_families_of_long_calls_take_turns():
    bench = Bench({"CPU": 2 * CPU, "disk": 9})
    one, two = bench.family(), bench.family((("CPU", CPU), ("disk", 1)))
    for _ in range(30):
        bench.add(one)
    for _ in range(30):
        bench.add(two, b"g")
    bench.decide()
    bench.arrive_all()
    while bench.busy():
        bench.finish(bench.busy()[0])
    order = [family for family, _ in bench.begun]
    for k in range(2, 60):
        ahead = order[:k].count(one) - order[:k].count(two)
        assert abs(ahead) <= 4 or k > 56, f"after {k} calls one family is {ahead} ahead"


def test_a_long_queue_of_short_calls_does_not_keep_another_family_waiting_to_its_end():
    bench = Bench({"CPU": CPU, "disk": 9})
    bench.scheduler.measured(b"f", 10)
    short, other = bench.family(), bench.family((("CPU", CPU), ("disk", 1)))
    for _ in range(2000):
        bench.add(short)
    bench.decide()
    bench.arrive_all()
    late = bench.add(other, b"g").spec.task
    bench.decide()
    finished = 0
    while late not in {task for _, task in bench.begun}:
        bench.finish(bench.busy()[0], 10)
        bench.arrive_all()
        finished += 1
        assert finished < 1000, "a thousand short calls went ahead of one that was waiting all the time"


def test_two_families_of_short_calls_still_travel_in_company():
    bench = Bench({"CPU": CPU, "disk": 9})
    for function in (b"f", b"g"):
        bench.scheduler.measured(function, 10)
    one, two = bench.family(), bench.family((("CPU", CPU), ("disk", 1)))
    for _ in range(500):
        bench.add(one)
        bench.add(two, b"g")
    bench.decide()
    bench.arrive_all()
    deepest = 0
    while bench.busy():
        deepest = max(deepest, len(bench.busy()[0].running))
        bench.finish(bench.busy()[0], 10)
        bench.arrive_all()
    assert deepest >= 8
    assert len(bench.begun) == 1000


def test_short_calls_queue_in_a_worker_and_long_ones_do_not():
    bench = Bench({"CPU": CPU})
    bench.scheduler.measured(b"short", 10)
    bench.scheduler.measured(b"long", LONG)
    for function in (b"short", b"long"):
        for _ in range(50):
            bench.add(bench.family(), function)
    bench.decide()
    bench.arrive_all()
    deepest: dict[bytes, int] = {b"short": 0, b"long": 0}
    while bench.busy():
        (worker,) = bench.busy()
        function = bench.functions[next(iter(worker.running))]
        deepest[function] = max(deepest[function], len(worker.running))
        bench.finish(worker, 10 if function == b"short" else LONG)
    assert deepest[b"short"] > 5 and deepest[b"long"] == 1


def test_short_calls_are_shared_out_among_the_workers():
    bench = Bench({"CPU": 2 * CPU})
    bench.scheduler.measured(b"f", 10)
    for _ in range(12):
        bench.add(bench.family())
    bench.decide()
    bench.arrive_all()
    assert [len(worker.running) for worker in bench.workers] != [12, 0]
    assert min(len(worker.running) for worker in bench.workers) >= 3


def test_a_function_that_becomes_long_is_found_out():
    scheduler = Scheduler({"CPU": CPU})
    assert scheduler.depth(b"f") == 1, "nobody knows yet"
    scheduler.measured(b"f", 10)
    assert scheduler.depth(b"f") > 10
    for _ in range(3):
        scheduler.measured(b"f", 50_000)
    assert scheduler.depth(b"f") == 1


@pytest.mark.parametrize("mean", [0, 1, 10, 100, 500, 999, 1000])
def test_the_work_queued_in_a_worker_is_bounded(mean):
    scheduler = Scheduler({"CPU": CPU})
    scheduler.measured(b"f", mean)
    assert 2 <= scheduler.depth(b"f") <= 128
    assert scheduler.depth(b"f") * mean <= 5_000 or scheduler.depth(b"f") == 2


# ------------------------------------------------------------- blocking and GPUs


def test_a_blocked_worker_lends_its_cpu_and_keeps_its_gpu_and_memory():
    bench = Bench({"CPU": CPU, "GPU": CPU, "memory": 1000})
    family = bench.family((("CPU", CPU), ("GPU", CPU), ("memory", 1000)))
    bench.add(family)
    bench.decide()
    bench.arrive_all()
    (worker,) = bench.busy()
    bench.scheduler.block(worker)
    assert bench.scheduler.free == {"CPU": CPU, "GPU": 0, "memory": 0}
    bench.scheduler.unblock(worker)
    assert bench.scheduler.free == {"CPU": 0, "GPU": 0, "memory": 0}
    bench.finish(worker)
    assert bench.scheduler.free == {"CPU": CPU, "GPU": CPU, "memory": 1000}


def test_a_worker_that_dies_while_blocked_gives_back_each_thing_once():
    bench = Bench({"CPU": CPU, "GPU": CPU})
    bench.add(bench.family((("CPU", CPU), ("GPU", CPU))))
    bench.decide()
    bench.arrive_all()
    (worker,) = bench.busy()
    bench.scheduler.block(worker)
    bench.scheduler.gone(worker)
    assert bench.scheduler.free == {"CPU": CPU, "GPU": CPU} and list(bench.scheduler.head.gpus.values()) == [CPU]
    bench.scheduler.unblock(worker)
    assert bench.scheduler.free == {"CPU": CPU, "GPU": CPU}


def test_fractions_of_a_gpu_fill_it_and_never_more():
    bench = Bench({"CPU": 10 * CPU, "GPU": 2 * CPU})
    for units in (6_000, 6_000, 4_000, 4_000):
        bench.add(bench.family((("GPU", units),)))
    bench.decide()
    bench.arrive_all()
    load = {0: 0, 1: 0}
    for worker in bench.busy():
        (number,) = worker.gpus
        load[number] += dict(worker.taken)["GPU"]
    assert load == {0: CPU, 1: CPU}


def test_a_whole_gpu_is_never_one_that_is_shared():
    bench = Bench({"CPU": 10 * CPU, "GPU": 2 * CPU})
    for units in (5_000, 10_000, 5_000):
        bench.add(bench.family((("GPU", units),)))
    bench.decide()
    bench.arrive_all()
    whole = {number for worker in bench.busy() for number in worker.gpus if dict(worker.taken)["GPU"] == CPU}
    shared = {number for worker in bench.busy() for number in worker.gpus if dict(worker.taken)["GPU"] < CPU}
    assert len(bench.busy()) == 3 and not whole & shared


def test_a_gpu_that_is_free_only_in_pieces_starts_no_workers_for_nothing():
    bench = Bench({"CPU": 10 * CPU, "GPU": 2 * CPU})
    for units in (6_000, 6_000, 8_000):
        bench.add(bench.family((("GPU", units),)))
    bench.decide()
    for _ in range(20):
        if bench.starting:
            bench.arrive()
    assert not bench.starting and len(bench.workers) <= 4
    bench.finish(bench.busy()[0])
    assert sorted(dict(worker.taken)["GPU"] for worker in bench.busy()) == [6_000, 8_000]


def test_a_call_that_leaves_nothing_to_decide_gets_its_worker_at_once_and_no_other_is_passed_over() -> None:
    bench = Bench({"CPU": 2 * CPU})
    family = bench.family()
    bench.add(family)
    bench.decide()
    bench.arrive_all()
    bench.finish(bench.busy()[0])
    worker = bench.scheduler.at_once(family)
    assert worker is not None and worker.family is family
    assert bench.scheduler.free == {"CPU": CPU}
    assert bench.scheduler.at_once(family) is None  # no worker is idle
    bench.scheduler.dry(worker, 0.0)
    bench.add(bench.family((("CPU", 2 * CPU),)))
    assert bench.scheduler.at_once(family) is None  # another came first
    assert bench.scheduler.at_once(bench.family((("other", 1),))) is None
