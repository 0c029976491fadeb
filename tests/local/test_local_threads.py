"""One session, many threads: in the driver, in tasks, in actors; and a forked child has none."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from programs import output_of

import skate
from skate import exceptions


@skate.remote
def echo(value: object) -> object:
    return value


@skate.remote
def fail(value: int) -> None:
    raise ValueError(value)


@skate.remote
def sleeper(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@skate.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def next(self) -> int:
        self.count += 1
        return self.count


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run `work` in so many threads at once, and raise the first error of any."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001  it is checked below
            errors.append(error)

    threads = [threading.Thread(target=run, args=[number], daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 150
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if errors:
        raise errors[0]
    stuck = sum(thread.is_alive() for thread in threads)
    assert not stuck, f"{stuck} of {count} threads hang"


def mixed_operations(seed: int, times: int, shared: skate.ObjectRef, counter: object) -> None:
    rnd = random.Random(seed)
    counted = []
    for i in range(times):
        kind = rnd.randrange(9)
        if kind == 0:
            assert skate.get(echo.remote((seed, i)), timeout=60) == (seed, i)
        elif kind == 1:
            refs = [echo.remote(k) for k in range(10)]
            ready, rest = skate.wait(refs, num_returns=3, timeout=60)
            assert len(ready) == 3 and len(rest) == 7
            assert skate.get(refs, timeout=60) == list(range(10))
        elif kind == 2:
            assert skate.get(skate.put([seed, i])) == [seed, i]
        elif kind == 3:
            array = np.full(50_000, seed * 1000 + i)
            assert skate.get(echo.remote(skate.put(array)), timeout=60)[-1] == seed * 1000 + i
        elif kind == 4:
            counted.append(skate.get(counter.next.remote(), timeout=60))
        elif kind == 5:
            with pytest.raises(ValueError, match=str(i)):
                skate.get(fail.remote(i), timeout=60)
        elif kind == 6:
            ref = sleeper.remote(5)
            skate.cancel(ref)
            with pytest.raises(exceptions.TaskCancelledError):
                skate.get(ref, timeout=60)
        elif kind == 7:
            assert skate.get(shared, timeout=60)[0] == 1
        elif i % 10 == 0:
            own = Counter.remote()
            assert skate.get([own.next.remote() for _ in range(3)], timeout=60) == [1, 2, 3]
    assert counted == sorted(set(counted)), "calls of one caller ran out of order"


@pytest.mark.parametrize("times", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_eight_threads_of_the_driver_share_a_session(times: int, session: None) -> None:
    shared, counter = skate.put(np.ones(100_000)), Counter.remote()
    in_threads(8, lambda number: mixed_operations(number, times, shared, counter))


def test_threads_that_wait_for_each_others_results_all_wake(session: None) -> None:
    refs = [sleeper.remote(0.02 * (i % 5)) for i in range(40)]
    in_threads(12, lambda number: skate.get(refs[number:] + refs[:number], timeout=60))
    in_threads(12, lambda number: skate.wait(refs, num_returns=40, timeout=60))


def test_waiting_thread_keeps_its_deadline_while_others_are_busy(session: None) -> None:
    forever = sleeper.remote(60)
    kept = threading.Event()

    def work(number: int) -> None:
        while number and not kept.is_set():
            skate.get(echo.remote(number), timeout=60)
        if number == 0:
            for _ in range(10):
                with pytest.raises(exceptions.GetTimeoutError):
                    skate.get(forever, timeout=0.1)
            kept.set()

    in_threads(4, work)  # which would never end if the deadline had to wait for the others
    assert kept.is_set()


def test_thread_left_waiting_at_shutdown_is_woken_with_an_error() -> None:
    skate.init(engine="local", num_cpus=2)
    forever, errors = sleeper.remote(60), []

    def work(verb: Callable[[], object]) -> None:
        try:
            verb()
        except exceptions.RayError as error:
            errors.append(error)

    verbs = [lambda: skate.get(forever), lambda: skate.wait([forever]), lambda: skate.get(forever, timeout=150)]
    threads = [threading.Thread(target=work, args=[verb], daemon=True) for verb in verbs]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    skate.shutdown()
    for thread in threads:
        thread.join(90)
    assert len(errors) == 3, errors
    assert all("shut down" in str(error) for error in errors)


def test_session_started_in_a_thread_serves_the_main_thread() -> None:
    thread = threading.Thread(target=lambda: skate.init(engine="local", num_cpus=1))
    thread.start()
    thread.join()
    assert skate.get(echo.remote(1), timeout=60) == 1
    thread = threading.Thread(target=skate.shutdown)
    thread.start()
    thread.join()
    assert not skate.is_initialized()


def test_sessions_started_by_eight_threads_at_once_are_one() -> None:
    os.environ.pop("SKATE_ENGINE", None)
    in_threads(8, lambda number: skate.get(echo.remote(number), timeout=60))
    skate.shutdown()


def test_threads_of_a_task_use_the_session(session: None) -> None:
    @skate.remote
    def busy() -> int:
        answers: list[int] = []
        shared = skate.put(np.ones(50_000))

        def work(number: int) -> None:
            for i in range(20):
                answers.append(skate.get(echo.options(num_cpus=0).remote(number * 100 + i), timeout=60))
                assert skate.get(shared)[0] == 1
                assert skate.wait([echo.options(num_cpus=0).remote(i)], timeout=60)[0]
                skate.put(i)

        threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(set(answers))

    assert skate.get([busy.remote(), busy.remote()], timeout=150) == [120, 120]


def test_threads_of_an_actor_use_the_session(session: None) -> None:
    @skate.remote(max_concurrency=8)
    class Busy:
        def work(self, number: int) -> int:
            refs = [echo.remote(number * 10 + i) for i in range(10)]
            skate.put(np.ones(20_000))
            return sum(skate.get(refs, timeout=60)) - number * 100

    busy = Busy.remote()
    assert skate.get([busy.work.remote(i) for i in range(100)], timeout=150) == [45] * 100


def test_futures_and_loops_side_by_side_with_plain_gets(session: None) -> None:
    async def gather(number: int) -> list[object]:
        return await asyncio.gather(*[echo.remote((number, i)) for i in range(50)])

    def work(number: int) -> None:
        if number % 3 == 0:
            assert asyncio.run(gather(number)) == [(number, i) for i in range(50)]
        elif number % 3 == 1:
            futures = [echo.remote(i).future() for i in range(50)]
            assert [future.result(20) for future in futures] == list(range(50))
        else:
            assert skate.get([echo.remote(i) for i in range(50)], timeout=60) == list(range(50))

    for _ in range(3):
        in_threads(6, work)


def test_await_given_up_leaves_the_object_to_others(session: None, tmp_path: Path) -> None:
    async def give_up(ref: skate.ObjectRef) -> object:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(one(ref))), 0.05)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(one(ref), 0.05)
        (tmp_path / "given up").touch()
        return await ref

    async def one(ref: skate.ObjectRef) -> object:
        return await ref

    @skate.remote
    def until() -> str:
        while not (tmp_path / "given up").exists():
            time.sleep(0.01)
        return "there"

    assert asyncio.run(give_up(until.remote())) == "there"


def test_forked_child_of_the_driver_is_refused_and_may_start_its_own_session() -> None:
    text = """
    @ray.remote
    def echo(value):
        return value

    ray.init(num_cpus=2)
    stop = threading.Event()
    threads = [threading.Thread(target=lambda: [ray.get(echo.remote(1)) for _ in iter(stop.is_set, True)]) for _ in range(2)]  # noqa: E501
    for thread in threads:
        thread.start()
    ref = ray.put(5)
    for round_number in range(10):
        pid = os.fork()
        if pid == 0:
            try:
                ray.get(ref)
            except RuntimeError as error:
                assert "fork" in str(error), error
            else:
                os._exit(9)
            del ref
            gc.collect()
            if round_number % 3 == 0:
                ray.init(num_cpus=1)
                assert ray.get(echo.remote(round_number), timeout=60) == round_number
                ray.shutdown()
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0, round_number
        assert ray.get(echo.remote(2), timeout=60) == 2
    stop.set()
    for thread in threads:
        thread.join(90)
    print(ray.get(ref), len([row for row in ray.nodes()]))
    """
    assert output_of(text, timeout=150).split() == ["5", "1"]


def test_multiprocessing_pool_in_the_driver_does_not_harm_the_session() -> None:
    text = """
    import multiprocessing
    ray.init(num_cpus=2)
    echo = ray.remote(lambda value: value)
    ray.get(echo.remote(1))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(abs, [-1, -2]), ray.get(echo.remote(3), timeout=60))
    print(ray.get(echo.remote(4), timeout=60))
    """
    assert output_of(text).splitlines() == ["[1, 2] 3", "4"]
