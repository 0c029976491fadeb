"""The scheduler with several nodes, against a model: each keeps its books, and no wish about the place is broken."""

from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from test_scheduler import CPU, ONE_CPU, Bench, ComingAndGoing

from skate.core.ids import node_hex
from skate.core.placement import LabelTest, Where, matches
from skate.core.spec import Resources
from skate.engines.local.rows import HEAD, Family, Node, Row

SHAPES: list[dict[str, int]] = [
    {"CPU": CPU},
    {"CPU": 2 * CPU, "GPU": CPU},
    {"CPU": 4 * CPU, "disk": 3},
    {"CPU": 0, "disk": 1},
]
LABELS: list[dict[str, str]] = [{}, {"zone": "a"}, {"zone": "b"}, {"zone": "a", "fast": "yes"}]
NEEDS: list[Resources] = [
    (), ONE_CPU, (("CPU", CPU // 2),), (("CPU", 3 * CPU),), (("GPU", CPU // 2),), (("disk", 1),),
]  # fmt: skip


def zone(*values: str, negated: bool = False) -> tuple[LabelTest, ...]:
    return (LabelTest("zone", values, negated),)


WISHES: list[Where | None] = [
    None,
    Where(spread=True),
    *(Where(node=node_hex(number)) for number in (1, 2, 3)),
    *(Where(node=node_hex(number), soft=True) for number in (1, 2, 3)),
    *(Where(node=node_hex(number), soft=True, spill=True) for number in (2, 3)),
    Where(selectors=(zone("a"),)),
    Where(selectors=(zone("b", negated=True),)),
    Where(selectors=(zone("a"), zone("b"))),
    Where(spread=True, selectors=(zone(),)),
    Where(liked=zone("b")),
]


class NodesBench(Bench):
    """A bench whose nodes come and go, as `Hub.add_node` and `Hub.remove_node` have them come and go."""

    def __init__(self, total: dict[str, int]) -> None:
        super().__init__(total)
        self.keys = itertools.count(HEAD + 1)
        self.families: dict[int, Family] = {}
        self.homes: dict[int, Node] = {}
        """Where a call was sent."""

    def wish(self, where: Where | None, need: Resources = ONE_CPU, environment: str = "", priority: int = 0) -> Family:
        return self.scheduler.family(need, environment, None, where, priority)

    def add(self, family: Family, function: bytes = b"f", **options: object) -> Row:
        row = super().add(family, function, **options)
        assert row.spec is not None
        self.families[row.spec.task] = family
        return row

    def assign(self, decision: object) -> None:
        worker, row = decision  # type: ignore[misc]
        self.homes[row.spec.task] = worker.node
        super().assign(decision)  # type: ignore[arg-type]

    def join(self, total: dict[str, int], labels: dict[str, str] | None = None) -> Node:
        node = Node(next(self.keys), total, labels)
        self.scheduler.add_node(node)
        self.decide()
        return node

    def remove(self, node: Node) -> list[Row]:
        """The calls that were under way there, queued again."""
        again = []
        for worker in [*self.workers, *self.starting]:
            if worker.node is node:
                if worker.up:
                    self.scheduler.gone(worker)
                (self.workers if worker.up else self.starting).remove(worker)
                again += worker.running.values()
                worker.running = {}
        self.scheduler.remove_node(node)
        for row in again:
            assert row.spec is not None
            self.scheduler.add(self.families[row.spec.task], row)
        self.decide()
        return again

    def run_all(self) -> None:
        """Workers come up and calls end until nothing is left to do."""
        for _ in range(3000):
            if self.starting:
                self.arrive()
                assert len(self.workers) < 800, "workers are started without end"
            elif self.busy():
                self.finish(self.busy()[0])
            else:
                return
        raise AssertionError("there is no end to it")

    def counts(self) -> dict[int, int]:
        """How many calls run on each node."""
        found = dict.fromkeys(self.scheduler.nodes, 0)
        for worker in self.busy():
            found[worker.node.key] += len(worker.running)
        return found


class NodesAgainstAModel(ComingAndGoing):
    """Nodes join and leave while calls of all wishes come and go."""

    @initialize(total=st.sampled_from(SHAPES))
    def start(self, total: dict[str, int]) -> None:
        self.bench = NodesBench(total)
        self.queued: dict[int, Row] = {}
        self.came_back: set[Node] = set()
        self.sent: dict[int, Node] = {}

    # -------------------------------------------------------------------- rules

    @rule(where=st.sampled_from(WISHES), need=st.sampled_from(NEEDS), environment=st.sampled_from(["", "", "other"]),
          count=st.integers(1, 10), function=st.sampled_from([b"short", b"long", b"new"]), priority=st.sampled_from([0, 0, 3]))  # fmt: skip  # noqa: E501
    def submit(
        self, where: Where | None, need: Resources, environment: str, count: int, function: bytes, priority: int
    ) -> None:
        family = self.bench.wish(where, need, environment, priority)
        for _ in range(count):
            row = self.bench.add(family, function)
            assert row.spec is not None
            self.queued[row.spec.task] = row
        self.bench.decide()

    @precondition(lambda self: any(worker.blocked for worker in self.bench.workers))
    @rule(data=st.data())
    def unblock(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.bench.workers if worker.blocked]))
        self.came_back.add(worker.node)
        self.bench.scheduler.unblock(worker)

    @precondition(lambda self: len(self.bench.scheduler.nodes) < 6)
    @rule(total=st.sampled_from(SHAPES), labels=st.sampled_from(LABELS))
    def join(self, total: dict[str, int], labels: dict[str, str]) -> None:
        self.bench.join(total, labels)

    @precondition(lambda self: len(self.bench.scheduler.nodes) > 1)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        others = [node for node in self.bench.scheduler.nodes.values() if node.key != HEAD]
        self.bench.remove(data.draw(st.sampled_from(others)))

    @precondition(lambda self: self.bench.workers)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.bench.workers))
        self.bench.scheduler.gone(worker)
        self.bench.workers.remove(worker)
        for task, row in worker.running.items():
            self.bench.scheduler.add(self.bench.families[task], row)
        worker.running = {}
        self.bench.decide()

    # --------------------------------------------------------------- invariants

    @invariant()
    def each_node_keeps_its_own_books(self) -> None:
        if not hasattr(self, "bench"):
            return
        for node in self.bench.scheduler.nodes.values():
            free = dict(node.total)
            for worker in self.bench.workers:
                if worker.family is not None and worker.node is node:
                    assert worker.place is node
                    for name, units in worker.taken:
                        if name != "CPU" or not worker.blocked:
                            free[name] = free.get(name, 0) - units
            assert {n: u for n, u in node.free.items() if u} == {n: u for n, u in free.items() if u}
            for name, units in free.items():
                assert units >= 0 or (name == "CPU" and node in self.came_back), f"{name} is lent out twice on {node}"

    @invariant()
    def workers_of_a_node_are_idle_leased_or_starting_there(self) -> None:
        if not hasattr(self, "bench"):
            return
        resting = dict.fromkeys(("", "other"), 0)
        for node in self.bench.scheduler.nodes.values():
            idle = {id(worker) for workers in node.idle.values() for worker in workers}
            assert idle == {id(w) for w in self.bench.workers if w.node is node and w.family is None}
            for environment, workers in node.idle.items():
                resting[environment] += len(workers)
            on_the_way = [worker for worker in self.bench.starting if worker.node is node]
            assert sum(node.starting.values()) == len(on_the_way)
        assert {e: n for e, n in self.bench.scheduler.resting.items() if n} == {e: n for e, n in resting.items() if n}

    @invariant()
    def nobody_works_on_a_node_that_is_gone(self) -> None:
        if hasattr(self, "bench"):
            there = set(self.bench.scheduler.nodes.values())
            assert all(worker.node in there for worker in [*self.bench.workers, *self.bench.starting])

    @invariant()
    def no_wish_is_broken(self) -> None:
        if not hasattr(self, "bench"):
            return
        for worker in self.bench.workers:
            family, node = worker.family, worker.node
            if family is None or family.where is None:
                continue
            where = family.where
            if where.node and not where.soft:
                assert node.hex == where.node
            if where.selectors:
                assert any(matches(selector, node.labels) for selector in where.selectors)

    @invariant()
    def no_call_is_lost_or_in_two_places(self) -> None:
        if hasattr(self, "bench"):
            at_work = [task for worker in self.bench.workers for task in worker.running]
            families = self.bench.scheduler.families.values()
            waiting = [row.spec.task for family in families for row in family.queue if row.spec is not None]
            assert sorted(at_work + waiting) == sorted(t for t, row in self.queued.items() if row.spec is not None)

    def teardown(self) -> None:
        """In the end all has run that some node can run, and every node has all it had."""
        if not hasattr(self, "bench") or sys.exc_info()[0] is not None:
            return
        for worker in self.bench.workers:
            while worker.blocked:
                self.bench.scheduler.unblock(worker)
        self.bench.decide()
        self.bench.run_all()
        left = [task for task, row in self.queued.items() if row.spec is not None]
        assert all(self.bench.families[task].infeasible for task in left), "a call that could run was not run"
        for node in self.bench.scheduler.nodes.values():
            assert all(node.free.get(name, 0) == units for name, units in node.total.items())


TestNodesAgainstAModel = NodesAgainstAModel.TestCase
TestNodesAgainstAModel.settings = settings(max_examples=80, stateful_step_count=40)


# ------------------------------------------------------------------------ spread


@pytest.mark.parametrize("count", [1, 3, 4, 8, 11])
def test_spread_calls_go_to_the_nodes_in_turn(count):
    bench = NodesBench({"CPU": 4 * CPU})
    for _ in range(3):
        bench.join({"CPU": 4 * CPU})
    family = bench.wish(Where(spread=True))
    for _ in range(count):
        bench.add(family)
    bench.decide()
    bench.arrive_all()
    counts = bench.counts().values()
    assert sum(counts) == count and max(counts) - min(counts) <= 1


def test_spread_calls_that_come_one_by_one_go_to_the_nodes_in_turn():
    bench = NodesBench({"CPU": 4 * CPU})
    for _ in range(2):
        bench.join({"CPU": 4 * CPU})
    family = bench.wish(Where(spread=True))
    homes = []
    for _ in range(9):
        task = bench.add(family).spec.task
        bench.decide()
        bench.arrive_all()
        homes.append(bench.homes[task].key)
        bench.finish(bench.busy()[0])
    assert sorted(homes) == [1] * 3 + [2] * 3 + [3] * 3


def test_spread_goes_on_where_there_is_room():
    bench = NodesBench({"CPU": CPU})
    bench.join({"CPU": 5 * CPU})
    family = bench.wish(Where(spread=True))
    for _ in range(6):
        bench.add(family)
    bench.decide()
    bench.arrive_all()
    assert bench.counts() == {1: 1, 2: 5}


def test_a_node_that_leaves_takes_its_turn_along():
    bench = NodesBench({"CPU": 2 * CPU})
    second, _ = bench.join({"CPU": 2 * CPU}), bench.join({"CPU": 2 * CPU})
    family = bench.wish(Where(spread=True))
    for _ in range(6):
        bench.add(family)
    bench.decide()
    bench.remove(second)
    bench.arrive_all()
    assert bench.counts() == {1: 2, 3: 2}
    bench.run_all()
    assert len(bench.begun) == 6


# ---------------------------------------------------------- packing and preferences


def test_calls_are_packed_until_a_node_is_half_full_and_then_even_out():
    bench = NodesBench({"CPU": 4 * CPU})
    bench.join({"CPU": 4 * CPU})
    for _ in range(2):
        bench.add(bench.wish(None))
        bench.decide()
        bench.arrive_all()
    assert bench.counts() == {1: 2, 2: 0}
    for _ in range(4):
        bench.add(bench.wish(None))
        bench.decide()
        bench.arrive_all()
    assert bench.counts() == {1: 3, 2: 3}


def test_a_hard_wish_waits_for_its_node():
    bench = NodesBench({"CPU": 4 * CPU})
    node = bench.join({"CPU": CPU})
    family = bench.wish(Where(node=node.hex))
    for _ in range(3):
        bench.add(family)
    bench.decide()
    bench.arrive_all()
    assert bench.counts() == {1: 0, 2: 1}


def test_a_soft_wish_waits_too_and_goes_elsewhere_when_its_node_is_gone():
    bench = NodesBench({"CPU": 4 * CPU})
    node = bench.join({"CPU": CPU})
    family = bench.wish(Where(node=node.hex, soft=True))
    for _ in range(3):
        bench.add(family)
    bench.decide()
    bench.arrive_all()
    assert bench.counts() == {1: 0, 2: 1}
    bench.remove(node)
    bench.arrive_all()
    assert bench.counts() == {1: 3}


def test_a_soft_wish_that_spills_prefers_its_node_while_there_is_room():
    bench = NodesBench({"CPU": 4 * CPU})
    node = bench.join({"CPU": 2 * CPU})
    for _ in range(3):
        bench.add(bench.wish(Where(node=node.hex, soft=True, spill=True)))
    bench.decide()
    bench.arrive_all()
    assert bench.counts() == {1: 1, 2: 2}


def test_an_idle_worker_of_a_worse_node_does_not_draw_a_call_away():
    bench = NodesBench({"CPU": 4 * CPU})
    bench.add(bench.wish(None))
    bench.decide()
    bench.arrive_all()
    bench.finish(bench.busy()[0])
    node = bench.join({"CPU": CPU}, {"zone": "a"})
    task = bench.add(bench.wish(Where(liked=zone("a")))).spec.task
    bench.decide()
    bench.arrive_all()
    assert bench.homes[task] is node


def test_the_next_selector_counts_while_the_first_has_no_room():
    bench = NodesBench({"CPU": 4 * CPU})
    bench.join({"CPU": CPU}, {"zone": "a"})
    bench.join({"CPU": CPU}, {"zone": "b"})
    family = bench.wish(Where(selectors=(zone("a"), zone("b"))))
    for _ in range(3):
        bench.add(family)
    bench.decide()
    bench.arrive_all()
    assert bench.counts() == {1: 0, 2: 1, 3: 1}


def test_calls_that_nothing_could_run_go_when_a_node_comes_that_can():
    bench = NodesBench({"CPU": CPU})
    family = bench.wish(Where(selectors=(zone("a"),)))
    bench.add(family)
    bench.decide()
    assert family.infeasible and not bench.starting
    bench.join({"CPU": CPU}, {"zone": "b"})
    assert family.infeasible
    bench.join({"CPU": CPU}, {"zone": "a"})
    assert not family.infeasible
    bench.arrive_all()
    assert bench.counts() == {1: 0, 2: 0, 3: 1}


def test_a_leased_worker_gives_back_to_the_node_that_is_gone():
    bench = NodesBench({"CPU": CPU})
    node = bench.join({"CPU": 2 * CPU})
    bench.add(bench.wish(Where(node=node.hex)))
    bench.decide()
    bench.arrive_all()
    (worker,) = bench.busy()
    assert bench.remove(node)
    assert worker.family is None and bench.scheduler.free == {"CPU": CPU}
    assert not bench.starting and bench.scheduler.resting.get("", 0) == 0


# ---------------------------------------------------------------------- priority


def test_higher_priorities_go_first():
    bench = NodesBench({"CPU": CPU})
    order = []
    for priority in (0, 5, -1, 5, 2):
        order.append((-priority, bench.add(bench.wish(None, priority=priority)).spec.task))
    bench.decide()
    bench.arrive_all()
    while bench.busy():
        bench.finish(bench.busy()[0])
    assert [task for _, task in bench.begun] == [task for _, task in sorted(order)]


def test_a_long_queue_of_one_priority_does_not_starve_another_family_of_the_same():
    bench = NodesBench({"CPU": CPU, "disk": 9})
    for _ in range(300):
        bench.add(bench.wish(None, priority=4))
    bench.decide()
    bench.arrive_all()
    late = bench.add(bench.wish(None, (("CPU", CPU), ("disk", 1)), priority=4)).spec.task
    bench.decide()
    for _ in range(200):
        if late in bench.homes:
            break
        bench.finish(bench.busy()[0])
        bench.arrive_all()
    assert late in bench.homes, "200 calls went ahead of one of the same priority"


def test_a_higher_priority_that_comes_later_is_next():
    bench = NodesBench({"CPU": CPU})
    bench.scheduler.measured(b"f", 10)
    for _ in range(500):
        bench.add(bench.wish(None))
    bench.decide()
    bench.arrive_all()
    urgent = bench.add(bench.wish(None, priority=1)).spec.task
    bench.decide()
    ahead = 0
    while urgent not in bench.homes:
        bench.finish(bench.busy()[0], 10)
        bench.arrive_all()
        ahead += 1
    assert ahead <= 130, f"{ahead} calls of no priority went first"


# ------------------------------------------------------------------------- cost


def test_fifty_nodes_with_two_thousand_calls_are_no_trouble():
    bench = NodesBench({"CPU": 40 * CPU})
    for _ in range(49):
        bench.join({"CPU": 40 * CPU})
    family = bench.wish(Where(spread=True))
    for _ in range(2000):
        bench.add(family)
    bench.decide()
    for _ in range(5000):
        if not bench.starting:
            break
        bench.arrive()
    counts = bench.counts().values()
    assert sum(counts) == 2000 and max(counts) - min(counts) <= 1
