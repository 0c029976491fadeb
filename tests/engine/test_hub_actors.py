"""Actors in the hub, event by event: calls in order, restarts as asked, ends that leave nothing behind."""

from __future__ import annotations

import signal

import pytest
from scripted import ERROR, NONE, Session, under

from skate.core.serialization import pack
from skate.core.spec import ActorInfo, ActorOptions, CallOptions
from skate.engines.local.boot import PAGE
from skate.engines.local.messages import (
    Answer,
    Ask,
    Call,
    Calling,
    Done,
    Failed,
    Feed,
    Hold,
    Host,
    Item,
    Leave,
    Leaving,
    Release,
    SpawnRequest,
    TaskSpec,
    encoder,
)
from skate.engines.local.rows import END, FAILED, PENDING, READY, Worker
from skate.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    PendingCallsLimitExceeded,
    RayTaskError,
    TaskCancelledError,
)

BROKEN_CONSTRUCTOR = pack(RayTaskError("Class.__init__", "a traceback", ValueError("no"))).to_bytes()


def living(session: Session, **options: object) -> tuple[int, Worker]:
    """An actor whose constructor has ended, and its worker."""
    actor = session.actor(**options)
    worker = session.up_with(actor)
    session.done(actor)
    return actor, worker


def sent(worker: Worker) -> list[int]:
    """Calls of methods that a worker was sent, in order."""
    return [spec.task for spec in worker.link.of(TaskSpec) if spec.method]


def end(session: Session, actor: int, worker: Worker) -> None:
    """The last handle goes, the process leaves."""
    session.release(actor)
    assert worker.link.of(Leave) == [Leave()]
    session.die(worker, "exited with code 0")


# --------------------------------------------------------------------- creation


def test_an_actor_is_hosted_and_constructed_and_its_calls_follow(session):
    actor = session.actor()
    early = session.call(actor)
    worker = session.up_with(actor)
    assert [type(message).__name__ for message in worker.link.sent] == ["Define", "Host", "TaskSpec", "TaskSpec"]
    session.done(actor)
    session.done(early, b"\x80result")
    assert session.row(early).value == b"\x80result"
    session.release(early)
    end(session, actor, worker)
    session.check_empty()


def test_a_constructor_waits_for_its_dependencies_and_keeps_them_until_the_actor_ends(session):
    source = session.task()
    actor = session.actor(deps=(source,), args=session.block())
    session.arrive()
    session.release(source)
    session.done(source, b"\x80input")
    worker = session.up_with(actor)
    assert worker.link.of(Feed)[-1] == Feed([b"\x80input"])
    session.done(actor)
    assert session.is_ready(source), "a restart would need it again"
    end(session, actor, worker)
    session.check_empty()


def test_a_constructor_whose_dependency_fails_ends_the_actor(session):
    source = session.task()
    actor = session.actor(deps=(source,))
    call = session.call(actor)
    session.arrive()
    session.fail(source, BROKEN_CONSTRUCTOR)
    assert isinstance(session.error(call), ActorDiedError)
    session.release(call, actor, source)
    session.check_empty()


def test_a_constructor_that_raises_fails_every_call_with_its_traceback_and_ends_the_process(session):
    actor = session.actor(name="n", max_restarts=5)
    calls = [session.call(actor) for _ in range(3)]
    worker = session.up_with(actor)
    session.fail(actor, BROKEN_CONSTRUCTOR)
    for call in calls:
        error = session.error(call)
        assert isinstance(error, ActorDiedError) and "a traceback" in str(error)
    assert (worker, signal.SIGKILL) in session.signals
    late = session.call(actor)
    assert isinstance(session.error(late), ActorDiedError)
    session.die(worker)
    assert not session.newcomers, "a constructor that raises is not restarted"
    session.release(actor, late, *calls)
    session.check_empty()


def test_an_actor_holds_its_resources_until_its_process_is_gone(session):
    actor, worker = living(session, placement=(("CPU", 20_000),), resources=(("CPU", 20_000),))
    waiting = session.task()
    session.arrive()
    assert waiting not in session.at_work()
    session.hub.kill(actor, True)
    session.die(worker)
    session.up_with(waiting)
    session.done(waiting)
    assert session.hub.scheduler.free == session.hub.scheduler.total


def test_an_actor_that_names_no_resource_holds_none(session):
    for _ in range(5):
        living(session)
    assert session.hub.scheduler.free == session.hub.scheduler.total


# ------------------------------------------------------------------- call order


def test_calls_of_one_caller_run_in_order_though_the_first_waits_for_its_input(session):
    actor, worker = living(session)
    source = session.task()
    session.arrive()
    first = session.call(actor, deps=(source,))
    second, third = session.call(actor), session.call(actor)
    assert sent(worker) == []
    session.done(source)
    assert sent(worker) == [first, second, third]


def test_callers_do_not_wait_for_each_other(session):
    actor, worker = living(session)
    other = session.up_with(session.task())
    source = session.task()
    session.arrive()
    mine = session.call(actor, deps=(source,))
    theirs = session.call(actor, owner=other)
    assert sent(worker) == [theirs]
    session.done(source)
    assert sent(worker) == [theirs, mine]


def test_calls_made_while_the_actor_starts_keep_their_order(session):
    actor = session.actor()
    source = session.task()
    calls = [session.call(actor), session.call(actor, deps=(source,)), session.call(actor)]
    session.arrive()
    worker = session.at_work()[actor]
    assert sent(worker) == calls[:1]
    session.done(source)
    calls.append(session.call(actor))
    assert sent(worker) == calls


def test_out_of_order_calls_pass_those_that_wait(session):
    actor, worker = living(session, out_of_order=True)
    source = session.task()
    session.arrive()
    waits, passes = session.call(actor, deps=(source,)), session.call(actor)
    assert sent(worker) == [passes]
    session.done(source)
    assert sent(worker) == [passes, waits]


def test_a_call_whose_input_failed_fails_and_lets_the_next_go(session):
    actor, worker = living(session)
    source = session.task()
    session.arrive()
    broken, good = session.call(actor, deps=(source,)), session.call(actor)
    session.fail(source)
    assert session.row(broken).value == ERROR
    assert sent(worker) == [good]
    session.done(good)
    session.release(broken, good, source)
    end(session, actor, worker)
    session.check_empty()


def test_a_call_cancelled_while_it_waits_lets_the_next_go(session):
    actor, worker = living(session)
    source = session.task()
    session.arrive()
    waits, after = session.call(actor, deps=(source,)), session.call(actor)
    session.hub.cancel(waits, False, False)
    assert isinstance(session.error(waits), TaskCancelledError)
    session.done(source)
    assert sent(worker) == [after]
    session.done(after)
    session.release(waits, after, source)
    end(session, actor, worker)
    session.check_empty()


def test_cancel_of_a_call_of_a_sync_actor_ends_the_wait_at_once_and_drops_what_comes(session):
    actor, worker = living(session)
    call = session.call(actor)
    session.hub.cancel(call, False, False)
    assert isinstance(session.error(call), TaskCancelledError)
    session.done(call, session.block(PAGE, call))
    session.release(call)
    end(session, actor, worker)
    session.check_empty()


def test_cancel_of_a_call_of_an_async_actor_is_the_workers_to_answer(session):
    actor = session.actor()
    worker = session.up_with(actor)
    session.done(actor, took=-1)
    call = session.call(actor)
    session.hub.cancel(call, False, False)
    assert session.row(call).state == PENDING
    session.fail(call, pack(TaskCancelledError(error_message="x")).to_bytes())
    session.release(call)
    end(session, actor, worker)
    session.check_empty()


def test_a_forced_cancel_of_an_actor_call_is_refused(session):
    actor, _ = living(session)
    call = session.call(actor)
    with pytest.raises(ValueError, match=r"ray\.kill"):
        session.hub.cancel(call, True, False)
    assert session.row(call).state == PENDING


def test_options_of_a_call_travel_when_they_are_not_the_usual(session):
    actor, worker = living(session)
    session.call(actor)
    assert worker.link.of(Calling) == []
    session.call(actor, name="named")
    assert worker.link.of(Calling)[0].options.name == "named"


def test_more_pending_calls_than_allowed_are_refused_and_leave_nothing(session):
    actor, worker = living(session, max_pending_calls=2)
    calls = [session.call(actor), session.call(actor)]
    args = session.block()
    with pytest.raises(PendingCallsLimitExceeded, match="max_pending_calls=2"):
        session.call(actor, args=args)
    session.done(calls[0])
    calls.append(session.call(actor))
    for call in calls[1:]:
        session.done(call)
    session.release(*calls)
    end(session, actor, worker)
    session.check_empty()


def test_a_worker_learns_that_its_call_was_one_too_many_from_the_result(session):
    actor, worker = living(session, max_pending_calls=1)
    session.call(actor)
    caller = session.up_with(session.task())
    made = session.new(caller, 2)
    spec = TaskSpec(made, b"", under(session.block(), session.new(caller)), 2, actor=actor, method="m")
    session.tell(caller, Call(spec, CallOptions(returns=2)))
    assert all(isinstance(session.error(key), PendingCallsLimitExceeded) for key in (made, made + 1))
    session.tell(caller, Release([made, made + 1]))
    for task in (*session.at_work(),):
        session.done(task)
        session.release(task)
    end(session, actor, worker)
    session.check_empty()


# --------------------------------------------------------------------- restarts


def test_a_restarted_actor_repeats_calls_in_flight_in_order_ahead_of_those_that_wait(session):
    actor, worker = living(session, max_restarts=1, max_task_retries=1)
    calls = [session.call(actor) for _ in range(3)]
    session.die(worker)
    calls.append(session.call(actor))
    worker = session.up_with(actor)
    assert worker.link.of(Host)[0].reconstructed
    assert sent(worker) == calls
    assert [message.attempt for message in worker.link.of(Calling)] == [1, 1, 1]
    session.done(actor)
    for call in calls:
        session.done(call)
    session.release(*calls)
    end(session, actor, worker)
    session.check_empty()


def test_calls_in_flight_are_repeated_ahead_of_those_that_waited_for_inputs(session):
    actor, worker = living(session, max_restarts=1, max_task_retries=1)
    source = session.task()
    session.arrive()
    calls = [session.call(actor) for _ in range(3)]
    calls += [session.call(actor, deps=(source,)), session.call(actor)]
    assert sent(worker) == calls[:3]
    session.die(worker)
    worker = session.up_with(actor)
    assert sent(worker) == calls[:3]
    session.done(source)
    assert sent(worker) == calls


def test_calls_in_flight_fail_as_unavailable_when_they_may_not_be_repeated_and_later_ones_work(session):
    actor, worker = living(session, max_restarts=1)
    lost = session.call(actor)
    session.die(worker, "killed by SIGKILL")
    error = session.error(lost)
    assert isinstance(error, ActorUnavailableError) and "SIGKILL" in str(error)
    worker = session.up_with(actor)
    session.done(actor)
    later = session.call(actor)
    session.done(later)
    session.release(lost, later)
    end(session, actor, worker)
    session.check_empty()


def test_an_actor_out_of_restarts_is_dead_and_says_of_what(session):
    actor, worker = living(session, max_restarts=1, max_task_retries=-1, name="who")
    call = session.call(actor)
    session.die(worker)
    worker = session.up_with(actor)
    session.done(actor)
    worker.tail.append("its last words")
    session.die(worker, "killed by SIGSEGV (a crash in native code)")
    text = str(session.error(call))
    assert isinstance(session.error(call), ActorDiedError)
    assert "SIGSEGV" in text and f"pid {worker.pid}" in text and "its last words" in text and '"who"' in text
    assert session.hub.names == {}
    late = session.call(actor)
    assert "SIGSEGV" in str(session.error(late))
    session.release(call, late, actor)
    session.check_empty()


def test_an_actor_that_dies_in_its_constructor_counts_that_as_a_restart(session):
    actor = session.actor(max_restarts=2)
    call = session.call(actor, max_retries=5)
    for _ in range(3):
        session.die(session.up_with(actor))
    assert isinstance(session.error(call), ActorDiedError)
    session.release(call, actor)
    session.check_empty()


def test_an_error_of_a_method_is_retried_as_its_options_say(session):
    actor, worker = living(session, max_task_retries=1)
    call = session.call(actor)
    session.fail(call, retry=True)
    assert session.row(call).state == PENDING and sent(worker) == [call, call]
    session.fail(call, retry=True)
    assert session.row(call).value == ERROR
    own = session.call(actor, max_retries=0)
    session.fail(own, retry=True)
    assert session.row(own).value == ERROR
    session.release(call, own)
    end(session, actor, worker)
    session.check_empty()


def test_a_stream_of_a_restarted_actor_delivers_no_item_twice(session):
    actor, worker = living(session, max_restarts=1, max_task_retries=1)
    call = session.call(actor, returns=-1)
    session.tell(worker, Item(call, b"\x800"), Item(call, b"\x801"))
    session.die(worker)
    worker = session.up_with(actor)
    session.done(actor)
    session.tell(worker, Item(call, b"\x800"), Item(call, b"\x801"), Item(call, b"\x802"))
    session.done_many(call, [NONE])
    keys = [session.ids.take() for _ in range(4)]
    for key in keys:
        session.hub.promise(call, key, None)
    assert [session.row(key).value for key in keys] == [b"\x800", b"\x801", b"\x802", b""]
    assert session.row(keys[3]).state == END
    session.release(*keys, call)
    session.hub.abandon_stream(call)
    end(session, actor, worker)
    session.check_empty()


# ------------------------------------------------------------------------- ends


def test_an_actor_without_handles_ends_only_after_its_calls(session):
    actor, worker = living(session)
    calls = [session.call(actor), session.call(actor)]
    session.release(actor)
    assert worker.link.of(Leave) == []
    session.done(calls[0])
    assert worker.link.of(Leave) == []
    session.done(calls[1])
    assert worker.link.of(Leave) == [Leave()]
    session.release(*calls)
    session.die(worker, "exited with code 0")
    session.check_empty()


def test_an_actor_without_handles_ends_only_after_its_constructor(session):
    actor = session.actor()
    worker = session.up_with(actor)
    session.release(actor)
    assert worker.link.of(Leave) == []
    session.done(actor)
    assert worker.link.of(Leave) == [Leave()]
    session.die(worker, "exited with code 0")
    session.check_empty()


def test_an_actor_dropped_before_it_has_a_worker_is_never_made(session):
    actor = session.actor()
    session.release(actor)
    session.arrive()
    assert session.at_work() == {}
    session.check_empty()


def test_a_handle_that_comes_back_while_calls_run_keeps_the_actor(session):
    actor, worker = living(session)
    call = session.call(actor)
    session.release(actor)
    session.hub.hold(actor)
    session.done(call)
    assert worker.link.of(Leave) == []
    session.release(call)
    end(session, actor, worker)
    session.check_empty()


def test_a_handle_inside_a_value_or_a_call_keeps_the_actor(session):
    actor, worker = living(session)
    value = session.put(refs=(actor,))
    task = session.task(refs=(actor,))
    session.release(actor, value)
    session.arrive()
    assert worker.link.of(Leave) == []
    session.done(task)
    assert worker.link.of(Leave) == [Leave()]
    session.release(task)
    session.die(worker, "exited with code 0")
    session.check_empty()


def test_a_handle_held_by_a_worker_goes_with_that_worker(session):
    actor, worker = living(session)
    task = session.task(max_retries=0)
    holder = session.up_with(task)
    session.tell(holder, Hold([actor]))
    session.release(actor)
    assert worker.link.of(Leave) == []
    session.die(holder)
    assert worker.link.of(Leave) == [Leave()]
    session.die(worker, "exited with code 0")
    session.release(task)
    session.check_empty()


def test_an_actor_that_dies_holding_the_last_handle_of_itself_is_buried(session):
    """`a.keep.remote(a); del a`: the call in flight is all that counts on the actor."""
    actor, worker = living(session)
    call = session.call(actor, refs=(actor,))
    session.release(actor)
    session.die(worker)
    assert isinstance(session.error(call), ActorDiedError)
    session.release(call)
    session.check_empty()


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("calls_after", [0, 1])
def test_an_actor_whose_last_handle_is_lost_with_its_process_is_not_in_the_way(session, calls_after, retries):
    """As above, but it may be restarted: nobody is left for whom to do so."""
    actor, worker = living(session, max_restarts=1)
    calls = [session.call(actor, refs=(actor,))]
    calls += [session.call(actor, max_retries=retries) for _ in range(calls_after)]
    session.release(actor)
    session.die(worker)
    assert isinstance(session.error(calls[0]), ActorUnavailableError | ActorDiedError)
    for worker in session.arrive():
        if actor in session.running(worker):
            session.done(actor)
            for call in sent(worker):
                session.done(call)
            assert worker.link.of(Leave) == [Leave()]
            session.die(worker, "exited with code 0")
    assert all(session.row(call).state for call in calls), "a call was forgotten"
    session.release(*calls)
    session.check_empty()


def test_an_actor_whose_worker_holds_its_own_handle_is_forgotten_when_the_process_is_gone(session):
    actor, worker = living(session)
    session.tell(worker, Hold([actor]))
    session.release(actor)
    session.hub.kill(actor, True)
    session.die(worker)
    session.check_empty()


def test_kill_fails_what_is_in_flight_and_frees_the_name_at_once(session):
    actor, worker = living(session, name="n", max_restarts=-1)
    call = session.call(actor)
    session.hub.kill(actor, True)
    assert (worker, signal.SIGKILL) in session.signals
    assert "killed by ray.kill" in str(session.error(call))
    with pytest.raises(ValueError, match="there is none"):
        session.hub.find("n", "test")
    session.die(worker)
    session.arrive()
    assert session.at_work() == {}
    session.hub.kill(actor, True)
    session.release(actor, call)
    session.check_empty()


def test_kill_with_restart_allowed_restarts(session):
    actor, worker = living(session, max_restarts=1)
    session.hub.kill(actor, False)
    session.die(worker)
    worker = session.up_with(actor)
    session.done(actor)
    end(session, actor, worker)
    session.check_empty()


def test_kill_before_the_actor_has_a_worker(session):
    actor = session.actor()
    call = session.call(actor)
    session.hub.kill(actor, True)
    session.arrive()
    assert session.at_work() == {}
    assert isinstance(session.error(call), ActorDiedError)
    session.release(actor, call)
    session.check_empty()


def test_an_actor_that_leaves_for_good_is_not_restarted(session):
    actor, worker = living(session, max_restarts=-1)
    call = session.call(actor)
    session.tell(worker, Leaving("it called exit_actor", True))
    assert "exit_actor" in str(session.error(call))
    session.die(worker, "exited with code 0")
    assert session.newcomers == []
    session.release(actor, call)
    session.check_empty()


def test_calls_of_what_nobody_knows_fail_as_dead(session):
    call = session.call(12345)
    assert isinstance(session.error(call), ActorDiedError)
    session.release(call)
    session.check_empty()


def test_a_dead_actors_calls_release_their_inputs(session):
    actor, worker = living(session)
    source = session.put_large()
    calls = [session.call(actor, deps=(source,)), session.call(actor, refs=(source,), args=session.block())]
    session.release(source)
    session.die(worker)
    late = session.call(actor, deps=(), refs=(), args=session.block())
    session.release(actor, late, *calls)
    session.check_empty()


def test_the_result_of_a_dead_actors_cancelled_or_failed_call_is_dropped(session):
    actor, worker = living(session)
    call = session.call(actor)
    session.hub.kill(actor, True)
    session.tell(worker, Done(call, session.block(PAGE, call)))
    session.tell(worker, Failed(call, ERROR))
    session.die(worker)
    session.release(actor, call)
    session.check_empty()


# ------------------------------------------------------------------------ names


def test_a_name_is_taken_until_the_actor_is_gone(session):
    actor, worker = living(session, name="n")
    args = session.block()
    with pytest.raises(ValueError, match="'n' is taken in namespace 'test'"):
        session.actor(name="n", args=args)
    elsewhere = session.actor(name="n", namespace="other")
    assert session.hub.find("n", "test").actor == actor
    assert session.hub.find("n", "other").actor == elsewhere
    session.hub.kill(elsewhere, True)
    session.release(elsewhere)
    end(session, actor, worker)
    with pytest.raises(ValueError, match="there is none in namespace 'test'"):
        session.hub.find("n", "test")
    session.check_empty()


def test_get_if_exists_gives_one_more_handle(session):
    actor, worker = living(session, name="n", get_if_exists=True)
    again = session.actor(name="n", get_if_exists=True, args=session.block())
    assert again == actor
    session.release(actor)
    assert worker.link.of(Leave) == []
    end(session, actor, worker)
    session.check_empty()


def test_a_worker_that_finds_the_name_taken_gets_the_error_and_leaves_nothing(session):
    actor, worker = living(session, name="n")
    asker_task = session.task()
    asker = session.up_with(asker_task)
    block = under(session.block(), session.new(asker))
    asker.granted.append((block.offset, block.size))
    made = session.new(asker)
    info = ActorInfo(made, ActorOptions(class_name="Class", name="n"), ())
    spec = TaskSpec(made, b"Class", block, actor=made)
    session.tell(asker, Ask(1, "spawn", encoder.encode(SpawnRequest(spec, info))))
    assert asker.link.of(Answer)[0].failed
    session.done(asker_task)
    session.release(asker_task)
    end(session, actor, worker)
    session.check_empty()


def test_a_detached_actor_survives_its_handles_and_its_maker(session):
    maker_task = session.task(max_retries=0)
    maker = session.up_with(maker_task)
    actor = session.actor(name="n", detached=True, owner=maker)
    worker = session.up_with(actor)
    session.done(actor)
    session.die(maker)
    assert worker.link.of(Leave) == []
    assert session.hub.find("n", "test").actor == actor
    session.hub.kill(actor, True)
    session.die(worker)
    session.release(maker_task)
    session.check_empty()


def test_state_shows_where_an_actor_is_in_its_life(session):
    def state() -> str:
        (row,) = session.hub.state("actors")
        return row["state"]

    actor = session.actor(max_restarts=1)
    assert state() == "PENDING_CREATION"
    worker = session.up_with(actor)
    assert state() == "PENDING_CREATION"
    session.done(actor)
    assert state() == "ALIVE"
    session.die(worker)
    assert state() == "RESTARTING"
    session.die(session.up_with(actor))
    assert state() == "DEAD"
    assert session.row(actor).state in (READY, FAILED)
