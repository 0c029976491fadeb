"""What becomes of tasks and actors whose workers are ended for want of memory."""

from __future__ import annotations

import signal

import pytest
from scripted import Session

from skate import exceptions
from skate.core.memory_rules import MemoryRules
from skate.core.settings import Settings
from skate.engines.local import errors
from skate.engines.local.rows import Doom, Worker

SHORT = Doom("had 1 GB when memory was short.", True, False)
LAST = Doom("had 1 GB when memory was short.", True, True)
GREEDY = Doom("took more than its memory= allows.", False, True)


def end(session: Session, task: int, doom: Doom) -> Worker:
    """End the worker of a running task for want of memory."""
    worker = session.up_with(task)
    session.hub.doom(worker, doom)
    assert (worker, signal.SIGKILL) in session.signals
    session.die(worker)
    return worker


def rules(session: Session, **changes: int) -> None:
    session.hub.settings = Settings(namespace="test", memory=MemoryRules(**changes))


def test_task_is_tried_again_after_a_pause_that_doubles(session: Session) -> None:
    task = session.task()
    for pause in (1, 2, 4):
        end(session, task, SHORT)
        session.wait(pause - 0.1)
        session.arrive()
        assert task not in session.at_work()
        session.wait(0.2)
    session.up_with(task)
    session.done(task)
    assert session.is_ready(task)


def test_shortages_do_not_use_up_the_attempts(session: Session) -> None:
    task = session.task(max_retries=1)
    for _ in range(5):
        end(session, task, SHORT)
        session.wait(61)
    session.die(session.up_with(task))
    session.die(session.up_with(task))
    assert isinstance(session.error(task), exceptions.WorkerCrashedError)


def test_shortages_leave_a_lost_result_all_its_attempts(session: Session) -> None:
    task = session.task()
    for _ in range(5):
        end(session, task, SHORT)
        session.wait(61)
    session.up_with(task)
    session.done(task, session.block())
    assert session.hub.recipes[task].attempt == 0


def test_task_that_was_alone_uses_up_an_attempt_and_fails_in_the_end(session: Session) -> None:
    task = session.task(max_retries=2)
    for _ in range(2):
        end(session, task, LAST)
        session.wait(61)
    end(session, task, LAST)
    error = session.error(task)
    assert isinstance(error, exceptions.OutOfMemoryError)
    assert "after 3 attempts" in str(error) and "f" in str(error) and "had 1 GB" in str(error)


def test_task_without_retries_fails_at_once(session: Session) -> None:
    task = session.task(max_retries=0)
    end(session, task, SHORT)
    assert isinstance(session.error(task), exceptions.OutOfMemoryError)


@pytest.mark.parametrize("most", [0, 1, 3])
def test_tries_after_shortages_can_be_limited(session: Session, most: int) -> None:
    rules(session, oom_retries=most)
    task = session.task(max_retries=-1)
    for _ in range(most):
        end(session, task, SHORT)
        session.wait(61)
    end(session, task, SHORT)
    assert isinstance(session.error(task), exceptions.OutOfMemoryError)


def test_task_that_took_too_much_is_tried_again_at_once_as_often_as_it_may(session: Session) -> None:
    task = session.task(max_retries=1)
    end(session, task, GREEDY)
    end(session, task, GREEDY)
    assert isinstance(session.error(task), exceptions.OutOfMemoryError)


def test_cancel_in_the_pause_is_final(session: Session) -> None:
    task = session.task()
    end(session, task, SHORT)
    session.hub.cancel(task, False, True)
    assert isinstance(session.error(task), exceptions.TaskCancelledError)
    session.wait(2)
    session.arrive()
    assert task not in session.at_work()
    session.release(task)
    session.check_empty()


def test_task_whose_references_go_in_the_pause_still_runs(session: Session) -> None:
    task = session.task()
    end(session, task, SHORT)
    session.release(task)
    session.wait(2)
    session.up_with(task)
    session.done(task)
    session.check_empty()


def test_worker_that_is_about_to_end_is_given_nothing_more(session: Session) -> None:
    first = session.task()
    worker = session.up_with(first)
    session.hub.doom(worker, SHORT)
    more = [session.task() for _ in range(5)]
    session.done(first)
    session.arrive()
    assert worker.running == {}
    session.die(worker)
    assert all(at is not worker for at in session.at_work().values())
    assert session.is_ready(first)
    assert more


def test_calls_that_waited_in_the_worker_lose_nothing(session: Session) -> None:
    for _ in range(20):  # learn that the function is short
        task = session.task()
        session.up_with(task)
        session.done(task, took=10)
    tasks = [session.task(max_retries=0) for _ in range(40)]
    session.arrive()
    worker = next(worker for worker in session.hub.workers.values() if len(worker.running) > 2)
    head, *rest = worker.running
    session.hub.doom(worker, SHORT)
    session.die(worker)
    assert isinstance(session.error(head), exceptions.OutOfMemoryError)
    assert all(session.row(task).state == 0 for task in rest)
    assert set(rest) <= set(tasks)


def test_idle_worker_goes_unnoticed(session: Session) -> None:
    task = session.task()
    worker = session.up_with(task)
    session.done(task)
    session.hub.doom(worker, SHORT)
    session.die(worker)
    again = session.task(max_retries=0)
    session.up_with(again)
    session.done(again)
    assert session.is_ready(again)


def test_actor_dies_of_it_and_its_calls_say_so(session: Session) -> None:
    actor = session.actor()
    worker = session.up_with(actor)
    session.done(actor)
    call = session.call(actor)
    session.hub.doom(worker, LAST)
    session.die(worker)
    later = session.call(actor)
    for key in (call, later):
        error = session.error(key)
        assert isinstance(error, exceptions.ActorDiedError) and isinstance(error, exceptions.OutOfMemoryError)
        assert "had 1 GB" in str(error) and "Class" in str(error) and str(worker.pid) in str(error)


def test_actor_that_may_be_restarted_is(session: Session) -> None:
    actor = session.actor(max_restarts=1)
    worker = session.up_with(actor)
    session.done(actor)
    session.hub.doom(worker, SHORT)
    session.die(worker)
    call = session.call(actor)
    session.up_with(actor)
    session.done(actor)
    session.done(call)
    assert session.is_ready(call)


@pytest.mark.parametrize(
    ("status", "peak", "starved", "words"),
    [
        (3, 0, None, "exited with code 3"),
        (
            0,
            2 << 30,
            None,
            "exited with code 0 (by os._exit or sys.exit: a task ends by returning), with up to 2.1 GB of memory",
        ),
        (-11, 0, None, "killed by SIGSEGV (a crash in native code)"),
        (-9, 0, True, "killed by SIGKILL by the kernel, which ran out of memory; see memory= and num_cpus="),
        (-9, 0, False, "killed by SIGKILL (not by the kernel for want of memory)"),
        (-9, 0, None, "killed by SIGKILL (the kernel's out-of-memory killer does that too; see memory= and num_cpus=)"),
        (-15, 0, None, "killed by SIGTERM"),
        (-40, 0, None, "killed by signal 40"),
    ],
)
def test_end_of_a_process_in_words(status: int, peak: int, starved: bool | None, words: str) -> None:
    assert errors.how_it_ended(status, peak, starved) == words
