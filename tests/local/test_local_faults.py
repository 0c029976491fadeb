"""Faults by a seed: the same schedule for the same seed, done as planned, noted when done, and gone with the plan."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest

import skate
from skate import exceptions
from skate.core import engine as engines
from skate.engines.local.link import Link
from skate.testing.faults import FaultPlan, Kill, inject


@skate.remote(max_retries=-1)
def double(i: int) -> int:
    return 2 * i


@skate.remote(max_retries=0)
def once(i: int) -> int:
    return i


@skate.remote(max_retries=-1)
def large(i: int) -> bytes:
    return bytes([i]) * 200_000


@skate.remote(max_restarts=-1, max_task_retries=-1)
class Teller:
    def tell(self, i: int) -> int:
        return i


# ---------------------------------------------------------------------------- plans


def test_one_seed_is_one_schedule_in_every_process() -> None:
    plan = FaultPlan(seed=7, kill_every=100, drop_every=50)
    program = (
        "from skate.testing.faults import FaultPlan; p = FaultPlan(seed=7, kill_every=100, drop_every=50); "
        "print(p.schedule('kill', 1000), p.schedule('drop', 300))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert printed.stdout.strip() == f"{plan.schedule('kill', 1000)} {plan.schedule('drop', 300)}"
    assert plan.schedule("kill", 1000) != FaultPlan(seed=8, kill_every=100).schedule("kill", 1000)


def test_gaps_between_faults_are_near_the_mean_that_was_asked_for() -> None:
    counts = [count for count, _, _ in FaultPlan(seed=1, kill_every=100).schedule("kill", 100_000)]
    gaps = [after - before for before, after in itertools.pairwise(counts)]
    assert min(gaps) >= 50 and max(gaps) <= 150 and 900 < len(counts) < 1100


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"how": ("SIGFOO",)}, "SIGFOO"),
        ({"how": "exit"}, "tuple"),
        ({"when": ()}, "when"),
        ({"kill_every": -1}, "negative"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FaultPlan(**wrong)  # type: ignore[arg-type]


def test_a_plan_needs_a_session() -> None:
    with pytest.raises(RuntimeError, match="skate.init"), inject(FaultPlan()):
        pass


# ------------------------------------------------------------------------- in force


@pytest.mark.parametrize(
    ("how", "says"),
    [("SIGKILL", "SIGKILL"), ("SIGSEGV", "SIGSEGV"), ("oom", "SIGKILL"), ("exit", "exited with code 3")],
)
@pytest.mark.parametrize("when", ["begin", "end"])
def test_a_named_call_dies_in_the_named_way_and_no_other(how: str, says: str, when: str, session: None) -> None:
    with inject(FaultPlan(kills=(Kill(1, 3, how, when),))) as log:
        results = []
        for i in range(5):
            try:
                results.append(skate.get(once.remote(i), timeout=60))
            except exceptions.WorkerCrashedError as error:
                assert says in str(error)
                results.append(None)
    assert results == [0, 1, None, 3, 4]
    (fault,) = log
    assert fault.kind == "kill" and fault.count == 3 and says in fault.what


def test_retried_work_comes_out_right_while_workers_die(session: None) -> None:
    with inject(FaultPlan(seed=1, kill_every=20, stall_every=50)) as log:
        assert skate.get([double.remote(i) for i in range(300)], timeout=150) == [2 * i for i in range(300)]
        teller = Teller.remote()
        assert skate.get([teller.tell.remote(i) for i in range(60)], timeout=150) == list(range(60))
    kinds = {fault.kind for fault in log}
    assert kinds == {"kill", "stall"} and len(log) > 10


def test_actors_can_be_spared(session: None) -> None:
    teller = Teller.remote()
    pid = skate.get(teller.__ray_call__.remote(lambda _: os.getpid()))
    with inject(FaultPlan(kill_every=2, spare_actors=True)) as log:
        assert skate.get([teller.tell.remote(i) for i in range(50)], timeout=60) == list(range(50))
    assert log == [] and skate.get(teller.__ray_call__.remote(lambda _: os.getpid())) == pid


def test_dropped_objects_are_made_again(session: None) -> None:
    kept = [large.remote(i) for i in range(5)]
    skate.wait(kept, num_returns=5, timeout=60)
    with inject(FaultPlan(drop_every=4)) as log:
        skate.get([double.remote(i) for i in range(50)], timeout=60)
        assert skate.get(kept, timeout=60) == [bytes([i]) * 200_000 for i in range(5)]
    assert {fault.kind for fault in log} == {"drop"}


def test_nothing_is_left_of_a_plan_that_has_ended(session: None) -> None:
    engine = engines.running()
    skate.get(double.remote(1))
    before = dict(vars(engine.host)), dict(vars(engine.hub))
    with inject(FaultPlan(kill_every=2)) as log:
        skate.get([double.remote(i) for i in range(20)], timeout=60)
        with pytest.raises(RuntimeError, match="in force already"), inject(FaultPlan()):
            pass
    assert log
    assert (vars(engine.host).keys(), vars(engine.hub).keys()) == tuple(which.keys() for which in before)
    assert all(type(worker.link) is Link for worker in engine.hub.workers.values())
    seen = len(log)
    assert skate.get([once.remote(i) for i in range(100)], timeout=60) == list(range(100))
    assert len(log) == seen
