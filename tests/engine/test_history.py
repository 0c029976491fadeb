"""What is remembered of calls that have ended: bounded, and with times that fit together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skate.core.keeping import Keeping
from skate.core.spec import CallOptions, TaskOptions
from skate.engines.local import history as module
from skate.engines.local.history import Card, History, Record
from skate.engines.local.messages import Failed, TaskSpec
from skate.engines.local.rows import Row

OPTIONS = TaskOptions()


def record(card: Any, ended: float, took: int, *, task: int = 1, failed: bool = False) -> Record:
    return Record(task, b"f", OPTIONS, card, 0, 0, 0.0, ended, took, failed)


def test_calls_of_one_frame_follow_each_other() -> None:
    history, card = History(Keeping()), Card(7)
    for took in (100, 200, 300):
        history.add(record(card, 50.0, took))
    history.add(record(card, 60.0, 1000))
    spans = [(began, ended) for _, began, ended in history.spans()]
    assert spans[0] == pytest.approx((49.9999, 50.0))
    assert spans[1] == pytest.approx((50.0, 50.0002))
    assert spans[2] == pytest.approx((50.0002, 50.0005))
    assert spans[3] == pytest.approx((59.999, 60.0))


def test_calls_of_a_concurrent_actor_overlap() -> None:
    history, card = History(Keeping()), Card(7, at_once=10)
    for _ in range(3):
        history.add(record(card, 50.0, 1_000_000))
    assert [(began, ended) for _, began, ended in history.spans()] == [(49.0, 50.0)] * 3


@pytest.mark.parametrize("told", [float("nan"), float("inf"), -1e300, 1e300])
def test_times_that_no_worker_of_ours_would_tell_are_not_believed(told: float) -> None:
    history = History(Keeping())
    history.add(record(Card(7), told, 100))
    ((_, began, ended),) = history.spans()
    assert -0.001 < began <= ended < 0.001  # by the record's own time, when it was made: 0.0


def test_call_that_never_began_has_no_beginning() -> None:
    history = History(Keeping())
    history.add(record(0, 50.0, -1, failed=True))
    assert [(began, ended) for _, began, ended in history.spans()] == [(0.0, 50.0)]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5), st.integers(0, 10_000)), max_size=60))
def test_a_worker_never_runs_two_calls_at_once(calls: list[tuple[int, int, int]]) -> None:
    """Whatever frames come, as long as a worker's clock goes on as its calls do."""
    history, cards, clock = History(Keeping()), {n: Card(n) for n in (1, 2, 3)}, dict.fromkeys((1, 2, 3), 100.0)
    stamps: dict[int, float] = {}
    for worker, new_frame, took in calls:
        clock[worker] += took * 1e-6
        if new_frame or worker not in stamps:
            stamps[worker] = clock[worker]
        history.add(record(cards[worker], stamps[worker], took))
    last: dict[int, float] = {}
    for found, began, ended in history.spans():
        worker = found.where.client
        assert began >= last.get(worker, 0.0) - 1e-9 and ended >= began
        last[worker] = ended


def test_the_list_is_trimmed_to_what_was_asked_for() -> None:
    history = History(Keeping(tasks=100))
    for number in range(10_000):
        history.add(record(0, 1.0, -1, task=number))
        if len(history.calls) > history.most:
            history.trim()
        assert len(history.calls) <= history.most
    assert [found.task for found, _, _ in history.spans()] == list(range(9_900, 10_000))


def test_nothing_is_kept_when_nothing_is_asked_for() -> None:
    history = History(Keeping(tasks=0))
    history.add(record(0, 1.0, -1))
    fail(history, 1, b"error")
    history.trim()
    assert list(history.spans()) == [] and history.errors == {}


def fail(history: History, task: int, error: bytes, attempt: int = 0) -> None:
    spec = TaskSpec(task, b"f", b"", 1)
    history.failed(Row(spec=spec, options=OPTIONS, attempt=attempt), spec, error, Failed(task, error), None)


def test_errors_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OF_ERRORS", 10_000)
    history = History(Keeping())
    for task in range(100):
        fail(history, task, bytes(1_000))
    assert history.errors_size == sum(map(len, history.errors.values())) <= 10_000
    assert list(history.errors) == [(task, 0) for task in range(90, 100)]


def test_a_large_error_is_not_kept() -> None:
    history = History(Keeping())
    fail(history, 1, bytes(module.LARGEST_ERROR + 1))
    assert history.errors == {} and len(history.calls) == 1


def test_an_error_of_the_same_attempt_is_kept_once() -> None:
    history = History(Keeping())
    for _ in range(3):
        fail(history, 1, b"12345")
    assert history.errors == {(1, 0): b"12345"} and history.errors_size == 5


def test_events_are_bounded_and_numbered() -> None:
    history, told = History(Keeping(events=3)), []
    history.sink = told.append
    for number in range(10):
        history.event("INFO", "SESSION", f"event {number}")
    assert [event.message for event in history.events] == ["event 7", "event 8", "event 9"]
    assert [event.number for event in told] == list(range(1, 11))


# --------------------------------------------------------------------------- in the hub


def test_a_call_leaves_one_row_for_each_attempt(session):
    task = session.task(max_retries=1)
    session.die(session.up_with(task))
    session.up_with(task)
    session.done(task)
    rows = [row for row in session.hub.state("tasks") if row["state"] in ("FINISHED", "FAILED")]
    assert [(row["attempt_number"], row["state"]) for row in rows] == [(1, "FINISHED"), (0, "FAILED")]
    assert rows[1]["worker_id"] != rows[0]["worker_id"] and rows[1]["error"]


def test_what_ended_with_its_input_never_began(session):
    first = session.task(max_retries=0)
    second = session.task(deps=(first,))
    session.die(session.up_with(first))
    (row,) = [row for row in session.hub.state("tasks") if row["task_id"].startswith(f"{second:016x}")]
    assert (row["state"], row["start_time_ms"], row["worker_id"]) == ("FAILED", None, None)


def test_dead_actors_are_remembered_when_nobody_refers_to_them(session):
    actor = session.actor()
    worker = session.up_with(actor)
    session.done(actor)
    session.release(actor)
    session.die(worker)
    (row,) = session.hub.state("actors")
    assert row["state"] == "DEAD" and row["error"] and session.hub.actors == {}


def test_dead_workers_are_remembered_with_how_they_ended(session):
    task = session.task(max_retries=0)
    session.die(session.up_with(task))
    (row,) = [row for row in session.hub.state("workers") if not row["is_alive"]]
    assert row["exit_type"] == "SYSTEM_ERROR" and row["exit_detail"] and row["end_time_ms"]
    assert [row["source_type"] for row in session.hub.state("events")] == ["WORKER"]


def test_a_method_leaves_the_choice_of_being_listed_to_its_actor():
    assert CallOptions().events is None and OPTIONS.events is True
