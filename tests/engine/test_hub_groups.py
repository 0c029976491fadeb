"""Placement groups in the hub: who is told, who is warned, what a worker may say."""

from __future__ import annotations

import pytest
from scripted import CPU, NONE, Session

from skate.core.groups import GroupNameTaken, GroupUnschedulable, Misfit
from skate.core.placement import Where
from skate.core.serialization import unpack
from skate.core.spec import GroupSpec
from skate.engines.local.messages import Answer, Ask, Get, Values, encode_any, encoder
from skate.engines.local.rows import PENDING, READY
from skate.exceptions import (
    ActorPlacementGroupRemoved,
    DeadlockError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    WorkerCrashedError,
)

ONE = (("CPU", CPU),)


def reserve(session: Session, *bundles: object, strategy: str = "PACK", name: str = "") -> int:
    key = session.new()
    session.hub.reserve(key, GroupSpec(bundles or (ONE,), strategy, name, "test"), None)  # type: ignore[arg-type]
    return key


def ready(session: Session, group: int) -> int:
    key = session.new()
    session.hub.await_group(key, group, NONE, None)
    return key


# ---------------------------------------------------------------------- who is told


def test_objects_become_ready_with_their_group(session: Session) -> None:
    first = reserve(session, (("CPU", 2 * CPU),))
    second = reserve(session)
    assert session.is_ready(ready(session, first))
    refs = [ready(session, second) for _ in range(2)]
    dependent = session.task(deps=(refs[0],))
    assert [session.row(ref).state for ref in refs] == [PENDING] * 2
    session.hub.unreserve(first)
    assert [session.row(ref).state for ref in refs] == [READY] * 2
    assert session.up_with(dependent).running


def test_asking_again_and_again_costs_nothing_in_the_end(session: Session) -> None:
    reserve(session, (("CPU", 2 * CPU),))
    group = reserve(session)
    for _ in range(1000):
        session.release(ready(session, group))
    assert len(session.hub.scheduler.groups.live[group].promises) < 100
    assert session.hub.rows == {}


def test_a_group_that_nobody_can_take_is_warned_of_once(session: Session) -> None:
    many = (("CPU", 99 * CPU),)
    groups = [reserve(session, many) for _ in range(3)]
    assert len(session.warnings) == 1
    assert "99" in session.warnings[0] and "CPU: 2" in session.warnings[0]
    task = session.task(resources=many, where=Where(group=groups[0]))
    assert len(session.warnings) == 1, "of its calls nothing more needs to be said"
    found = session.hub.hopeless([session.row(task)], 1)
    assert found is not None and found[0] is session.row(task)
    found = session.hub.hopeless([session.row(ready(session, groups[1]))], 1)
    assert found is not None
    for group in groups:
        session.hub.unreserve(group)
    assert not session.hub.doubtful
    assert isinstance(session.error(task), TaskPlacementGroupRemoved)


def test_a_worker_that_waits_for_what_can_never_be_is_told(session: Session) -> None:
    task = session.task()
    worker = session.up_with(task)
    ref = ready(session, reserve(session, (("CPU", 99 * CPU),)))
    session.tell(worker, Get(1, [ref], 1, None, True, True))
    (answer,) = worker.link.of(Answer)
    assert answer.failed and not worker.blocked
    assert isinstance(unpack(answer.data), GroupUnschedulable)


def test_one_who_waits_already_is_told_when_the_last_fitting_node_goes(session: Session) -> None:
    hub = session.hub
    hub.add_node({"CPU": 8 * CPU}, {}, "", 2)
    held = reserve(session, (("CPU", 8 * CPU),))
    task = session.task()
    worker = session.up_with(task)
    ref = ready(session, reserve(session, (("CPU", 8 * CPU),)))
    session.tell(worker, Get(1, [ref], 1, None, True, True))
    assert worker.blocked
    hub.remove_node(2)
    session.wait(1.0)
    assert worker.link.of(Answer) and not worker.blocked
    assert hub.scheduler.groups.live[held].state == "RESCHEDULING"


def test_a_wait_with_a_timeout_for_the_hopeless_is_a_wait(session: Session) -> None:
    worker = session.up_with(session.task())
    ref = ready(session, reserve(session, (("CPU", 99 * CPU),)))
    session.tell(worker, Get(1, [ref], 1, 5.0, False, True))
    assert worker.blocked and not worker.link.of(Answer)
    session.wait(6.0)
    assert worker.link.of(Values) and not worker.blocked


# ------------------------------------------------------------------------- calls inside


def test_a_call_that_fits_no_bundle_is_refused_even_while_the_group_waits(session: Session) -> None:
    reserve(session, (("CPU", 2 * CPU),))
    group = reserve(session)
    task = session.task(resources=(("CPU", 2 * CPU),), where=Where(group=group))
    error = session.error(task)
    assert isinstance(error, Misfit) and isinstance(error, ValueError) and isinstance(error, TaskUnschedulableError)
    second = session.task(where=Where(group=group, bundle=0))
    assert session.row(second).state == PENDING


def test_calls_of_a_waiting_group_hold_up_nobody(session: Session) -> None:
    reserve(session, ONE)
    waiting = reserve(session, (("CPU", 2 * CPU),))
    inside = [session.task(where=Where(group=waiting)) for _ in range(5)]
    outside = [session.task() for _ in range(300)]
    worker = session.up_with(outside[0])
    for task in outside:
        assert session.at_work()[task] is worker, "the lease goes on: nobody else waits for it"
        session.done(task)
    assert all(session.row(task).state == PENDING for task in inside)


def test_actors_of_several_bundles_start_side_by_side(session: Session) -> None:
    groups = [reserve(session, (("CPU", CPU // 4),), (("CPU", CPU // 4),)) for _ in range(4)]
    for group in groups:
        for bundle in (0, 1):
            session.actor(resources=(("CPU", CPU // 4),), placement=(("CPU", CPU // 4),),
                          where=Where(group=group, bundle=bundle))  # fmt: skip
    assert len(session.newcomers) == 8
    session.arrive()
    assert not session.newcomers and len(session.at_work()) == 8


def test_an_actor_that_holds_nothing_needs_a_bundle_with_a_cpu(session: Session) -> None:
    group = reserve(session, (("CPU", CPU // 2),), ONE)
    session.actor(resources=(), placement=ONE, where=Where(group=group))
    session.arrive()
    (worker,) = session.at_work().values()
    assert worker.place is session.hub.scheduler.groups.live[group].bundles[1]


def test_a_child_that_waits_for_a_gpu_of_the_group_is_no_deadlock_while_groups_come_and_go() -> None:
    session = Session(GPU=2 * CPU)
    try:
        gpu = (("GPU", CPU),)
        other = reserve(session, gpu)
        parent = session.task(resources=gpu)
        worker = session.up_with(parent)
        child = session.task(resources=gpu, owner=worker, parent=parent)
        session.tell(worker, Get(1, [child], 1, None, True, True))
        session.wait(1.0)
        assert worker.blocked and not worker.link.of(Answer)
        session.hub.unreserve(other)
        session.arrive()
        session.done(child)
        assert worker.link.of(Values) and not worker.blocked
    finally:
        session.close()


def test_without_groups_the_same_wait_is_a_deadlock() -> None:
    session = Session(GPU=CPU)
    try:
        gpu = (("GPU", CPU),)
        parent = session.task(resources=gpu)
        worker = session.up_with(parent)
        child = session.task(resources=gpu, owner=worker, parent=parent)
        session.tell(worker, Get(1, [child], 1, None, True, True))
        session.wait(1.0)
        assert isinstance(unpack(worker.link.of(Answer)[0].data), DeadlockError)
    finally:
        session.close()


# ---------------------------------------------------------------------------- removal


def test_resources_are_back_at_once_and_only_once(session: Session) -> None:
    group = reserve(session, (("CPU", 2 * CPU),))
    task = session.task(where=Where(group=group), max_retries=0)
    worker = session.up_with(task)
    blocked_by = session.task()
    session.tell(worker, Get(1, [blocked_by], 1, None, True, True))
    session.hub.unreserve(group)
    free = session.hub.scheduler.free
    assert free["CPU"] == 2 * CPU or session.at_work().get(blocked_by)
    session.die(worker)
    session.arrive()
    session.done(blocked_by)
    assert session.hub.scheduler.free["CPU"] == 2 * CPU
    assert isinstance(session.error(task), WorkerCrashedError) and "placement group" in str(session.error(task))


def test_what_a_dying_worker_still_sends_counts(session: Session) -> None:
    group = reserve(session)
    task = session.task(where=Where(group=group))
    worker = session.up_with(task)
    session.hub.unreserve(group)
    session.done(task)
    assert session.is_ready(task)
    session.die(worker)
    assert session.hub.scheduler.free["CPU"] == 2 * CPU


def test_an_actor_whose_arguments_come_after_the_removal_is_refused(session: Session) -> None:
    group = reserve(session)
    argument = session.task()
    actor = session.actor(deps=(argument,), where=Where(group=group))
    call = session.call(actor)
    session.hub.unreserve(group)
    session.up_with(argument)
    session.done(argument)
    assert isinstance(session.error(call), ActorPlacementGroupRemoved)


def test_removed_groups_are_remembered_and_not_for_ever(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skate.engines.local.groups.REMEMBERED", 3)
    keys = [reserve(session) for _ in range(5)]
    for key in keys:
        session.hub.unreserve(key)
    assert [row["state"] for row in session.hub.state("placement_groups")] == ["REMOVED"] * 3
    assert session.hub.group_row(keys[0]) is None and session.hub.group_row(keys[-1]) is not None


def test_a_name_is_free_again_when_its_group_is_removed(session: Session) -> None:
    group = reserve(session, name="n")
    assert session.hub.find_group("n", "test") == group
    with pytest.raises(GroupNameTaken) as taken:
        reserve(session, name="n")
    assert isinstance(taken.value, ValueError)
    session.hub.unreserve(group)
    with pytest.raises(ValueError):
        session.hub.find_group("n", "test")
    assert reserve(session, name="n") != group


# ------------------------------------------------------------------- what workers say


def test_workers_make_groups(session: Session) -> None:
    worker = session.up_with(session.task())
    key, promise = session.new(worker), session.new(worker)
    spec = GroupSpec((ONE,), name="n", namespace="test")
    session.tell(worker, Ask(1, "reserve", encoder.encode((key, spec))))
    session.tell(worker, Ask(2, "await_group", encoder.encode((promise, key, NONE))))
    session.tell(worker, Ask(3, "reserve", encoder.encode((session.new(worker), spec))))
    assert [answer.failed for answer in worker.link.of(Answer)] == [False, False, True]
    assert session.is_ready(promise) and promise in worker.held
    session.die(worker)
    assert not session.known(promise)
    assert session.hub.find_group("n", "test") == key, "it lives on"


@pytest.mark.parametrize(
    "spec",
    [
        GroupSpec(()), GroupSpec(((),)), GroupSpec((ONE,), "X"), GroupSpec((ONE,), selectors=((), ())),
        GroupSpec(((("CPU", -1),),)), GroupSpec(((("CPU", 1), ("CPU", 1)),)), GroupSpec(((("GPU", 15_000),),)),
    ],
    ids=repr,
)  # fmt: skip
def test_a_group_that_cannot_be_ends_the_worker_that_asks_for_it(session: Session, spec: GroupSpec) -> None:
    worker = session.up_with(session.task())
    session.tell(worker, Ask(1, "reserve", encoder.encode((session.new(worker), spec))))
    assert worker.outlaw and not session.hub.scheduler.groups.live


def test_keys_of_groups_are_the_workers_own_and_new(session: Session) -> None:
    group = reserve(session)
    for key in (session.new(), group):
        worker = session.up_with(session.task(max_retries=0))
        session.tell(worker, Ask(1, "reserve", encoder.encode((key, GroupSpec((ONE,))))))
        assert worker.outlaw
        session.die(worker)
    worker = session.up_with(session.task())
    session.tell(worker, Ask(1, "await_group", encoder.encode((group, group, NONE))))
    assert worker.outlaw


@pytest.mark.parametrize("verb", ["reserve", "unreserve", "await_group", "find_group", "group"])
@pytest.mark.parametrize("data", [(), (1,), ("x",), ("x", "y", "z"), (1, 2, 3, 4), None], ids=repr)
def test_nonsense_about_groups_harms_nobody(session: Session, verb: str, data: object) -> None:
    group = reserve(session)
    worker = session.up_with(session.task())
    session.tell(worker, Ask(1, verb, encode_any(data)))
    assert worker.outlaw or worker.link.of(Answer)
    assert list(session.hub.scheduler.groups.live) == [group]


def test_a_wish_for_an_impossible_bundle_from_a_worker_does_no_harm(session: Session) -> None:
    group = reserve(session)
    tasks = [session.task(where=Where(group=group, bundle=number)) for number in (7, -7)]
    assert all(session.known(task) for task in tasks)
    session.hub.unreserve(group)
    assert all(session.row(task).state != PENDING for task in tasks)
