"""The memory monitor's decisions: who is ended, who is spared, and that it comes to an end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from skate.engines.local.monitor import MOST_SPARE, SPARE, WORTH, Candidate, choose, delay

MB = 1 << 20
TOTAL = 1000 * MB
BOUND = 950 * MB


def task(client: int, size: int = 100, since: int | None = None, **others: Any) -> Candidate:
    return Candidate(client, size * MB, (since if since is not None else client, client), **others)


def ended(candidates: list[Candidate], used: int) -> list[int]:
    return [verdict.client for verdict in choose(candidates, used * MB, BOUND, TOTAL)]


def test_nobody_is_ended_below_the_bound() -> None:
    assert ended([task(1), task(2)], 950) == []


def test_newest_goes_first() -> None:
    assert ended([task(1), task(3), task(2)], 951) == [3]


def test_as_many_go_as_it_takes_to_have_something_to_spare() -> None:
    assert ended([task(i) for i in range(1, 8)], 1180) == [7, 6, 5]


def test_calls_that_can_be_tried_again_go_before_those_that_cannot() -> None:
    assert ended([task(1), task(2, retriable=False)], 951) == [1]
    assert ended([task(1), task(2, retriable=False)], 1100) == [1, 2]


def test_idle_workers_go_first_and_the_largest_of_them() -> None:
    assert ended([task(1), task(2, 20, idle=True), task(3, 40, idle=True)], 951) == [3, 2]


def test_worker_that_has_next_to_nothing_is_spared() -> None:
    assert ended([task(1, 15), task(2, 15, idle=True)], 2000) == []


@pytest.mark.parametrize("idle", [True, False])
def test_end_counts_as_an_attempt_when_nothing_beside_it_could_give_memory_back(idle: bool) -> None:
    beside = [task(1, 15), task(2, 200, busy=False, retriable=False)] + [task(3, 20, idle=True)] * idle
    verdicts = choose([*beside, task(9)], 955 * MB, BOUND, TOTAL)
    assert [(verdict.client, verdict.counts) for verdict in verdicts] == [(3, False)] * idle + [(9, True)]


def test_end_does_not_count_while_others_run() -> None:
    assert choose([task(1), task(2)], 951 * MB, BOUND, TOTAL)[0].counts is False


def test_oldest_of_those_ended_at_once_is_the_one_that_counts() -> None:
    verdicts = choose([task(1), task(2), task(3)], 2000 * MB, BOUND, TOTAL)
    assert [(verdict.client, verdict.counts) for verdict in verdicts] == [(3, False), (2, False), (1, True)]


def test_pause_before_the_next_try_doubles_up_to_a_minute() -> None:
    assert [delay(1000, times) for times in (1, 2, 3, 6, 7, 1000)] == [1, 2, 4, 32, 60, 60]
    assert delay(0, 5) == 0


candidates = st.lists(
    st.builds(
        Candidate,
        client=st.integers(1, 1 << 20),
        size=st.integers(0, 400 * MB),
        since=st.tuples(st.integers(0, 5), st.integers(0, 1 << 20)),
        idle=st.booleans(),
        retriable=st.booleans(),
        busy=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda candidate: candidate.client,
)


@given(candidates, st.integers(0, 3 * TOTAL))
def test_choice_is_just_enough_and_in_order(found: list[Candidate], used: int) -> None:
    by_client = {candidate.client: candidate for candidate in found}
    verdicts = choose(found, used, BOUND, TOTAL)
    chosen = [by_client[verdict.client] for verdict in verdicts]
    spared = [candidate for candidate in found if candidate not in chosen and candidate.size >= WORTH]
    goal = BOUND - min(int(TOTAL * SPARE), MOST_SPARE)
    assert used > BOUND or not chosen
    assert all(candidate.size >= WORTH for candidate in chosen)
    assert used - sum(candidate.size for candidate in chosen[:-1]) > goal or not chosen
    if used > BOUND and spared:
        assert used - sum(candidate.size for candidate in chosen) <= goal
    assert not any(candidate.idle for candidate in spared) or all(candidate.idle for candidate in chosen)
    active = [candidate for candidate in chosen if not candidate.idle]
    if any(not candidate.retriable for candidate in active):
        assert not any(candidate.retriable for candidate in spared)
    for candidate in active:
        assert all(candidate.since >= other.since for other in spared if other.retriable == candidate.retriable)
    assert sum(verdict.counts for verdict in verdicts) <= 1


class Machine(RuleBasedStateMachine):
    """Tasks that come, grow, end and are ended; each has three attempts, and shortages do not count but the last."""

    ATTEMPTS = 3

    @initialize(outside=st.integers(0, 600))
    def begin(self, outside: int) -> None:
        self.outside = outside * MB
        self.clock = 0
        self.sizes: dict[int, int] = {}
        self.begun: dict[int, int] = {}
        self.goals: dict[int, int] = {}
        self.counted: dict[int, int] = {}
        self.waiting: list[int] = []
        self.failed: set[int] = set()
        self.names = iter(range(1, 1 << 30))

    def used(self) -> int:
        return self.outside + sum(self.sizes.values())

    @rule(goal=st.integers(1, 1500))
    def submit(self, goal: int) -> None:
        name = next(self.names)
        self.goals[name], self.counted[name] = goal * MB, 0
        self.waiting.append(name)

    @precondition(lambda self: self.waiting)
    @rule()
    def start(self) -> None:
        name = self.waiting.pop(0)
        self.clock += 1
        self.sizes[name], self.begun[name] = 0, self.clock

    @precondition(lambda self: self.sizes)
    @rule(data=st.data(), step=st.integers(1, 300))
    def grow(self, data: st.DataObject, step: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.sizes)))
        self.sizes[name] = min(self.goals[name], self.sizes[name] + step * MB)
        if self.used() > TOTAL:
            self.look()
        elif self.sizes[name] == self.goals[name]:
            del self.sizes[name]  # done

    @rule()
    def look(self) -> None:
        found = [Candidate(name, size, (self.begun[name], name)) for name, size in self.sizes.items()]
        before = self.used()
        for name, counts in choose(found, before, BOUND, TOTAL):
            del self.sizes[name]
            self.counted[name] += counts
            if self.counted[name] >= self.ATTEMPTS:
                self.failed.add(name)
            else:
                self.waiting.append(name)
        worthy = [size for size in self.sizes.values() if size >= WORTH]
        assert self.used() <= BOUND or not worthy, "too much is in use, and there is somebody to end"

    @invariant()
    def only_what_fits_nowhere_fails(self) -> None:
        """An end counts only where nothing else was left to end: with the small ones alone it was too much."""
        goal = BOUND - int(TOTAL * SPARE)
        for name in getattr(self, "failed", ()):
            assert self.goals[name] + self.outside + len(self.goals) * WORTH > goal

    def teardown(self) -> None:
        """Whatever is left comes to an end: done, or failed for good."""
        if not hasattr(self, "goals"):
            return
        for _ in range(2000):
            if not self.sizes and not self.waiting:
                return
            if self.waiting:
                self.start()
            for name in list(self.sizes):
                if name in self.sizes:
                    self.sizes[name] = min(self.goals[name], self.sizes[name] + 200 * MB)
                    self.look()
                    if self.sizes.get(name) == self.goals[name] and self.used() <= BOUND:
                        del self.sizes[name]
        raise AssertionError(f"this goes on for ever: {self.sizes}, {self.waiting}, outside {self.outside}")


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, database=None)
