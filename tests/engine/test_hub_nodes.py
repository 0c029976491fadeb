"""Nodes in the hub, event by event: what goes with a node, what stays, and what is made again elsewhere."""

from __future__ import annotations

import signal

import pytest
from scripted import CPU, Session, under

from skate.core.placement import LabelTest, Where
from skate.engines.local.boot import PAGE
from skate.engines.local.messages import Ask as AskMessage
from skate.engines.local.messages import Done, Get, Grant, Item, Put, Stored, encode_any
from skate.engines.local.rows import FAILED, PENDING, READY, Node, Worker
from skate.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    NodeDiedError,
    ObjectReconstructionFailedError,
    OwnerDiedError,
    TaskUnschedulableError,
)

LARGE = 16 * PAGE


class Nodes(Session):
    """A hub with a second node, and a third, of one CPU each."""

    def __init__(self) -> None:
        super().__init__(cpus=1, pages=256)
        self.second, self.third = self.join(), self.join()

    def join(self, **total: int) -> Node:
        return self.hub.add_node({"CPU": CPU, **total}, {"zone": "b"}, "", self.hub.next_node())

    def on(self, node: Node, soft: bool = True) -> Where:
        return Where(node=node.hex, soft=soft)

    def remove(self, node: Node) -> list[Worker]:
        """Remove a node, and have its workers die; those."""
        self.hub.remove_node(node.key)
        return self.bury(node)

    def bury(self, node: Node) -> list[Worker]:
        workers = [worker for worker in self.hub.workers.values() if worker.node is node]
        for worker in workers:
            self.die(worker)
        return workers

    def made_on(self, node: Node, **options: object) -> int:
        """A large result that lies on a node."""
        task = self.task(where=self.on(node), **options)
        worker = self.up_with(task)
        assert worker.node is node
        self.done(task, self.block(LARGE, task))
        return task

    def read_on(self, node: Node, key: int) -> None:
        """A task there takes the value."""
        task = self.task(deps=(key,), where=self.on(node))
        assert self.up_with(task).node is node
        self.done(task)
        self.release(task)


@pytest.fixture
def nodes():
    session = Nodes()
    yield session
    session.close()


# ------------------------------------------------------------------------- workers


def test_workers_of_a_removed_node_are_killed_and_nothing_they_say_counts(nodes):
    task = nodes.task(where=nodes.on(nodes.second), max_retries=0)
    worker = nodes.up_with(task)
    nodes.hub.remove_node(nodes.second.key)
    assert (worker, signal.SIGKILL) in nodes.signals
    nodes.tell(worker, Done(task, b"\x80late", (), 1))
    assert nodes.row(task).state == PENDING
    nodes.die(worker)
    error = nodes.error(task)
    assert isinstance(error, NodeDiedError) and nodes.second.hex in str(error) and "f did not end" in str(error)
    nodes.release(task)
    nodes.check_empty()


def test_a_task_is_tried_again_on_another_node(nodes):
    task = nodes.task(where=nodes.on(nodes.second))
    nodes.up_with(task)
    nodes.remove(nodes.second)
    worker = nodes.up_with(task)
    assert worker.node is not nodes.second and nodes.row(task).attempt == 1
    nodes.done(task)
    assert nodes.is_ready(task)
    nodes.release(task)
    nodes.check_empty()


def test_workers_that_were_not_up_yet_are_no_sign_of_a_broken_machine(nodes):
    tasks = [nodes.task(where=nodes.on(nodes.second)) for _ in range(4)]
    for _ in range(4):
        nodes.remove(nodes.second)
        nodes.second = nodes.join()
    nodes.arrive()
    assert nodes.hub.stillborn == {} and all(nodes.row(task).state == PENDING for task in tasks)
    assert nodes.at_work(), "they go elsewhere"


def test_a_worker_that_says_hello_after_its_node_is_gone_is_given_nothing(nodes):
    nodes.task(where=nodes.on(nodes.second))
    nodes.hub.remove_node(nodes.second.key)
    late = [worker for worker in nodes.newcomers if worker.node is nodes.second]
    nodes.arrive()
    assert late and not any(worker.up for worker in late)
    assert nodes.hub.scheduler.resting.get("", 0) == 0


def test_the_driver_s_node_and_strangers_cannot_be_removed(nodes):
    with pytest.raises(ValueError, match="driver's own"):
        nodes.hub.remove_node(1)
    with pytest.raises(ValueError, match="no node"):
        nodes.hub.remove_node(17)
    nodes.remove(nodes.second)
    with pytest.raises(ValueError, match="no node"):
        nodes.hub.remove_node(nodes.second.key)
    with pytest.raises(ValueError, match="already"):
        nodes.hub.add_node({}, {}, "", nodes.second.key)


def test_numbers_are_not_used_again_and_the_dead_are_remembered(nodes):
    nodes.remove(nodes.third)
    fourth = nodes.join()
    assert fourth.key == 4 and fourth.hex != nodes.third.hex
    rows = {row["NodeID"]: row for row in nodes.hub.state("nodes")}
    assert [row["Alive"] for row in rows.values()] == [True, True, True, False]
    dead = rows[nodes.third.hex]
    assert dead["Resources"] == {} and not dead["alive"] and "removed" in dead["DeathReasonMessage"]


# --------------------------------------------------------------------------- actors


def test_an_actor_with_restarts_goes_on_elsewhere(nodes):
    actor = nodes.actor(where=nodes.on(nodes.second), max_restarts=1)
    nodes.up_with(actor)
    nodes.done(actor)
    call = nodes.call(actor)
    nodes.remove(nodes.second)
    error = nodes.error(call)
    assert isinstance(error, ActorUnavailableError) and "its node has died" in str(error)
    worker = nodes.up_with(actor)
    assert worker.node is not nodes.second
    nodes.done(actor)
    later = nodes.call(actor)
    assert nodes.at_work()[later] is worker


def test_an_actor_without_restarts_dies_with_its_node(nodes):
    actor = nodes.actor(where=nodes.on(nodes.second))
    nodes.up_with(actor)
    nodes.done(actor)
    call = nodes.call(actor)
    nodes.remove(nodes.second)
    error = nodes.error(call)
    assert isinstance(error, ActorDiedError)
    assert f"its node has died: Node Id: {nodes.second.hex}" in str(error)
    nodes.release(call, actor)
    nodes.check_empty()


def test_an_actor_that_may_live_on_that_node_alone_cannot_come_back(nodes):
    actor = nodes.actor(where=nodes.on(nodes.second, soft=False), max_restarts=-1)
    nodes.up_with(actor)
    nodes.done(actor)
    nodes.remove(nodes.second)
    call = nodes.call(actor)
    assert isinstance(nodes.error(call), ActorUnschedulableError)


# -------------------------------------------------------------------------- objects


def test_what_lay_there_alone_is_made_again(nodes):
    key = nodes.made_on(nodes.second)
    nodes.remove(nodes.second)
    assert nodes.row(key).state == PENDING
    worker = nodes.up_with(key)
    assert worker.node is not nodes.second
    nodes.done(key, nodes.block(LARGE, key))
    assert nodes.is_ready(key)
    nodes.release(key)
    nodes.check_empty()
    assert nodes.hub.scheduler.copies == {}


def test_nothing_is_lost_before_the_last_worker_of_the_node_is_gone(nodes):
    key = nodes.made_on(nodes.second)
    nodes.hub.remove_node(nodes.second.key)
    assert nodes.is_ready(key), "a worker may still read it"
    nodes.bury(nodes.second)
    assert nodes.row(key).state == PENDING


@pytest.mark.parametrize("reader", ["task", "driver", "get"])
def test_who_read_it_elsewhere_has_a_copy(nodes, reader):
    key = nodes.made_on(nodes.second)
    if reader == "driver":
        nodes.hub.read(key, nodes.row(key))
    elif reader == "task":
        nodes.read_on(nodes.third, key)
    else:
        task = nodes.task(refs=(key,), where=nodes.on(nodes.third))
        nodes.tell(nodes.up_with(task), Get(1, [key], 1, None, True, True))
        nodes.done(task)
    nodes.remove(nodes.second)
    assert nodes.is_ready(key)


def test_a_copy_goes_with_its_node_too(nodes):
    key = nodes.made_on(nodes.second)
    nodes.read_on(nodes.third, key)
    nodes.remove(nodes.third)
    assert nodes.is_ready(key)
    nodes.remove(nodes.second)
    assert nodes.row(key).state == PENDING


def test_a_reader_on_the_same_node_has_no_other_copy(nodes):
    key = nodes.made_on(nodes.second)
    nodes.read_on(nodes.second, key)
    nodes.remove(nodes.second)
    assert nodes.row(key).state == PENDING


def test_a_view_in_a_worker_of_the_node_does_not_keep_it(nodes):
    key = nodes.made_on(nodes.second)
    task = nodes.task(refs=(key,), where=nodes.on(nodes.second))
    worker = nodes.up_with(task)
    nodes.tell(worker, Get(1, [key], 1, None, True, True))
    assert nodes.hub.views == {key: 1}
    nodes.remove(nodes.second)
    assert nodes.hub.views == {} and nodes.row(key).state == PENDING


def test_what_the_driver_put_and_what_is_small_stays(nodes):
    own = nodes.put_large(LARGE)
    small = nodes.task(where=nodes.on(nodes.second))
    nodes.up_with(small)
    nodes.done(small)
    nodes.remove(nodes.second)
    assert nodes.is_ready(own) and nodes.is_ready(small)


def test_what_cannot_be_made_again_is_an_error_that_says_why(nodes):
    key = nodes.made_on(nodes.second, max_retries=0)
    task = nodes.task(where=nodes.on(nodes.second))
    worker = nodes.up_with(task)
    put = nodes.new(worker)
    nodes.tell(worker, Put(put, nodes.block(LARGE, put)))
    nodes.hub.hold(put)
    nodes.done(task)
    nodes.remove(nodes.second)
    assert isinstance(nodes.error(key), ObjectReconstructionFailedError)
    assert isinstance(nodes.error(put), OwnerDiedError)
    nodes.release(key, put, task)
    nodes.check_empty()


def test_a_spilled_value_goes_with_its_node(nodes):
    key = nodes.made_on(nodes.second)
    for _ in range(256 // 16):
        nodes.put_large(LARGE)
    assert nodes.row(key).value.offset < 0
    nodes.remove(nodes.second)
    assert nodes.row(key).state == PENDING and key not in nodes.disk


def test_a_queued_call_waits_again_for_an_input_that_is_made_again(nodes):
    key = nodes.made_on(nodes.second)
    busy = [nodes.task(where=nodes.on(node)) for node in (nodes.hub.scheduler.head, nodes.third)]
    waiting = nodes.task(deps=(key,), where=nodes.on(nodes.hub.scheduler.head))
    nodes.arrive()
    nodes.remove(nodes.second)
    for task in busy:
        nodes.done(task)
    nodes.arrive()
    assert waiting not in nodes.at_work()
    nodes.done(key, nodes.block(LARGE, key))
    nodes.up_with(waiting)
    nodes.done(waiting)
    assert nodes.is_ready(waiting)


def test_blocks_that_a_killed_worker_was_granted_are_free_when_it_is_dead_and_not_before(nodes):
    task = nodes.task(where=nodes.on(nodes.second), max_retries=0)
    worker = nodes.up_with(task)
    nodes.tell(worker, AskMessage(1, "allocate", encode_any((task, LARGE))))
    assert nodes.arena.used == LARGE
    nodes.hub.remove_node(nodes.second.key)
    assert nodes.arena.used == LARGE, "it may still write there"
    nodes.die(worker)
    assert nodes.arena.used == 0
    assert not worker.link.of(Grant)


def test_items_of_a_stream_are_on_their_way_to_their_reader_and_stay(nodes):
    task = nodes.task(returns=-1, where=nodes.on(nodes.second))
    worker = nodes.up_with(task)
    first, second = nodes.block(LARGE), nodes.block(LARGE)
    nodes.tell(worker, Item(task, first, ()), Item(task, second, ()))
    read = nodes.new()
    nodes.hub.promise(task, read, None)
    nodes.remove(nodes.second)
    later = nodes.new()
    nodes.hub.promise(task, later, None)
    assert nodes.is_ready(read) and nodes.is_ready(later)
    assert nodes.hub.scheduler.copies == {}


def test_places_of_values_that_are_gone_are_forgotten(nodes):
    keys = [nodes.made_on(nodes.second) for _ in range(3)]
    assert set(nodes.hub.scheduler.copies) == set(keys)
    nodes.release(*keys)
    assert nodes.hub.scheduler.copies == {}


def test_a_value_that_comes_for_nobody_has_no_place(nodes):
    task = nodes.task(where=nodes.on(nodes.second))
    worker = nodes.up_with(task)
    nodes.hub.cancel(task, False, False)
    value = nodes.block(LARGE, task)
    nodes.release(task)
    nodes.tell(worker, Done(task, under(value, task), (), 1))
    assert nodes.hub.scheduler.copies == {}
    assert isinstance(value, Stored)


# ---------------------------------------------------------------- wishes and families


def test_calls_for_a_node_that_goes_fail_and_those_that_may_go_elsewhere_do(nodes):
    running = nodes.task(where=nodes.on(nodes.second))
    hard = [nodes.task(where=nodes.on(nodes.second, soft=False)) for _ in range(2)]
    soft = nodes.task(where=nodes.on(nodes.second))
    nodes.arrive()
    nodes.remove(nodes.second)
    for task in hard:
        assert isinstance(nodes.error(task), TaskUnschedulableError)
    nodes.arrive()
    assert {running, soft} <= set(nodes.at_work())


def test_what_nothing_can_run_any_more_is_told_once_and_runs_when_a_node_comes(nodes):
    extra = nodes.join(disk=1)
    tasks = [nodes.task(resources=(("disk", 1),)) for _ in range(2)]
    nodes.arrive()
    assert nodes.warnings == []
    nodes.remove(extra)
    assert len(nodes.warnings) == 1 and "can never run here" in nodes.warnings[0]
    assert all(nodes.row(task).state == PENDING for task in tasks)
    assert nodes.hub.doubtful
    nodes.join(disk=2)
    assert not nodes.hub.doubtful
    nodes.arrive()
    assert set(nodes.at_work()) == set(tasks)


def test_a_wish_for_labels_that_no_node_has_waits_for_one(nodes):
    where = Where(selectors=((LabelTest("zone", ("c",)),),))
    task = nodes.task(where=where)
    assert len(nodes.warnings) == 1 and "label 'zone' 'c'" in nodes.warnings[0]
    nodes.hub.add_node({"CPU": CPU}, {"zone": "c"}, "", nodes.hub.next_node())
    nodes.up_with(task)
    nodes.done(task)
    assert nodes.row(task).state == READY


def test_a_call_that_must_begin_at_once_fails_while_its_node_is_busy(nodes):
    at_once = Where(node=nodes.second.hex, now=True)
    first = nodes.task(where=at_once)
    nodes.arrive()
    assert first in nodes.at_work()
    second = nodes.task(where=at_once)
    error = nodes.error(second)
    assert isinstance(error, TaskUnschedulableError) and "no room now" in str(error)
    nodes.done(first)
    third = nodes.task(where=at_once)
    assert third in nodes.at_work()


def test_an_error_of_a_lost_value_reaches_who_waits_for_a_call_that_takes_it(nodes):
    key = nodes.made_on(nodes.second, max_retries=0)
    waiting = nodes.task(deps=(key,), where=nodes.on(nodes.hub.scheduler.head))
    nodes.remove(nodes.second)
    nodes.arrive()
    assert nodes.row(waiting).state == FAILED
    assert isinstance(nodes.error(waiting), ObjectReconstructionFailedError)
