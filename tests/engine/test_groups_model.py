"""Placement groups against a model: the books of nodes and bundles are right at any moment, and all is given back."""

from __future__ import annotations

import sys

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scripted import CPU, NONE, Session

from skate.core.groups import CREATED, PENDING, RESCHEDULING
from skate.core.placement import Where
from skate.core.resources import UNIT, fits
from skate.core.spec import GroupSpec, Resources
from skate.engines.local.bundling import plan
from skate.engines.local.groups import Bundle, Group
from skate.engines.local.messages import Done, Failed, Get
from skate.engines.local.rows import FAILED, READY, Place, Worker

GPU = UNIT
ONE: Resources = (("CPU", CPU),)
BUNDLES: list[Resources] = [
    ONE, ONE, (("CPU", 2 * CPU),), (("CPU", CPU), ("GPU", GPU)), (("GPU", 6_000),), (("CPU", CPU), ("GPU", 4_000)),
    (("disk", 2),), (("CPU", 9 * CPU),),
]  # fmt: skip
NEEDS: list[Resources] = [ONE, ONE, (), (("GPU", 4_000),), (("GPU", GPU),), (("disk", 1),), (("CPU", 2 * CPU),)]
STRATEGIES = ["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


class GroupsAgainstAModel(RuleBasedStateMachine):
    """Plays the driver and its workers."""

    @initialize()
    def start(self) -> None:
        self.session = Session(cpus=3, GPU=2 * GPU, disk=4)
        self.hub, self.scheduler = self.session.hub, self.session.hub.scheduler
        self.refs: set[int] = set()
        self.actors: set[int] = set()
        self.came_back = False
        self.promised: dict[int, int] = {}
        """The group that an object becomes ready with."""

    @property
    def groups(self) -> list[Group]:
        return list(self.scheduler.groups.live.values()) if hasattr(self, "session") else []

    @property
    def workers(self) -> list[Worker]:
        return [
            w for w in self.hub.workers.values() if w.up and not w.outlaw and w.leaving is None and not w.node.death
        ]

    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.running and not worker.blocked]

    # ---------------------------------------------------------------------- rules

    @rule(bundles=st.lists(st.sampled_from(BUNDLES), min_size=1, max_size=3), strategy=st.sampled_from(STRATEGIES),
          ask=st.booleans())  # fmt: skip
    def make(self, bundles: list[Resources], strategy: str, ask: bool) -> None:
        key = self.session.new()
        self.hub.reserve(key, GroupSpec(tuple(bundles), strategy), None)
        if ask:
            promise = self.session.new()
            self.hub.await_group(promise, key, NONE, None)
            self.refs.add(promise)
            self.promised[promise] = key

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.hub.unreserve(data.draw(st.sampled_from(self.groups)).key)

    def where(self, data: st.DataObject) -> Where | None:
        if not self.groups or not data.draw(st.integers(0, 3)):
            return None
        group = data.draw(st.sampled_from(self.groups))
        return Where(group=group.key, bundle=data.draw(st.integers(-1, len(group.bundles) - 1)))

    @rule(data=st.data(), need=st.sampled_from(NEEDS), retries=st.sampled_from([0, 3]), count=st.integers(1, 3))
    def submit(self, data: st.DataObject, need: Resources, retries: int, count: int) -> None:
        where = self.where(data)
        for _ in range(count):
            self.refs.add(self.session.task(resources=need, where=where, max_retries=retries))

    @rule(data=st.data(), need=st.sampled_from(NEEDS[:5]), restarts=st.sampled_from([0, -1]))
    def spawn(self, data: st.DataObject, need: Resources, restarts: int) -> None:
        least = need or ONE
        self.actors.add(
            self.session.actor(resources=need, placement=least, max_restarts=restarts, where=self.where(data))
        )

    @precondition(lambda self: hasattr(self, "session") and self.session.newcomers)
    @rule(count=st.sampled_from([1, 100]))
    def arrive(self, count: int) -> None:
        self.session.arrive(count)

    @rule(count=st.integers(1, 3), strategy=st.sampled_from(STRATEGIES))
    def make_while_tasks_hold_everything(self, count: int, strategy: str) -> None:
        for _ in range(count):
            self.refs.add(self.session.task(resources=ONE))
        self.session.arrive()
        self.hub.reserve(self.session.new(), GroupSpec((ONE,) * count, strategy), None)

    @precondition(lambda self: hasattr(self, "session") and self.busy())
    @rule(data=st.data(), well=st.booleans())
    def finish(self, data: st.DataObject, well: bool) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        task = next(iter(worker.running))
        if well or worker.actor is not None:
            self.session.tell(worker, Done(task, NONE, (), 1_000_000))
        else:
            self.session.tell(worker, Failed(task, NONE, False, False, 1_000_000))

    @precondition(lambda self: hasattr(self, "session") and self.busy() and self.refs)
    @rule(data=st.data())
    def block(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        key = data.draw(st.sampled_from(sorted(self.refs)))
        self.session.tell(worker, Get(next(self.session.requests), [key], 1, 50.0, False, True))
        self.came_back = True

    @rule()
    def time_passes(self) -> None:
        self.session.wait(20.0)

    @precondition(lambda self: hasattr(self, "session") and self.hub.workers)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(list(self.hub.workers.values())))
        if worker in self.session.newcomers:
            self.session.newcomers.remove(worker)
        self.session.die(worker)

    @rule(cpus=st.integers(1, 3), gpus=st.integers(0, 1))
    def add_node(self, cpus: int, gpus: int) -> None:
        if len(self.scheduler.nodes) < 4:
            total = {"CPU": cpus * CPU, "GPU": gpus * GPU, "disk": 2}
            self.hub.add_node({n: u for n, u in total.items() if u}, {}, "", self.hub.next_node())

    @precondition(lambda self: hasattr(self, "session") and len(self.scheduler.nodes) > 1)
    @rule(data=st.data())
    def remove_node(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([key for key in self.scheduler.nodes if key != 1]))
        self.hub.remove_node(key)

    @precondition(lambda self: hasattr(self, "session") and self.refs)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.refs)))
        self.refs.discard(key)
        self.session.release(key)

    @precondition(lambda self: hasattr(self, "session") and self.actors)
    @rule(data=st.data())
    def drop_actor(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.actors)))
        self.actors.discard(key)
        self.session.release(key)

    # ----------------------------------------------------------------- invariants

    def set_aside(self) -> list[Bundle]:
        return [bundle for group in self.groups for bundle in group.bundles if bundle is not None]

    def check_books(self, place: Place, inside: list[Bundle]) -> None:
        """What a place has left is what it has, less what is set aside and what its workers hold."""
        free = dict(place.total)
        gpus = dict.fromkeys(place.gpus, min(UNIT, place.total.get("GPU", 0)))
        for bundle in inside:
            for name, units in bundle.need:
                free[name] -= units
            for number in bundle.gpus:
                gpus[number] -= min(UNIT, dict(bundle.need)["GPU"])
        for worker in self.hub.workers.values():
            if worker.family is None or worker.place is not place:
                continue
            for name, units in worker.taken:
                if name != "CPU" or not worker.blocked:
                    free[name] -= units
            for number in worker.gpus:
                gpus[number] -= min(UNIT, dict(worker.taken)["GPU"])
        assert {n: u for n, u in place.free.items() if u} == {n: u for n, u in free.items() if u}
        assert place.gpus == gpus and min(gpus.values(), default=0) >= 0
        assert all(units >= 0 or (name == "CPU" and self.came_back) for name, units in place.free.items())

    @invariant()
    def the_books_are_right(self) -> None:
        bundles = self.set_aside()
        for node in self.scheduler.nodes.values() if hasattr(self, "session") else ():
            self.check_books(node, [bundle for bundle in bundles if bundle.node is node])
        for bundle in bundles:
            assert bundle.total == dict(bundle.need) and bundle.node.key in self.scheduler.nodes
            self.check_books(bundle, [])

    @invariant()
    def workers_are_where_their_family_may_be(self) -> None:
        if not hasattr(self, "session"):
            return
        places = {id(place) for place in (*self.scheduler.nodes.values(), *self.set_aside())}
        for worker in self.workers:
            if worker.family is not None:
                assert id(worker.place) in places and worker.place.node is worker.node
                where = worker.family.where
                assert isinstance(worker.place, Bundle) == (where is not None)
                if where is not None and where.group:
                    group = self.scheduler.groups.live[where.group]
                    assert worker.place in group.bundles
                    assert where.bundle in (-1, worker.place.number)  # type: ignore[attr-defined]

    @invariant()
    def states_and_strategies_hold(self) -> None:
        for group in self.groups:
            nodes = [bundle.node for bundle in group.bundles if bundle is not None]
            whole = len(nodes) == len(group.bundles)
            assert group.state == (CREATED if whole else group.state) and (whole or group.state != CREATED)
            assert group.state != PENDING or not nodes
            if group.spec.strategy == "STRICT_PACK":
                assert len(set(nodes)) <= 1
            if group.spec.strategy == "STRICT_SPREAD":
                assert len(set(nodes)) == len(nodes)

    @invariant()
    def no_group_waits_that_could_be_placed(self) -> None:
        for group in self.groups:
            if group.state in (PENDING, RESCHEDULING) and not group.hopeless:
                missing = [number for number, bundle in enumerate(group.bundles) if bundle is None]
                kept = [bundle.node for bundle in group.bundles if bundle is not None]
                assert plan(group.spec, missing, kept, self.scheduler.nodes.values()) is None

    @invariant()
    def who_waits_for_a_group_knows_its_state(self) -> None:
        for promise, key in self.promised.items() if hasattr(self, "session") else ():
            row = self.hub.rows.get(promise)
            group = self.scheduler.groups.live.get(key)
            if row is None:
                continue
            assert row.state or group is not None, "nobody will ever tell it"
            assert group is None or row.state != FAILED
            assert group is None or group.state != CREATED or row.state == READY

    @invariant()
    def nobody_is_forgotten(self) -> None:
        if not hasattr(self, "session"):
            return
        queued = {id(row) for family in self.scheduler.families.values() for row in family.queue}
        for row in self.hub.rows.values():
            if row.spec is not None and not row.spec.method and row.worker is None:
                assert id(row) in queued, "a call is neither queued nor at a worker, and has not ended"

    @invariant()
    def families_of_groups_go_with_them(self) -> None:
        if hasattr(self, "session"):
            known = {family.where.group for family in self.scheduler.families.values() if family.where is not None}
            assert known <= set(self.scheduler.groups.live)
            assert {g for g in self.hub.doubtful if isinstance(g, Group)} <= set(self.groups)

    def teardown(self) -> None:
        """When all groups are removed and all that can run has run, nothing is left and everything is free."""
        if not hasattr(self, "session"):
            return
        try:
            if sys.exc_info()[0] is None:
                self.wind_up()
        finally:
            self.session.close()

    def wind_up(self) -> None:
        for _ in range(300):
            self.session.wait(100.0)
            self.session.arrive()
            for worker in self.busy():
                self.session.tell(worker, Done(next(iter(worker.running)), NONE, (), 1_000_000))
        self.everything_that_could_run_has_run()
        for group in self.groups:
            self.hub.unreserve(group.key)
        for worker in list(self.hub.workers.values()):
            if worker.leaving is not None or worker.node.death:
                self.session.die(worker)
        for key in (*self.refs, *self.actors):
            self.session.release(key)
        for worker in list(self.hub.workers.values()):
            self.session.die(worker)
        for row in [row for row in self.hub.rows.values() if row.spec is not None]:
            self.hub.give_up(row, NONE)  # what nothing here could ever run
        for node in self.scheduler.nodes.values():
            assert {n: u for n, u in node.free.items() if u} == {n: u for n, u in node.total.items() if u}
            assert all(units == UNIT for units in node.gpus.values())
        assert not self.scheduler.groups.pending and not self.scheduler.groups.live
        self.session.check_empty()

    def everything_that_could_run_has_run(self) -> None:
        taken = {id(worker.place) for worker in self.workers if worker.actor is not None}
        for family in self.scheduler.families.values():
            waiting = [row for row in family.queue if row.spec is not None]
            free = [
                p for p in family.places if id(p) not in taken and fits(family.need, p.free) and "GPU" not in p.free
            ]
            assert not waiting or not free, "a call waits though there is room for it"


TestGroupsAgainstAModel = GroupsAgainstAModel.TestCase
TestGroupsAgainstAModel.settings = settings(max_examples=120, stateful_step_count=50)
