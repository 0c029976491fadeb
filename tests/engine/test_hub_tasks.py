"""Tasks in the hub, event by event: sent once, filled once, retried as asked, and nothing kept that nobody wants."""

from __future__ import annotations

import signal

import pytest
from scripted import ERROR, NONE, Session

from skate.core.serialization import pack, unpack
from skate.engines.local.boot import PAGE, POKE
from skate.engines.local.messages import (
    Answer,
    Back,
    Cancel,
    Define,
    Done,
    Failed,
    Feed,
    Get,
    Hold,
    Item,
    Leave,
    Leaving,
    Next,
    Put,
    Release,
    Resume,
    Submit,
    TaskSpec,
    Using,
    Values,
    Yield,
)
from skate.engines.local.rows import END, FAILED, PENDING, READY
from skate.exceptions import (
    ObjectLostError,
    ObjectStoreFullError,
    TaskCancelledError,
    TaskUnschedulableError,
    WorkerCrashedError,
)

# ------------------------------------------------------------- from submit to result


def test_a_task_goes_to_a_worker_with_all_it_needs_and_its_result_fills_the_row(session):
    task = session.task(b"f")
    assert session.row(task).state == PENDING
    worker = session.up_with(task)
    kinds = [type(message) for message in worker.link.sent]
    assert kinds == [Define, Using, TaskSpec]
    session.done(task, b"\x80result")
    assert (session.row(task).state, session.row(task).value) == (READY, b"\x80result")
    session.release(task)
    session.check_empty()


def test_a_definition_and_its_options_travel_once_to_each_worker(session):
    first, second = session.task(), session.task()
    session.arrive()
    session.done(first)
    third = session.task()
    for task in (second, third):
        session.done(task)
    for worker in session.everyone:
        assert len(worker.link.of(Define)) == 1 and len(worker.link.of(Using)) == 1


def test_no_more_workers_are_started_than_can_run_at_once(session):
    for _ in range(100):
        session.task()
    assert len(session.newcomers) == 2
    session.arrive()
    assert len(session.everyone) == 2 and len(session.at_work()) == 2


def test_a_result_nobody_waits_for_is_dropped_on_arrival(session):
    task = session.task()
    session.arrive()
    session.release(task)
    assert session.known(task), "the call still runs"
    session.done(task, session.block())
    session.check_empty()


def test_a_large_result_occupies_its_block_until_the_last_reference_goes(session):
    task = session.task()
    worker = session.up_with(task)
    session.done(task, session.block(3 * PAGE, task))
    granted = sum(size for _, size in worker.granted)
    assert session.arena.used == 3 * PAGE + granted
    session.hub.hold(task)
    session.release(task)
    assert session.arena.used == 3 * PAGE + granted
    session.release(task)
    session.check_empty()


def test_several_returns_have_rows_of_their_own(session):
    task = session.task(returns=3)
    session.arrive()
    session.release(task + 1)
    session.done_many(task, [b"\x80a", session.block(PAGE, task + 1), b"\x80c"])
    assert session.row(task).value == b"\x80a" and session.row(task + 2).value == b"\x80c"
    assert not session.known(task + 1) and session.arena.used == 0
    session.release(task, task + 2)
    session.check_empty()


def test_several_returns_all_fail_together(session):
    task = session.task(returns=3)
    session.arrive()
    session.fail(task)
    assert [session.row(task + i).value for i in range(3)] == [ERROR] * 3
    session.release(task, task + 1, task + 2)
    session.check_empty()


def test_a_task_without_returns_leaves_nothing(session):
    done, failed = session.task(returns=0), session.task(returns=0)
    session.arrive()
    session.done_many(done, [])
    session.fail(failed)
    session.check_empty()


# -------------------------------------------------------------------- dependencies


def test_a_task_waits_for_its_dependencies_and_is_fed_their_values(session):
    ready, waiting = session.put(b"\x80one"), session.task()
    task = session.task(b"g", deps=(ready, waiting))
    session.arrive()
    assert task not in session.at_work()
    session.done(waiting, b"\x80two")
    worker = session.at_work()[task]
    at = worker.link.sent.index(next(m for m in worker.link.of(TaskSpec) if m.task == task))
    assert worker.link.sent[at - 1] == Feed([b"\x80one", b"\x80two"])


def test_a_dependency_lives_as_long_as_the_call_that_needs_it(session):
    source = session.put_large()
    task = session.task(deps=(source,))
    session.release(source)
    session.arrive()
    assert session.is_ready(source)
    session.done(task)
    assert not session.known(source) and session.arena.used == 0
    session.release(task)
    session.check_empty()


def test_a_failed_dependency_fails_the_task_with_the_same_error_and_runs_nothing(session):
    source = session.task()
    task = session.task(deps=(source,))
    last = session.task(deps=(task,), returns=2)
    session.arrive()
    session.fail(source)
    assert [session.row(key).value for key in (source, task, last, last + 1)] == [ERROR] * 4
    assert session.at_work() == {}
    session.release(source, task, last, last + 1)
    session.check_empty()


def test_a_dependency_given_twice_counts_twice_and_is_waited_for_once(session):
    source = session.task()
    task = session.task(deps=(source, source), refs=(source,))
    session.arrive()
    session.release(source)
    session.done(source)
    assert task in session.at_work()
    session.done(task)
    session.release(task)
    session.check_empty()


def test_a_dependency_that_nobody_knows_fails_the_task_as_lost(session):
    task = session.task(deps=(999,))
    assert isinstance(session.error(task), ObjectLostError)
    session.release(task)
    session.check_empty()


def test_references_inside_arguments_keep_objects_alive_but_are_not_waited_for(session):
    inner = session.task()
    task = session.task(b"g", refs=(inner,))
    session.arrive()
    assert task in session.at_work(), "a reference inside a list is not waited for"
    session.release(inner)
    session.done(inner, session.block())
    assert session.is_ready(inner)
    session.done(task)
    assert not session.known(inner)
    session.release(task)
    session.check_empty()


def test_stored_arguments_are_freed_with_the_call(session):
    task = session.task(args=session.block(2 * PAGE))
    session.arrive()
    assert session.arena.used == 2 * PAGE
    session.done(task)
    assert session.arena.used == 0
    session.release(task)
    session.check_empty()


# ---------------------------------------------------------------------- counting


def test_a_value_keeps_the_references_inside_it_alive(session):
    inner = session.put_large()
    middle = session.put(b"\x80", refs=(inner,))
    outer = session.put(b"\x80", refs=(middle, inner))
    session.release(inner, middle)
    assert session.is_ready(inner) and session.is_ready(middle)
    session.release(outer)
    session.check_empty()


def test_a_result_keeps_the_references_inside_it_alive(session):
    inner, task = session.put_large(), session.task()
    session.arrive()
    session.done(task, b"\x80", refs=(inner,))
    session.release(inner)
    assert session.is_ready(inner)
    session.release(task)
    session.check_empty()


def test_a_result_with_references_that_comes_for_nobody_holds_nothing(session):
    inner, task = session.put_large(), session.task()
    session.arrive()
    session.release(task)
    session.done(task, b"\x80", refs=(inner,))
    session.release(inner)
    session.check_empty()


def test_what_a_worker_holds_survives_the_driver_and_goes_with_the_worker(session):
    source, task = session.put_large(), session.task()
    worker = session.up_with(task)
    session.tell(worker, Hold([source]), Hold([source]))
    session.release(source)
    assert session.is_ready(source)
    session.die(worker)
    assert not session.known(source)


def test_a_release_of_what_a_worker_does_not_hold_changes_nothing(session):
    source, task = session.put(), session.task()
    worker = session.up_with(task)
    session.tell(worker, Release([source, source, 999]))
    assert session.is_ready(source)


def test_the_death_of_a_worker_frees_what_only_it_held_and_the_blocks_granted_to_it(session):
    task = session.task(max_retries=0)
    worker = session.up_with(task)
    held, made = session.new(worker), session.new(worker)
    session.tell(worker, Put(held, session.block(2 * PAGE, held)))
    worker.granted.append((session.hub.allocate(session.ids.take(), PAGE), PAGE))
    nested = TaskSpec(made, b"g", b"")
    session.tell(worker, Submit(nested, session.options()))
    assert session.arena.used == 3 * PAGE
    session.die(worker)
    assert session.arena.used == 0 and not session.known(held)
    session.arrive()
    session.done(made)
    assert not session.known(made), "its owner is dead: nobody wants it"
    session.release(task)
    session.check_empty()


def test_a_block_granted_and_used_belongs_to_the_value_alone(session):
    task = session.task(max_retries=0)
    worker = session.up_with(task)
    session.done(task, session.block(PAGE, task))
    assert worker.granted, "a worker that made a large result gets room for the next one"
    offset, size = worker.granted[0]
    again = session.task(max_retries=0)
    assert session.at_work()[again] is worker
    stored = type(session.row(task).value)(again, offset, size)
    session.done(again, stored)
    assert (offset, size) not in worker.granted
    session.die(worker)
    assert session.is_ready(again) and session.arena.used == 2 * PAGE
    session.release(task, again)
    session.check_empty()


def test_a_full_store_first_counts_what_the_driver_has_dropped(session):
    filling = [session.put_large(16 * PAGE) for _ in range(4)]
    session.dropped += [filling[2]]
    assert session.hub.allocate(session.ids.take(), 16 * PAGE) == 32 * PAGE
    assert session.disk == {}
    with pytest.raises(ObjectStoreFullError, match="can never fit"):
        session.hub.allocate(session.ids.take(), 65 * PAGE)


# -------------------------------------------------------------------- death, retries


def test_a_worker_that_dies_under_a_task_is_retried_as_often_as_allowed_then_named(session):
    task = session.task(max_retries=2)
    for attempt in range(3):
        worker = session.up_with(task)
        assert worker.link.of(Using)[-1].attempt == attempt
        worker.tail.extend(["something", "Segfault near here"])
        assert session.row(task).state == PENDING
        session.die(worker, "killed by SIGSEGV (a crash in native code)")
    error = session.error(task)
    assert isinstance(error, WorkerCrashedError)
    text = str(error)
    assert "f" in text and "after 3 attempts" in text
    assert f"pid {worker.pid}" in text and "killed by SIGSEGV" in text
    assert "Segfault near here" in text
    session.release(task)
    session.check_empty()


def test_retries_without_limit_go_on(session):
    task = session.task(max_retries=-1)
    for _ in range(20):
        session.die(session.up_with(task))
    assert session.row(task).state == PENDING
    session.up_with(task)
    session.done(task)


def test_a_retry_has_its_inputs_still(session):
    source = session.put_large()
    task = session.task(deps=(source,), args=session.block(), max_retries=1)
    session.release(source)
    session.die(session.up_with(task))
    worker = session.up_with(task)
    assert worker.link.of(Feed)[-1].values == [session.row(source).value]
    session.done(task)
    session.release(task)
    session.check_empty()


def short_calls(session: Session, count: int, **options: object) -> list[int]:
    """Calls of a function that was measured to be short, queued behind each other in one worker."""
    first = session.task(b"f", **options)
    session.arrive()
    session.done(first, took=10)
    session.release(first)
    return [session.task(b"f", **options) for _ in range(count)]


def one_worker(session: Session) -> None:
    session.hub.scheduler.total["CPU"] = session.hub.scheduler.free["CPU"] = 10_000


def test_calls_that_had_not_begun_are_run_elsewhere_and_no_attempt_is_counted(session):
    one_worker(session)
    tasks = short_calls(session, 12, max_retries=0)
    (worker,) = session.hub.workers.values()
    sent = session.running(worker)
    assert len(sent) > 2, "short calls are sent ahead"
    session.die(worker)
    assert isinstance(session.error(sent[0]), WorkerCrashedError)
    finished = []
    while len(finished) < 11:
        session.arrive()
        task = next(iter(session.at_work()))
        assert session.row(task).attempt == 0
        session.done(task, took=10)
        finished.append(task)
    assert sorted(finished) == [task for task in tasks if task != sent[0]]
    session.release(*tasks)
    session.check_empty()


def test_a_retired_worker_costs_no_attempt(session):
    task = session.task(max_retries=0, max_calls=1)
    worker = session.up_with(task)
    session.tell(worker, Leaving("retired", False))
    session.die(worker, "exited with code 0")
    assert session.row(task).state == PENDING
    session.up_with(task)
    session.done(task)
    assert session.is_ready(task)


def test_a_retired_worker_is_sent_nothing_more(session):
    one_worker(session)
    first = session.task(max_calls=1)
    worker = session.up_with(first)
    session.tell(worker, Done(first, NONE, (), 10), Leaving("retired", False))
    later = session.task(max_calls=1)
    assert later not in session.running(worker)
    session.die(worker, "exited with code 0")
    session.up_with(later)
    session.done(later)


def test_an_error_is_retried_only_if_the_worker_says_that_the_options_ask_for_it(session):
    asked = session.task(max_retries=1)
    session.up_with(asked)
    session.fail(asked, retry=True)
    session.arrive()
    assert session.row(asked).attempt == 1
    session.fail(asked, retry=True)
    assert session.row(asked).state == FAILED
    other = session.task(max_retries=1)
    session.up_with(other)
    session.fail(other, retry=False)
    assert session.row(other).value == ERROR
    session.release(asked, other)
    session.check_empty()


def test_workers_that_die_while_they_start_end_the_wait(session):
    task = session.task(environment="bad")
    for _ in range(10):
        while session.newcomers:
            session.die(session.newcomers.pop(), "exited with code 70")
        if session.row(task).state:
            break
    assert "exited with code 70" in str(session.error(task))
    session.release(task)
    session.check_empty()


# --------------------------------------------------------------------------- cancel


def test_cancel_before_any_worker_runs_nothing(session):
    source = session.put_large()
    task = session.task(deps=(source,))
    session.hub.cancel(task, False, False)
    assert isinstance(session.error(task), TaskCancelledError)
    session.arrive()
    assert session.at_work() == {}
    session.release(task, source)
    session.check_empty()


def test_cancel_while_waiting_for_a_dependency_runs_nothing(session):
    source = session.task(b"g")
    task = session.task(deps=(source,))
    session.arrive()
    session.hub.cancel(task, False, False)
    assert isinstance(session.error(task), TaskCancelledError)
    session.done(source)
    assert session.at_work() == {}
    session.release(task, source)
    session.check_empty()


def test_cancel_of_a_running_task_tells_and_interrupts_the_worker_which_says_how_it_ended(session):
    task = session.task()
    worker = session.up_with(task)
    session.hub.cancel(task, False, False)
    assert worker.link.of(Cancel) == [Cancel(task)]
    assert session.signals == [(worker, POKE)]
    assert session.row(task).state == PENDING
    cancelled = pack(TaskCancelledError(error_message="it was")).to_bytes()
    session.tell(worker, Failed(task, cancelled, False, True))
    assert isinstance(session.error(task), TaskCancelledError)
    session.release(task)
    session.check_empty()


def test_cancel_that_comes_too_late_leaves_the_result(session):
    task = session.task()
    session.arrive()
    session.hub.cancel(task, False, False)
    session.done(task)
    assert session.is_ready(task)
    session.hub.cancel(task, True, True)
    assert session.is_ready(task)


def test_a_cancel_without_effect_is_repeated_until_the_task_has_ended(session):
    task = session.task()
    session.arrive()
    session.hub.cancel(task, False, False)
    session.wait(0.1)
    repeated = len(session.signals)
    assert repeated > 1
    session.fail(task)
    session.wait(100)
    assert len(session.signals) == repeated


def test_a_cancelled_task_is_not_tried_again(session):
    dies, raises = session.task(max_retries=5), session.task(max_retries=5)
    session.arrive()
    session.hub.cancel(dies, False, False)
    session.hub.cancel(raises, False, False)
    session.die(session.at_work()[dies])
    session.fail(raises, retry=True)
    assert isinstance(session.error(dies), TaskCancelledError)
    assert session.row(raises).state == FAILED


def test_a_forced_cancel_kills_the_worker_and_reads_as_a_cancel(session):
    task = session.task(max_retries=5)
    worker = session.up_with(task)
    session.hub.cancel(task, True, False)
    assert session.signals == [(worker, signal.SIGKILL)]
    session.die(worker)
    assert isinstance(session.error(task), TaskCancelledError)
    session.release(task)
    session.check_empty()


def test_cancel_reaches_a_task_through_any_of_its_returns(session):
    task = session.task(returns=3)
    session.hub.cancel(task + 2, False, False)
    assert all(isinstance(session.error(task + i), TaskCancelledError) for i in range(3))


def test_cancel_reaches_children_only_when_asked(session):
    for recursive in (False, True):
        parent = session.task()
        worker = session.up_with(parent)
        child = session.task(b"g", owner=worker, parent=parent)
        grandchild = session.task(deps=(child,), owner=worker, parent=child)
        session.hub.cancel(parent, False, recursive)
        assert session.row(grandchild).cancelled is recursive
        assert session.row(child).cancelled is recursive
        session.fail(parent)
        session.die(worker)


def test_cancel_of_what_nobody_knows_is_harmless(session):
    session.hub.cancel(12345, True, True)
    session.hub.cancel(session.put(), True, True)


def test_a_call_cancelled_in_a_workers_queue_is_not_run_when_the_worker_dies(session):
    one_worker(session)
    short_calls(session, 8)
    (worker,) = session.hub.workers.values()
    behind = session.running(worker)[2]
    session.hub.cancel(behind, False, False)
    session.die(worker)
    for _ in range(20):
        session.arrive()
        assert behind not in session.at_work(), "a cancelled call is run again"
        for task in list(session.at_work())[:1]:
            session.done(task, took=10)
    assert isinstance(session.error(behind), TaskCancelledError)


def test_a_call_cancelled_while_it_was_given_back_is_not_run(session):
    one_worker(session)
    short_calls(session, 8)
    (worker,) = session.hub.workers.values()
    sent = session.running(worker)
    session.hub.cancel(sent[2], False, False)
    session.tell(worker, Back(sent[1:]))
    for _ in range(20):
        session.done(next(iter(session.at_work())), took=10)
        assert sent[2] not in session.at_work() or not session.at_work(), "a cancelled call is run"
        if not session.at_work():
            break
    assert isinstance(session.error(sent[2]), TaskCancelledError)


def test_a_forced_cancel_of_a_call_that_has_not_begun_does_no_harm_to_the_one_that_runs(session):
    one_worker(session)
    short_calls(session, 8, max_retries=0)
    (worker,) = session.hub.workers.values()
    sent = session.running(worker)
    session.hub.cancel(sent[1], True, False)
    if (worker, signal.SIGKILL) in session.signals:
        session.die(worker)
    else:
        session.tell(worker, Failed(sent[1], pack(TaskCancelledError(error_message="x")).to_bytes(), False, True))
        session.done(sent[0])
    assert session.is_ready(sent[0])
    assert isinstance(session.error(sent[1]), TaskCancelledError)


# -------------------------------------------------------------- blocking, giving back


def test_a_blocked_worker_gives_its_cpu_to_others_and_what_it_has_not_begun_back(session):
    one_worker(session)
    tasks = short_calls(session, 6)
    (worker,) = session.hub.workers.values()
    sent = session.running(worker)
    nested = session.task(b"g")
    session.tell(worker, Get(1, [nested], 1, None, True, True))
    assert len(worker.link.of(Yield)) == 1
    session.tell(worker, Back(sent[1:]))
    session.arrive()
    others = [task for task in session.at_work() if task != sent[0]]
    assert others, "somebody else runs on the CPU that was given back"
    while nested not in session.at_work():
        session.done(next(task for task in session.at_work() if task != sent[0]), took=10)
    session.done(nested, took=10)
    assert worker.link.of(Values)[-1].request == 1
    while session.at_work():
        session.done(next(iter(session.at_work())), took=10)
    assert all(session.is_ready(task) for task in tasks)
    assert session.hub.scheduler.free["CPU"] == 10_000


def test_calls_given_back_are_first_in_line_and_in_order(session):
    one_worker(session)
    tasks = short_calls(session, 30)
    (worker,) = session.hub.workers.values()
    sent = session.running(worker)
    session.tell(worker, Back(sent[1:]))
    finished = []
    while session.at_work():
        task = next(iter(session.at_work()))
        assert session.row(task).attempt == 0
        session.done(task, took=10)
        finished.append(task)
    assert finished == tasks


def test_a_worker_stuck_in_a_long_call_must_give_back_what_waits_behind_it(session):
    one_worker(session)
    short_calls(session, 8)
    (worker,) = session.hub.workers.values()
    session.wait(0.1)
    assert worker.link.of(Yield)
    assert (worker, POKE) in session.signals
    assert session.hub.scheduler.depth(b"f") == 1, "its function is no longer taken for short"


def test_a_get_is_answered_when_all_are_ready(session):
    task = session.task()
    worker = session.up_with(task)
    ready, pending = session.put(b"\x80one"), session.task(b"g")
    session.tell(worker, Get(7, [ready, pending], 2, None, True, True))
    session.arrive()
    assert worker.link.of(Values) == []
    session.done(pending, b"\x80two")
    (answer,) = worker.link.of(Values)
    assert answer.request == 7
    assert [(o.state, o.value) for o in answer.outcomes] == [(READY, b"\x80one"), (READY, b"\x80two")]


def test_a_get_is_answered_at_the_first_failure_but_a_wait_is_not(session):
    task = session.task()
    worker = session.up_with(task)
    fails, pending = session.task(b"g"), session.task(b"h")
    session.tell(worker, Get(1, [fails, pending], 2, None, True, True))
    session.tell(worker, Get(2, [fails, pending], 2, None, False, False))
    session.arrive()
    session.fail(fails)
    assert [answer.request for answer in worker.link.of(Values)] == [1]
    session.done(pending)
    assert [answer.request for answer in worker.link.of(Values)] == [1, 2]


def test_a_get_is_answered_once_though_time_is_up_and_the_object_comes(session):
    task = session.task()
    worker = session.up_with(task)
    pending = session.task(b"g")
    session.arrive()
    session.tell(worker, Get(1, [pending], 1, 0.5, True, True))
    session.wait(1)
    (answer,) = worker.link.of(Values)
    assert answer.outcomes[0].state == PENDING
    session.done(pending)
    assert len(worker.link.of(Values)) == 1
    session.done(task)
    assert session.hub.scheduler.free["CPU"] == 20_000 and worker.blocked == 0


def test_a_get_of_what_nobody_knows_is_answered_as_lost_and_leaves_nothing(session):
    task = session.task()
    worker = session.up_with(task)
    session.tell(worker, Get(1, [999], 1, None, True, True))
    assert worker.link.of(Values)[0].outcomes[0].state == FAILED
    session.done(task)
    session.release(task)
    session.check_empty()


def test_a_get_of_what_can_never_be_made_fails_and_the_call_leaves_nothing(session):
    task = session.task()
    worker = session.up_with(task)
    source = session.put_large()
    made = session.new(worker)
    spec = TaskSpec(made, b"g", b"", 1, (source,))
    session.tell(worker, Submit(spec, session.options(resources=(("CPU", 990_000),))))
    assert "can never run here" in session.warnings[0]
    session.release(source)
    session.tell(worker, Get(1, [made], 1, None, True, True))
    (answer,) = worker.link.of(Answer)
    assert answer.failed and isinstance(unpack(answer.data), TaskUnschedulableError)
    session.tell(worker, Release([made]))
    session.done(task)
    session.release(task)
    session.check_empty()


# --------------------------------------------------------------------------- streams


def test_items_made_before_and_after_they_are_asked_for_arrive_in_order(session):
    task = session.task(returns=-1)
    worker = session.up_with(task)
    session.tell(worker, Item(task, b"\x80a"))
    keys = [session.ids.take() for _ in range(4)]
    for key in keys[:3]:
        session.hub.promise(task, key, None)
    assert [session.row(key).state for key in keys[:3]] == [READY, PENDING, PENDING]
    session.tell(worker, Item(task, b"\x80b"), Item(task, session.block(PAGE)), Item(task, b"\x80d"))
    session.hub.promise(task, keys[3], None)
    assert [session.row(key).value for key in (keys[0], keys[1], keys[3])] == [b"\x80a", b"\x80b", b"\x80d"]
    session.done_many(task, [NONE])
    last = session.ids.take()
    session.hub.promise(task, last, None)
    assert session.row(last).state == END
    session.release(*keys, last, task)
    session.hub.abandon_stream(task)
    session.check_empty()


def test_a_stream_that_ends_ends_those_who_wait_for_more(session):
    task = session.task(returns=-1)
    session.arrive()
    waiting = [session.ids.take() for _ in range(2)]
    for key in waiting:
        session.hub.promise(task, key, None)
    session.done_many(task, [NONE])
    assert [session.row(key).state for key in waiting] == [END, END]
    session.release(*waiting, task)
    session.hub.abandon_stream(task)
    session.check_empty()


def test_a_stream_that_fails_gives_its_error_as_the_last_item(session):
    task = session.task(returns=-1)
    worker = session.up_with(task)
    session.tell(worker, Item(task, b"\x80a"))
    session.fail(task)
    keys = [session.ids.take() for _ in range(3)]
    for key in keys:
        session.hub.promise(task, key, None)
    assert [session.row(key).state for key in keys] == [READY, FAILED, END]
    assert session.row(keys[1]).value == ERROR
    session.release(*keys, task)
    session.hub.abandon_stream(task)
    session.check_empty()


def test_a_closed_stream_frees_unread_items_and_stops_its_task(session):
    inner = session.put_large()
    task = session.task(returns=-1)
    worker = session.up_with(task)
    session.tell(worker, Item(task, session.block(PAGE)), Item(task, b"\x80", (inner,)))
    session.release(inner, task)
    assert session.is_ready(inner)
    session.hub.abandon_stream(task)
    assert session.arena.used == 0 and not session.known(inner)
    assert worker.link.of(Cancel) == [Cancel(task)]
    session.tell(worker, Item(task, session.block(PAGE)))
    session.fail(task)
    session.check_empty()


def test_a_stream_nobody_reads_any_more_goes_with_the_worker_that_read_it(session):
    reader_task = session.task(max_retries=0)
    reader = session.up_with(reader_task)
    task = session.new(reader)
    session.tell(reader, Submit(TaskSpec(task, b"g", b"", -1), session.options(returns=-1)))
    maker = session.up_with(task)
    session.tell(maker, Item(task, session.block(PAGE)), Item(task, session.block(PAGE)))
    session.tell(reader, Next(task, session.new(reader)))
    session.die(reader)
    session.release(reader_task)
    if task in session.at_work():
        session.fail(task)
    session.check_empty()


def test_a_retried_stream_delivers_no_item_twice(session):
    task = session.task(returns=-1, max_retries=3)
    worker = session.up_with(task)
    session.tell(worker, Item(task, b"\x800"), Item(task, b"\x801"), Item(task, session.block()))
    session.die(worker)
    worker = session.up_with(task)
    session.tell(worker, Item(task, b"\x800"))
    session.die(worker)
    worker = session.up_with(task)
    session.tell(worker, Item(task, b"\x800"), Item(task, b"\x801"), Item(task, session.block()), Item(task, b"\x803"))
    session.done_many(task, [NONE])
    keys = [session.ids.take() for _ in range(5)]
    for key in keys:
        session.hub.promise(task, key, None)
    assert [session.row(key).state for key in keys] == [READY] * 4 + [END]
    assert [session.row(keys[i]).value for i in (0, 1, 3)] == [b"\x800", b"\x801", b"\x803"]
    session.release(*keys, task)
    session.hub.abandon_stream(task)
    session.check_empty()


def test_a_reader_lets_a_stream_with_backpressure_go_on(session):
    task = session.task(returns=-1, backpressure=2)
    worker = session.up_with(task)
    reader_task = session.task(b"h")
    reader = session.up_with(reader_task)
    session.tell(reader, Next(task, session.new(reader)))
    assert worker.link.of(Resume)[-1] == Resume(task, 3)
    session.tell(reader, Next(task, session.new(reader)))
    assert worker.link.of(Resume)[-1] == Resume(task, 4)


def test_a_retried_stream_with_backpressure_may_run_as_far_as_its_reader_has_read(session):
    """The first attempt got three items read; the second must not stop before the fourth."""
    task = session.task(returns=-1, backpressure=2, max_retries=1)
    worker = session.up_with(task)
    session.tell(worker, Item(task, b"\x800"), Item(task, b"\x801"))
    for key in [session.ids.take() for _ in range(3)]:
        session.hub.promise(task, key, None)
        session.hub.read_on(task)
    session.tell(worker, Item(task, b"\x802"))
    waiting = session.ids.take()
    session.hub.promise(task, waiting, None)
    session.hub.read_on(task)
    session.die(worker)
    worker = session.up_with(task)
    allowed = max([2, *(message.upto for message in worker.link.of(Resume) if message.task == task)])
    assert allowed > 3, "the new attempt waits for a reader who waits for it"


# ------------------------------------------------------------------------- resources


def test_an_idle_worker_is_ended_and_one_that_holds_objects_is_not(session):
    tasks = [session.task(), session.task()]
    session.arrive()
    holder, other = (session.at_work()[task] for task in tasks)
    kept = session.put()
    session.tell(holder, Hold([kept]))
    for task in tasks:
        session.done(task)
    session.hub.scheduler.head.total["CPU"] = 0  # none is worth keeping
    session.hub.reap(session.clock.now + 100, 10)
    assert other.link.of(Leave) == [Leave()] and holder.link.of(Leave) == []
    later = session.task()
    assert session.at_work() == {later: holder}


def test_state_lists_every_task_once_where_it_is(session):
    running = session.task()
    waiting = session.task(deps=(running,))
    for _ in range(2):
        session.task(b"f")
    session.arrive()
    session.task()
    states = sorted(row["state"] for row in session.hub.state("tasks"))
    assert states == ["PENDING_ARGS_AVAIL", "PENDING_NODE_ASSIGNMENT", "PENDING_NODE_ASSIGNMENT", "RUNNING", "RUNNING"]
    assert {row["func_or_class_name"] for row in session.hub.state("tasks")} == {"f"}
    assert session.known(waiting)
    with pytest.raises(ValueError, match="Tables: nodes, free, actors"):
        session.hub.state("nonsense")
