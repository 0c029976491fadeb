"""Waits without end are seen: all of them that the hub can know of, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import CPU, NONE, Session

from skate.core.serialization import unpack
from skate.engines.local import deadlock, questions
from skate.engines.local.messages import Answer, Get, Values
from skate.engines.local.rows import PENDING, Row, Worker
from skate.exceptions import DeadlockError, TaskUnschedulableError

NEEDS_X = (("CPU", CPU), ("x", CPU))


def block(session: Session, worker: Worker, *keys: int, wait: int = 0, timeout: float | None = None) -> None:
    """A worker's main thread waits: in `get`, or in `wait` for so many."""
    request = next(session.requests)
    session.tell(worker, Get(request, list(keys), wait or len(keys), timeout, not wait, True))


def told(worker: Any) -> list[DeadlockError]:
    """The errors that a worker's waits got."""
    return [unpack(message.data) for message in worker.link.of(Answer) if message.failed]


def two_actors(session: Session) -> tuple[int, int, Worker, Worker, int, int]:
    """Two actors, each running a call."""
    a, b = session.actor(), session.actor()
    first, second = session.call(a), session.call(b)
    session.arrive()
    workers = session.at_work()
    one, other = workers[first], workers[second]
    session.done(a)
    session.done(b)
    return a, b, one, other, first, second


def test_an_actor_that_waits_for_itself_is_told_in_words(session):
    a = session.actor()
    first = session.call(a)
    worker = session.up_with(first)
    session.done(a)
    block(session, worker, session.call(a, owner=worker))
    (error,) = told(worker)
    assert "Class.m (pid 1002) waits for Class.m, which waits in the queue of Class.m (pid 1002)." in str(error)
    assert worker.blocked == 0 and not worker.questions


def test_the_wait_that_closes_a_circle_is_told_and_the_others_go_on(session):
    a, b, one, other, *_ = two_actors(session)
    from_a, from_b = session.call(b, owner=one), session.call(a, owner=other)
    block(session, one, from_a)
    assert told(one) == []
    block(session, other, from_b)
    assert told(one) == [] and len(told(other)) == 1
    assert one.blocked == 1 and other.blocked == 0


def test_a_wait_with_a_timeout_ends_by_itself(session):
    a, b, one, other, *_ = two_actors(session)
    from_a, from_b = session.call(b, owner=one), session.call(a, owner=other)
    block(session, one, from_a, timeout=5)
    block(session, other, from_b)
    session.wait(1)
    assert told(one) == told(other) == []


def test_wait_for_any_of_several_is_hopeless_only_when_all_are(session):
    a, _, one, *_ = two_actors(session)
    own, task = session.call(a, owner=one), session.task(owner=one)
    block(session, one, own, task, wait=1)
    session.wait(1)
    assert told(one) == []


def test_get_of_several_waits_for_the_last_that_may_fail(session):
    a, _, one, *_ = two_actors(session)
    own, task = session.call(a, owner=one), session.task(owner=one)
    block(session, one, own, task)
    session.arrive()
    session.wait(1)
    assert told(one) == []
    session.done(task)
    session.wait(1)
    assert len(told(one)) == 1


def test_a_circle_through_a_task_and_its_argument(session):
    _, _, one, _, first, _ = two_actors(session)
    task = session.task(deps=(first,), owner=one)
    block(session, one, task)
    (error,) = told(one)
    assert "waits for f, which needs the result of Class.m (pid" in str(error)


def test_a_task_that_waits_for_its_own_result(session):
    task = session.task()
    worker = session.up_with(task)
    session.row(task).waiters = [lambda _: None]
    block(session, worker, task)
    assert len(told(worker)) == 1


@pytest.fixture
def with_x():
    """A hub that has one x besides its CPUs."""
    made = Session(x=CPU)
    yield made
    made.close()


def test_a_circle_through_what_a_task_holds(with_x):
    outer = with_x.task(resources=NEEDS_X)
    worker = with_x.up_with(outer)
    block(with_x, worker, with_x.task(resources=NEEDS_X, owner=worker))
    (error,) = told(worker)
    assert "waits for f, which waits for x, which is held by f (pid" in str(error)


def test_an_actor_that_waits_in_its_constructor_for_one_that_calls_it(session):
    a = session.actor()
    b = session.actor()
    other_call = session.call(b)
    session.arrive()
    session.done(b)
    constructing, other = session.at_work()[a], session.at_work()[other_call]
    block(session, constructing, other_call)
    block(session, other, session.call(a, owner=other))
    assert len(told(other)) == 1


def test_what_needs_something_infeasible_is_hopeless_too(session):
    outer = session.task()
    worker = session.up_with(outer)
    nothing = session.task(resources=(("nothing", CPU),), owner=worker)
    block(session, worker, session.task(deps=(nothing,), owner=worker))
    (error,) = told(worker)
    assert isinstance(error, TaskUnschedulableError)


def test_who_waits_already_learns_of_what_turns_out_infeasible(session):
    outer, first = session.task(), session.task(function=b"g")
    session.arrive()
    worker = session.at_work()[outer]
    block(session, worker, session.task(deps=(first,), resources=(("nothing", CPU),), owner=worker))
    session.wait(1)
    assert told(worker) == []
    session.done(first)
    session.wait(1)
    assert [type(error) for error in told(worker)] == [TaskUnschedulableError]


def test_an_ordinary_nested_wait_is_not_searched(session, monkeypatch):
    monkeypatch.setattr(questions.deadlock, "never", lambda *_: pytest.fail("searched"))
    outer = session.task()
    worker = session.up_with(outer)
    inner = session.task(owner=worker)
    block(session, worker, inner)
    session.arrive()
    session.done(inner)
    assert len(worker.link.of(Values)) == 1  # type: ignore[attr-defined]


def test_a_large_search_is_put_off(session):
    _, _, one, _, first, _ = two_actors(session)
    last = first
    for _ in range(2 * deadlock.AT_ONCE):
        last = session.task(deps=(last,), owner=one)
    block(session, one, last)
    assert told(one) == []
    session.wait(1)
    assert len(told(one)) == 1


# ------------------------------------------------------------- against brute force


class BestCase:
    """The calls that could still end if all went well: lets everything end that can, until nothing moves."""

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self.ended: set[int] = set()
        self.keys = {id(row): key for key, row in hub.rows.items()}
        moved = True
        while moved:
            moved = False
            for key, row in hub.rows.items():
                if row.spec is not None and key not in self.ended and row.state == PENDING and self.can_run(row):
                    self.ended.add(key)
                    moved = True

    def over(self, keys: tuple[int, ...]) -> bool:
        rows = self.hub.rows
        return all(key in self.ended or key not in rows or rows[key].state != PENDING for key in keys)

    def free(self, worker: Worker) -> bool:
        """It does not wait, or what it waits for has ended, well or not."""
        for question in worker.questions:
            message = question.message
            news = sum(row.state == PENDING and self.keys[id(row)] in self.ended for row in question.rows)
            if message.timeout is None and news < (1 if message.values else question.missing):
                return False
        return True

    def can_run(self, row: Row) -> bool:
        spec, worker = row.spec, row.worker
        assert spec is not None
        if worker is not None and (worker.actor is not None or next(iter(worker.running.values())) is row):
            return self.free(worker)
        if not self.over(spec.deps):
            return False
        return self.sent(row, self.hub.actors[spec.actor]) if spec.method else self.served(row)

    def sent(self, row: Row, actor: Any) -> bool:
        """A method call: those of its caller before it are ready too, and the actor's worker is not in its way."""
        queue = list(actor.queues.get(row.owner, ()))
        earlier = queue[: queue.index(row)] if row in queue else []
        ready = all(call.spec is None or self.over(call.spec.deps) for call in earlier)
        return ready and (actor.worker is None or self.free(actor.worker))

    def served(self, row: Row) -> bool:
        """A task: what it needs besides CPUs is free, or will be."""
        scheduler = self.hub.scheduler
        for name, units in self.hub._family(row.options).need:
            holders = [worker for worker in self.hub.workers.values() if name in dict(worker.taken)]
            if name != "CPU" and scheduler.free[name] < units and not any(map(self.free, holders)):
                return False
        return True


def is_stuck(hub: Any, worker: Worker) -> bool:
    """Whether a waiting worker's call can never end, in the best of all cases."""
    return next(iter(worker.running)) not in BestCase(hub).ended


class Story:
    """A random program on a scripted hub, whose every look for a circle is compared with brute force."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.session = Session(x=CPU)
        self.hub = self.session.hub
        self.keys: list[int] = []
        self.actors = [self.session.actor() for _ in range(data.draw(st.integers(0, 3)))]
        self.begun: set[int] = set()

    def free(self) -> list[Worker]:
        return [w for w in self.hub.workers.values() if w.up and w.running and not w.blocked]

    def construct(self) -> None:
        self.session.arrive()
        for worker in list(self.hub.workers.values()):
            actor = worker.actor
            if actor is not None and not actor.constructed and not worker.blocked:
                self.session.done(actor.key)

    def pending(self) -> list[int]:
        return [key for key in self.keys if key in self.hub.rows and self.hub.rows[key].state == PENDING]

    def some(self, most: int, least: int = 0) -> list[int]:
        pending = self.pending()
        if not pending:
            return []
        return self.data.draw(st.lists(st.sampled_from(pending), min_size=least, max_size=most, unique=True))

    def step(self) -> None:
        draw, session = self.data.draw, self.session
        what = draw(st.sampled_from(["task", "call", "call", "block", "block", "block", "end"]))
        free = self.free()
        owner = draw(st.sampled_from([None, *free]))
        if what == "task":
            needs = draw(st.sampled_from([(("CPU", CPU),), NEEDS_X]))
            self.keys.append(session.task(deps=tuple(self.some(2)), owner=owner, resources=needs))
        elif what == "call" and self.actors:
            actor = draw(st.sampled_from(self.actors))
            self.keys.append(session.call(actor, deps=tuple(self.some(1)), owner=owner))
        elif what == "block" and free:
            worker = draw(st.sampled_from(free))
            keys = self.some(3, 1)
            if keys:
                wait = draw(st.integers(0, len(keys)))
                block(session, worker, *keys, wait=wait, timeout=draw(st.sampled_from([None, None, None, 60.0])))
        elif what == "end" and free:
            self.end(draw(st.sampled_from(free)), draw(st.booleans()))
        self.construct()

    def end(self, worker: Worker, well: bool) -> None:
        task = next(iter(worker.running))
        if well or task in self.actors:
            self.session.done(task, NONE)
        else:
            self.session.fail(task)

    def check(self) -> None:
        """Once the clock has moved on, nobody waits in vain."""
        self.session.wait(0.2)
        for worker in list(self.hub.workers.values()):
            if worker.questions and next(iter(worker.questions)).message.timeout is None:
                assert not is_stuck(self.hub, worker)

    def finish(self) -> None:
        """Let everything end that can: that is everything, once the timeouts have passed."""
        for patience in (0.2, 100, 0.2):
            for _ in range(len(self.keys) + len(self.actors) + 1):
                self.construct()
                for worker in self.free():
                    self.end(worker, True)
                self.session.wait(patience)
        assert self.pending() == []


@given(st.data())
def test_nobody_is_told_wrongly_and_nobody_waits_in_vain(data):
    story = Story(data)
    never, possible = deadlock.never, deadlock.possible

    def compared(hub: Any, start: Any, most: int = 0) -> Any:
        found = never(hub, start, most)
        if found is not None:
            assert is_stuck(hub, start), deadlock.in_words(hub, found.path)
        return found

    def sure(hub: Any, worker: Worker) -> bool:
        if possible(hub, worker):
            return True
        assert not is_stuck(hub, worker)
        return False

    deadlock.never, deadlock.possible = compared, sure
    try:
        for _ in range(data.draw(st.integers(4, 25))):
            story.step()
            story.check()
        story.finish()
    finally:
        deadlock.never, deadlock.possible = never, possible
        story.session.close()
