"""Timers run once, in the order of their deadlines, and not when they were cancelled."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from skate.engines.local.timers import Timer, Timers


@given(st.lists(st.tuples(st.sampled_from(["at", "cancel", "tick"]), st.integers(0, 30)), max_size=200))
@settings(max_examples=100)
def test_what_is_due_and_not_cancelled_runs_once_in_order(steps):
    timers, now = Timers(), 0
    made: list[tuple[int, int, Timer]] = []
    ran: list[int] = []
    cancelled: set[int] = set()
    for step, number in steps:
        if step == "at":
            ticket = len(made)
            made.append((now + number, ticket, timers.at(now + number, lambda ticket=ticket: ran.append(ticket))))
        elif step == "cancel" and made:
            _, ticket, timer = made[number % len(made)]
            timers.cancel(timer)
            if ticket not in ran:
                cancelled.add(ticket)
        elif step == "tick":
            now += number
            before = len(ran)
            timers.tick(now)
            due = sorted((d, t) for d, t, _ in made if d <= now and t not in cancelled and t not in ran[:before])
            assert ran[before:] == [ticket for _, ticket in due]
    waiting = [d for d, t, _ in made if t not in cancelled and t not in ran]
    following = timers.next()
    assert following is None if not waiting and not len(timers) else following is not None
    assert not waiting or following <= min(waiting), "a sleep until `next` would miss one"


def test_an_action_may_set_and_cancel_timers():
    timers, ran = Timers(), []
    later = timers.at(2, lambda: ran.append("cancelled"))

    def first() -> None:
        ran.append("first")
        timers.cancel(later)
        timers.at(1, lambda: ran.append("due at once"))
        timers.at(9, lambda: ran.append("later"))

    timers.at(1, first)
    timers.tick(3)
    assert ran == ["first", "due at once"]
    assert timers.next() == 9


def test_cancelled_timers_do_not_pile_up():
    timers = Timers()
    for number in range(10_000):
        timers.cancel(timers.at(number, lambda: None))
    assert len(timers) < 200
