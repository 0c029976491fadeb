"""Requests for a model go to replicas that hold it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from skate import serve
from skate.serve import holders
from skate.serve.holders import BELIEVED_S, PATIENCE_S, Holders


@dataclass
class Fake:
    name: str
    models: frozenset[str] = frozenset()
    busy: int = 0

    def load(self) -> int:
        return self.busy


def choose(chooser: Holders, model: str, *replicas: Fake, waits_since: float = 0.0) -> str | None:
    found = chooser.choose(model, replicas, lambda one: one.busy < 2, waits_since)
    return found.name if found else None


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [0.0]
    monkeypatch.setattr(holders, "clock", lambda: time[0])
    return time


def test_a_replica_that_holds_the_model_comes_first(now: list[float]) -> None:
    one, two, three = Fake("1"), Fake("2", frozenset("a"), 1), Fake("3", frozenset("ab"))
    assert choose(Holders(), "a", one, two, three) == "3"
    three.busy = 2
    assert choose(Holders(), "a", one, two, three) == "2"


def test_a_model_that_nobody_holds_goes_where_the_fewest_are_and_stays_there(now: list[float]) -> None:
    chooser = Holders()
    one, two = Fake("1", frozenset("xy")), Fake("2", frozenset("x"), 1)
    assert choose(chooser, "a", one, two) == "2"
    assert choose(chooser, "b", one, Fake("2", frozenset("x"), 0)) in "12"
    assert choose(chooser, "a", Fake("1"), two) == "2"  # though it has not told of it yet
    now[0] += BELIEVED_S
    assert choose(chooser, "a", Fake("1"), two) == "1"


def test_requests_wait_a_while_for_those_that_hold_the_model(now: list[float]) -> None:
    one, two = Fake("1"), Fake("2", frozenset("a"), 2)
    assert choose(Holders(), "a", one, two) is None
    now[0] += PATIENCE_S
    assert choose(Holders(), "a", one, two) == "1"


def test_when_all_are_full_requests_wait(now: list[float]) -> None:
    assert choose(Holders(), "a", Fake("1", busy=2), waits_since=-9.0) is None
    assert choose(Holders(), "a") is None


@serve.deployment(num_replicas=2, max_ongoing_requests=10)
class Keeper:
    def __init__(self) -> None:
        self.loads: Counter[str] = Counter()

    @serve.multiplexed(max_num_models_per_replica=2)
    async def get(self, model_id: str) -> str:
        self.loads[model_id] += 1
        return model_id

    async def __call__(self) -> tuple[str, int, int]:
        model = await self.get(serve.get_multiplexed_model_id())
        return model, os.getpid(), self.loads[model]


@pytest.mark.usefixtures("clean")
def test_models_are_spread_over_replicas_and_loaded_once(eventually: Callable[..., None]) -> None:
    handle = serve.run(Keeper.bind(), route_prefix=None)
    answers = [
        handle.options(multiplexed_model_id=model).remote().result(timeout_s=60) for model in "abcd" for _ in range(5)
    ]
    where = {model: {pid for name, pid, _ in answers if name == model} for model in "abcd"}
    assert all(len(pids) == 1 for pids in where.values())
    assert sorted(Counter(pid for pids in where.values() for pid in pids).values()) == [2, 2]
    assert all(loads == 1 for _, _, loads in answers)
