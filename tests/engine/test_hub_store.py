"""Values that leave memory: what goes to disk, what may not, what comes back, and how a lost one is made again."""

from __future__ import annotations

import pytest
from scripted import ERROR, Session

from skate.core.serialization import unpack
from skate.engines.local import lineage
from skate.engines.local.boot import PAGE
from skate.engines.local.messages import (
    Ask,
    DoneMany,
    Feed,
    Get,
    Hold,
    Item,
    Next,
    Release,
    Seen,
    Stored,
    TaskSpec,
    encode_any,
)
from skate.engines.local.rows import FAILED, PENDING, READY, Row
from skate.exceptions import ActorDiedError, ObjectReconstructionFailedError, OutOfDiskError


@pytest.fixture
def small():
    """A store with room for four objects of 16 pages."""
    session = Session(pages=64)
    yield session
    session.close()


def fill(session: Session, count: int = 4) -> list[int]:
    return [session.put_large(16 * PAGE) for _ in range(count)]


def spilled(session: Session, key: int) -> bool:
    return session.row(key).value.offset < 0


def made(session: Session, task: int) -> int:
    """The task ends with a large result."""
    session.done(task, session.block(16 * PAGE, task))
    return task


def made_by_task(session: Session) -> int:
    task = session.task()
    session.arrive()
    return made(session, task)


def at_work_or_queued(session: Session) -> list[Row]:
    queued = [row for family in session.hub.scheduler.families.values() for row in family.queue]
    return queued + [row for worker in session.hub.workers.values() for row in worker.running.values()]


def lose(session: Session, key: int) -> None:
    """The file of a spilled object is gone."""
    assert spilled(session, key)
    del session.disk[key]


# ------------------------------------------------------------------------- spilling


def test_what_was_used_longest_ago_leaves_first(small):
    first, second, third, fourth = fill(small)
    small.hub.read(first, small.row(first))
    fifth = small.put_large(16 * PAGE)
    assert [spilled(small, key) for key in (first, second, third, fourth, fifth)] == [False, True, False, False, False]
    small.release(first, second, third, fourth, fifth)
    assert small.disk == {}
    small.check_empty()


def test_a_spilled_value_comes_back_as_it_was_at_the_cost_of_another(small):
    keys = fill(small)
    block = small.arena.map().slice(small.row(keys[0]).value.offset, 16 * PAGE)
    block[:] = b"x" * len(block)
    keys += fill(small, 1)
    assert spilled(small, keys[0])
    value = small.hub.read(keys[0], small.row(keys[0]))
    assert bytes(small.arena.map().slice(value.offset, 16 * PAGE)) == b"x" * len(block)
    assert spilled(small, keys[1])


def test_what_somebody_views_stays_and_a_new_value_goes_to_a_file_at_once(small):
    keys = fill(small)
    for key in keys:
        small.hub.hold(~key)
    assert small.hub.allocate(small.ids.take(), 16 * PAGE) == -1
    small.release(~keys[2])
    assert small.hub.allocate(small.ids.take(), 16 * PAGE) >= 0
    assert [spilled(small, key) for key in keys] == [False, False, True, False]


def test_a_view_keeps_its_object_when_the_last_reference_goes(small):
    (key,) = fill(small, 1)
    small.hub.hold(~key)
    small.release(key)
    assert small.is_ready(key) and small.arena.used == 16 * PAGE
    small.release(~key)
    small.check_empty()


def test_inputs_of_a_call_under_way_stay(small):
    keys = fill(small)
    task = small.task(deps=(keys[0],))
    worker = small.up_with(task)
    others = fill(small, 3)
    assert [spilled(small, key) for key in keys] == [False, True, True, True]
    small.tell(worker, Hold([~keys[0]]))
    small.done(task)
    others += fill(small, 1)
    assert not spilled(small, keys[0])
    small.tell(worker, Release([~keys[0]]))
    fill(small, 4)
    assert spilled(small, keys[0])


def test_a_value_that_was_sent_to_a_getter_stays_until_he_has_read_it(small):
    keys = fill(small)
    task = small.task(refs=(keys[0],))
    worker = small.up_with(task)
    small.tell(worker, Get(1, [keys[0]], 1, None, True, True))
    fill(small, 3)
    assert not spilled(small, keys[0])
    small.tell(worker, Seen([keys[0]]))
    fill(small, 1)
    assert spilled(small, keys[0])


def test_a_getter_that_dies_leaves_nothing_in_the_way(small):
    keys = fill(small)
    task = small.task(refs=(keys[0],), max_retries=0)
    worker = small.up_with(task)
    small.tell(worker, Get(1, [keys[0]], 1, None, True, True))
    small.die(worker)
    assert small.hub.views == {}
    small.release(*keys, task)
    small.check_empty()


def test_arguments_of_a_queued_call_may_leave_and_are_back_when_it_begins(small):
    block = small.block(16 * PAGE)
    blockers = [small.task(), small.task()]
    small.arrive()
    waiting = small.task(args=block)
    fill(small)
    assert spilled(small, block.key)
    small.done(blockers[0])
    worker = small.at_work()[waiting]
    (sent,) = [spec for spec in worker.link.of(TaskSpec) if spec.task == waiting]
    assert sent.args.key == block.key and sent.args.offset >= 0


def test_items_that_nobody_has_read_leave_too_and_keep_their_content(small):
    task = small.task(returns=-1)
    worker = small.up_with(task)
    items = [small.block(16 * PAGE) for _ in range(2)]
    small.tell(worker, *(Item(task, item) for item in items))
    fill(small)
    assert set(small.disk) == {item.key for item in items}
    key = small.ids.take()
    small.hub.promise(task, key, None)
    assert small.row(key).value == Stored(key, small.row(key).value.offset, 16 * PAGE)
    assert set(small.disk) == {key, items[1].key}
    small.hub.abandon_stream(task)
    assert set(small.disk) == {key}


def test_next_item_asked_for_by_a_worker_has_its_own_key(small):
    maker = small.task(returns=-1)
    reader = small.task(refs=(maker,))
    small.arrive()
    key = small.new(small.at_work()[reader])
    small.tell(small.at_work()[reader], Next(maker, key))
    small.tell(small.at_work()[maker], Item(maker, small.block(PAGE)))
    assert small.row(key).value.key == key


def test_a_disk_that_takes_no_more_is_an_error_that_says_so(small):
    keys = fill(small)
    small.disk_problem = "the disk is 95% full."
    with pytest.raises(OutOfDiskError, match=r"65,536 bytes.*the disk is 95% full\."):
        small.hub.allocate(small.ids.take(), 16 * PAGE)
    assert not any(spilled(small, key) for key in keys)


def test_the_checksum_of_a_file_that_the_driver_wrote_is_known_when_it_comes_back_and_goes_again(small):
    key = small.ids.take()
    value = small.file(key, 16 * PAGE)
    small.hub.put(key, value, (), None)
    assert small.checks == {key: ~value.offset}
    small.release(key)
    small.check_empty()


def test_a_getter_who_finds_the_file_gone_says_so_and_has_the_value_made_again(small):
    asked, others = made_by_task(small), [made_by_task(small) for _ in range(4)]
    reads = small.task(refs=(asked, *others), max_retries=0)
    worker = small.up_with(reads)
    small.tell(worker, Get(1, others, 4, None, True, True))  # all the room there is
    lose(small, asked)
    small.tell(worker, Get(2, [asked], 1, None, True, True))
    assert small.row(asked).value.offset < 0
    small.tell(worker, Ask(3, "lose", encode_any((asked,))))
    assert small.row(asked).state == PENDING and asked in {row.spec.task for row in at_work_or_queued(small)}


@pytest.mark.parametrize("blocks", [True, False])
def test_a_value_that_comes_after_its_getter_died_is_shown_to_nobody(session, blocks):
    waits, asked = session.task(), session.task()
    session.arrive()
    worker = session.at_work()[waits]
    session.tell(worker, Get(1, [asked], 1, None, True, blocks))
    session.die(worker)
    session.done(asked, session.block(PAGE, asked))
    session.arrive()
    session.done(waits)
    session.release(waits, asked)
    session.check_empty()


def test_a_worker_that_dies_before_it_wrote_its_file_leaves_nothing(small):
    keys = fill(small)
    for key in keys:
        small.hub.hold(~key)
    task = small.task(max_retries=0)
    worker = small.up_with(task)
    from skate.engines.local.messages import encode_any

    small.tell(worker, Ask(1, "allocate", encode_any((task, 16 * PAGE))))
    assert worker.aside == {task: 16 * PAGE}
    small.die(worker)
    assert small.disk == {}


# -------------------------------------------------------------------------- lineage


def test_a_lost_result_is_made_again_when_it_is_asked_for(small):
    task = small.task()
    small.up_with(task)
    made(small, task)
    fill(small)
    lose(small, task)
    small.hub.read(task, small.row(task))
    assert small.row(task).state == PENDING
    assert made(small, task) == task and small.is_ready(task)
    assert small.hub.remaking == set()


def test_getters_and_dependants_wait_for_a_lost_object(small):
    task = small.task()
    small.up_with(task)
    made(small, task)
    keys = fill(small)
    lose(small, task)
    user = small.task(deps=(task,))
    assert user not in small.at_work() and task in small.at_work()
    made(small, task)
    worker = small.at_work()[user]
    assert worker.link.of(Feed)[-1].values == [small.row(task).value]
    small.done(user)
    small.release(task, user, *keys)
    small.check_empty()


def test_what_it_was_made_from_is_made_again_as_well(small):
    first = small.task()
    small.up_with(first)
    made(small, first)
    second = small.task(deps=(first,))
    made(small, second)
    small.release(first)
    assert not small.known(first) and set(small.hub.recipes) == {first, second}
    keys = fill(small)
    lose(small, second)
    small.hub.lose(second)
    assert set(small.at_work()) == {first}
    made(small, first)
    made(small, second)
    assert small.is_ready(second) and not small.known(first)
    small.release(second, *keys)
    assert small.hub.recipes == {}
    small.check_empty()


def test_a_small_input_is_kept_for_as_long_as_it_may_be_needed(small):
    source = small.put(b"small")
    task = small.task(deps=(source,))
    small.up_with(task)
    made(small, task)
    small.release(source)
    assert small.known(source)
    small.release(task)
    small.check_empty()


def test_one_of_several_returns_is_made_again_and_the_others_stay(small):
    task = small.task(returns=2)
    worker = small.up_with(task)
    small.tell(worker, DoneMany(task, [small.block(PAGE, task), small.block(16 * PAGE, task + 1)], [(), ()], 5000))
    first = small.row(task).value
    small.hub.lose(task + 1)
    assert (small.row(task).state, small.row(task + 1).state) == (READY, PENDING)
    again = [small.block(PAGE, task), small.block(16 * PAGE, task + 1)]
    small.tell(small.at_work()[task], DoneMany(task, again, [(), ()], 5000))
    assert small.row(task).value == first and small.row(task + 1).value == again[1]
    small.release(task, task + 1)
    assert small.hub.recipes == {}
    small.check_empty()


@pytest.mark.parametrize("retries", [0, 1])
def test_a_methods_result_is_made_again_if_its_calls_may_be_retried(small, retries):
    actor = small.actor(max_task_retries=retries)
    small.arrive()
    small.done(actor)
    call = small.call(actor)
    made(small, call)
    small.hub.lose(call)
    if retries:
        assert small.row(call).state == PENDING and call in small.at_work()
        made(small, call)
        assert small.is_ready(call)
    else:
        with pytest.raises(ObjectReconstructionFailedError):
            raise small.error(call)
    small.release(call, actor)
    small.arrive()
    small.check_empty()


def test_a_dead_actors_lost_result_is_the_actors_error(small):
    actor = small.actor(max_task_retries=-1)
    small.arrive()
    small.done(actor)
    call = small.call(actor)
    made(small, call)
    small.hub.kill(actor, True)
    small.hub.lose(call)
    with pytest.raises(ActorDiedError):
        raise small.error(call)


def test_attempts_are_bounded_by_max_retries(small):
    task = small.task(max_retries=1)
    small.up_with(task)
    made(small, task)
    small.hub.lose(task)
    made(small, task)
    small.hub.lose(task)
    assert isinstance(small.error(task), ObjectReconstructionFailedError)
    assert "max_retries" in str(small.error(task))
    small.release(task)
    assert small.hub.recipes == {}
    small.check_empty()


@pytest.mark.parametrize(
    ("how", "word"), [("put", r"put\(\)"), ("no retries", "max_retries=0"), ("input gone", r"put\(\)")]
)
def test_what_cannot_be_made_again_says_why(small, how, word):
    source = small.put_large(PAGE)
    task = small.task(deps=(source,), max_retries=0 if how == "no retries" else 3)
    small.up_with(task)
    made(small, task)
    lost = source if how == "put" else task
    if how == "input gone":
        small.release(source)
    small.hub.lose(lost)
    with pytest.raises(ObjectReconstructionFailedError, match=word):
        raise small.error(lost)
    assert small.row(lost).state == FAILED


def test_what_rests_on_a_call_that_was_forgotten_for_want_of_room_says_so(small, monkeypatch):
    monkeypatch.setattr(lineage, "MOST", 1)
    source = small.put(b"small")
    first = small.task(deps=(source,))
    small.up_with(first)
    made(small, first)
    second = small.task(deps=(first,))
    made(small, second)
    small.release(source, first)
    assert set(small.hub.recipes) == {second} and not small.known(source)
    small.hub.lose(second)
    with pytest.raises(ObjectReconstructionFailedError, match="forgotten to save memory") as raised:
        raise small.error(second)
    assert raised.value.reason == "OBJECT_UNRECONSTRUCTABLE_LINEAGE_EVICTED"
    small.release(second)
    assert small.hub.recipes == {}
    small.check_empty()


def test_a_failure_while_it_is_made_again_is_the_objects_error(small):
    task = small.task()
    small.up_with(task)
    made(small, task)
    small.hub.lose(task)
    small.fail(task)
    assert small.row(task).value == ERROR and isinstance(unpack(ERROR), ValueError)
    small.release(task)
    assert small.hub.recipes == {}
    small.check_empty()


def test_a_chain_of_ten_thousand_is_remembered_and_forgotten_without_recursion(small):
    task = small.task()
    small.up_with(task)
    small.done(task, small.block(PAGE, task))
    for _ in range(10_000):
        following = small.task(deps=(task,))
        small.done(following, small.block(PAGE, following))
        small.release(task)
        task = following
    assert len(small.hub.recipes) == 10_001
    small.release(task)
    assert small.hub.recipes == {}
    small.check_empty()
