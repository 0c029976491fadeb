"""`serve.batch`: when batches begin, who is in them, and what their members get."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import cloudpickle
import pytest
from fake_time import run
from hypothesis import given, settings
from hypothesis import strategies as st

from skate.serve import context
from skate.serve.batching import batch
from skate.serve.exceptions import RayServeException


def now() -> float:
    return asyncio.get_running_loop().time()


class Log:
    """A batched function that takes `seconds`, and what it was called with."""

    def __init__(self, seconds: float = 0.0, **options: Any) -> None:
        self.batches: list[list[Any]] = []
        self.times: list[float] = []
        self.running = self.most = 0

        @batch(**options)
        async def work(items: list[Any]) -> list[Any]:
            self.batches.append(list(items))
            self.times.append(now())
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await asyncio.sleep(seconds)
            finally:
                self.running -= 1
            return [("done", item) for item in items]

        self.work = work


def test_a_full_batch_begins_at_once_and_the_rest_after_its_wait() -> None:
    async def main() -> Log:
        log = Log(max_batch_size=3, batch_wait_timeout_s=5)
        answers = await asyncio.gather(*(log.work(number) for number in range(5)))
        assert answers == [("done", number) for number in range(5)]
        return log

    log = run(main())
    assert log.batches == [[0, 1, 2], [3, 4]]
    assert log.times == [0.0, pytest.approx(5, abs=0.002)]


def test_a_lone_call_waits_for_its_time_and_nothing_else() -> None:
    log = Log(max_batch_size=8, batch_wait_timeout_s=0.01)

    async def seconds(what: Any) -> float:
        started = time.perf_counter()
        await what
        return time.perf_counter() - started

    async def main() -> tuple[float, float]:
        calls, sleeps = [], []
        for number in range(30):
            calls.append(await seconds(log.work(number)))
            sleeps.append(await seconds(asyncio.sleep(0.01)))  # as long, on a machine as busy
        return min(calls), min(sleeps)

    call, sleep = asyncio.run(main())
    assert 0.008 < call < sleep + 0.001 or call < 1.5 * sleep, (call, sleep)


def test_without_a_wait_what_comes_in_one_turn_is_one_batch() -> None:
    async def main() -> Log:
        log = Log(max_batch_size=10, batch_wait_timeout_s=0)
        await asyncio.gather(*(log.work(number) for number in range(4)))
        return log

    log = run(main())
    assert log.batches == [[0, 1, 2, 3]] and log.times == [0.0]


def test_under_load_batches_fill_while_others_run() -> None:
    async def main() -> Log:
        log = Log(seconds=1, max_batch_size=8, batch_wait_timeout_s=0.01)

        async def caller(number: int) -> None:
            await asyncio.sleep(number * 0.1)
            await log.work(number)

        await asyncio.gather(*(caller(number) for number in range(80)))
        return log

    log = run(main())
    sizes = [len(members) for members in log.batches]
    assert sizes[0] == 1 and sizes[1:-1] == [8] * (len(sizes) - 2) and log.most == 1


@given(
    arrivals=st.lists(st.integers(0, 40), min_size=1, max_size=25),
    size=st.integers(1, 5),
    wait=st.integers(0, 6),
    concurrent=st.integers(1, 3),
    seconds=st.integers(0, 5),
    leaves=st.dictionaries(st.integers(0, 24), st.integers(1, 20), max_size=5),
)
@settings(max_examples=150, deadline=None)
def test_whatever_comes_and_goes(
    arrivals: list[int], size: int, wait: int, concurrent: int, seconds: int, leaves: dict[int, int]
) -> None:
    async def main() -> None:
        log = Log(seconds, max_batch_size=size, batch_wait_timeout_s=wait, max_concurrent_batches=concurrent)
        outcome: dict[int, Any] = {}

        async def caller(number: int, at: int) -> None:
            await asyncio.sleep(at)
            # a quarter of a second off, so that nobody leaves at the moment that something else happens
            limit = leaves[number] + 0.25 if number in leaves else None
            try:
                outcome[number] = await asyncio.wait_for(log.work(number), limit)
            except TimeoutError:
                outcome[number] = None

        await asyncio.gather(*(caller(number, at) for number, at in enumerate(arrivals)))
        check(log, outcome)

    def check(log: Log, outcome: dict[int, Any]) -> None:
        assert log.most <= concurrent
        begun = [number for members in log.batches for number in members]
        assert len(begun) == len(set(begun))
        assert all(1 <= len(members) <= size for members in log.batches)
        for number in range(len(arrivals)):
            assert outcome[number] in (("done", number), None)
            assert outcome[number] is not None or number in leaves
            assert number in begun or outcome[number] is None
        # first come, first served
        came = [arrivals[number] for number in begun]
        assert all(one <= two for one, two in pairwise(came))
        for members, at in zip(log.batches, log.times, strict=True):
            due = arrivals[members[0]] + wait
            running = [start for start in log.times if start < at < start + seconds]
            assert len(running) < concurrent
            if len(members) < size:  # not full: its first member has waited long enough
                assert at >= due - 0.01
            freed = [start + seconds for start in log.times if start < at]
            # late only because as many as may were running
            assert at <= due + 0.01 or any(abs(end - at) < 0.01 for end in freed)

    run(main())


def test_an_error_goes_to_all_members_of_its_batch_and_to_no_others() -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=1)
    async def work(items: list[int]) -> list[int]:
        if 1 in items:
            raise ValueError("no ones")
        return items

    async def main() -> list[Any]:
        return await asyncio.gather(*(work(number) for number in (0, 1, 2, 3)), return_exceptions=True)

    one, two, *rest = run(main())
    assert isinstance(one, ValueError) and isinstance(two, ValueError) and rest == [2, 3]


@pytest.mark.parametrize("result", [[1], [1, 2, 3], []])
def test_a_result_of_another_length_is_an_error(result: list[int]) -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=1)
    async def work(items: list[int]) -> list[int]:
        return result

    async def main() -> list[Any]:
        return await asyncio.gather(work(1), work(2), return_exceptions=True)

    for error in run(main()):
        assert isinstance(error, RayServeException)
        assert f"length 2 but the returned list has length {len(result)}" in str(error)


def test_a_result_that_is_no_list_is_an_error() -> None:
    @batch
    async def work(items: list[int]) -> Any:
        return None

    with pytest.raises(TypeError):
        run(work(1))


def test_members_that_are_cancelled_before_their_batch_begins_are_not_in_it() -> None:
    async def main() -> Log:
        log = Log(max_batch_size=3, batch_wait_timeout_s=2)
        one, two = asyncio.ensure_future(log.work(1)), asyncio.ensure_future(log.work(2))
        await asyncio.sleep(1)
        one.cancel()
        assert await two == ("done", 2)
        assert one.cancelled()
        alone = asyncio.ensure_future(log.work(3))
        await asyncio.sleep(1)
        alone.cancel()
        await asyncio.sleep(10)
        return log

    assert run(main()).batches == [[2]]


def test_a_member_that_leaves_a_running_batch_harms_nobody() -> None:
    async def main() -> Any:
        log = Log(seconds=2, max_batch_size=2, batch_wait_timeout_s=1)
        one, two = asyncio.ensure_future(log.work(1)), asyncio.ensure_future(log.work(2))
        await asyncio.sleep(1)
        one.cancel()
        return await two

    assert run(main()) == ("done", 2)


def test_a_batch_that_cancels_itself_cancels_its_members() -> None:
    @batch(max_batch_size=2)
    async def work(items: list[int]) -> list[int]:
        raise asyncio.CancelledError

    async def main() -> list[Any]:
        return await asyncio.gather(work(1), work(2), return_exceptions=True)

    assert all(isinstance(error, asyncio.CancelledError) for error in run(main()))


class Model:
    def __init__(self, factor: int = 10) -> None:
        self.factor = factor
        self.calls: list[Any] = []

    @batch(max_batch_size=2, batch_wait_timeout_s=1)
    async def scale(self, items: list[int], plus: Any = 7) -> list[Any]:
        self.calls.append((items, plus))
        return [item * self.factor for item in items]

    @staticmethod
    @batch(max_batch_size=2, batch_wait_timeout_s=1)
    async def static(items: list[int]) -> list[int]:
        return [len(items)] * len(items)


class Child(Model):
    async def scale(self, item: int) -> Any:  # type: ignore[override]
        return await super().scale(item) + 1


def test_methods_have_a_batch_for_each_object() -> None:
    async def main() -> list[Any]:
        one, two = Model(), Child(100)
        return await asyncio.gather(one.scale(1), two.scale(2), one.scale(3), two.scale(4))

    assert run(main()) == [10, 201, 30, 401]


def test_static_methods() -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(Model.static(1), Model().static(2), Model.static(3))

    assert run(main()) == [2, 2, 1]


def test_arguments_are_lists_by_name_and_those_left_out_are_defaults() -> None:
    async def main() -> list[Any]:
        model = Model()
        await asyncio.gather(model.scale(1), model.scale(items=2), model.scale(3, plus=4), model.scale(5, 6))
        return model.calls

    assert run(main()) == [([1, 2], 7), ([3, 5], [4, 6])]


@pytest.mark.parametrize(("arguments", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"unknown": 1})])
def test_arguments_that_do_not_fit_are_the_callers_error(arguments: Any, named: Any) -> None:
    async def main() -> Any:
        return await Model().scale(*arguments, **named)

    with pytest.raises(TypeError):
        run(main())


def test_settings_can_be_changed_while_calls_wait() -> None:
    async def main() -> Log:
        log = Log(max_batch_size=10, batch_wait_timeout_s=100)
        waiting = [asyncio.ensure_future(log.work(number)) for number in range(4)]
        await asyncio.sleep(1)
        log.work.set_max_batch_size(3)
        await asyncio.sleep(1)
        assert log.batches == [[0, 1, 2]]
        log.work.set_batch_wait_timeout_s(5)
        await asyncio.gather(*waiting)
        assert now() == pytest.approx(5, abs=0.002)
        return log

    assert run(main()).batches == [[0, 1, 2], [3]]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_batch_size": 0}, ValueError),
        ({"max_batch_size": "4"}, TypeError),
        ({"max_batch_size": 2.5}, TypeError),
        ({"batch_wait_timeout_s": -1}, ValueError),
        ({"batch_wait_timeout_s": "1"}, TypeError),
        ({"batch_wait_timeout_s": float("nan")}, ValueError),
        ({"max_concurrent_batches": 0}, TypeError),
        ({"batch_size_fn": 3}, TypeError),
    ],
)
def test_wrong_settings_are_refused_where_they_are_written(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        batch(**options)


def test_only_async_functions_can_be_batched() -> None:
    def plain(items: list[int]) -> list[int]:
        return items

    with pytest.raises(TypeError, match="async def"):
        batch(plain)
    with pytest.raises(TypeError):
        batch(3)  # type: ignore[call-overload]


def test_wrong_settings_at_run_time_are_refused_and_change_nothing() -> None:
    log = Log(max_batch_size=4)
    with pytest.raises(ValueError, match="max_batch_size"):
        log.work.set_max_batch_size(0)
    with pytest.raises(TypeError, match="batch_wait_timeout_s"):
        log.work.set_batch_wait_timeout_s(None)
    assert log.work._get_max_batch_size() == 4


# ------------------------------------------------------------- sizes


def test_the_size_of_a_batch_can_be_another_than_the_number_of_its_members() -> None:
    async def main() -> Log:
        log = Log(max_batch_size=10, batch_wait_timeout_s=1, batch_size_fn=sum)
        await asyncio.gather(*(log.work(number) for number in (4, 4, 4, 10, 1, 9, 2)))
        return log

    assert run(main()).batches == [[4, 4], [4], [10], [1, 9], [2]]


def test_a_call_that_never_fits_and_one_that_cannot_be_measured_fail_alone() -> None:
    def size(items: list[Any]) -> int:
        return sum(len(item) for item in items)

    async def main() -> list[Any]:
        log = Log(max_batch_size=5, batch_wait_timeout_s=1, batch_size_fn=size)
        answers = await asyncio.gather(
            *(log.work(item) for item in ("ab", "toolong", None, "abc")), return_exceptions=True
        )
        assert log.batches == [["ab", "abc"]]
        return answers

    fits, too_long, none, fits_too = run(main())
    assert isinstance(too_long, RuntimeError) and "max_batch_size" in str(too_long)
    assert isinstance(none, TypeError)
    assert (fits, fits_too) == (("done", "ab"), ("done", "abc"))


# ------------------------------------------------------------- streams


class Counts:
    def __init__(self) -> None:
        self.yielded = 0
        self.closed = False

    @batch(max_batch_size=3, batch_wait_timeout_s=1)
    async def up_to(self, ends: list[int]) -> AsyncIterator[list[Any]]:
        try:
            number = 0
            while True:
                self.yielded += 1
                yield [number if number < end else StopIteration for end in ends]
                number += 1
                await asyncio.sleep(1)
        finally:
            self.closed = True

    @batch(max_batch_size=2, batch_wait_timeout_s=1)
    async def failing(self, items: list[int]) -> AsyncIterator[list[int]]:
        yield items
        raise KeyError("second")

    @batch(max_batch_size=2, batch_wait_timeout_s=1)
    async def shrinking(self, items: list[int]) -> AsyncIterator[list[int]]:
        yield items
        yield items[:-1]


async def collected(stream: Any) -> Any:
    found = []
    try:
        async for item in stream:
            found.append(item)
    except Exception as error:  # noqa: BLE001  compared by the tests
        found.append(type(error))
    return found


def test_each_member_gets_its_stream_and_its_own_end() -> None:
    async def main() -> Any:
        counts = Counts()
        found = await asyncio.gather(*(collected(counts.up_to(end)) for end in (2, 0, 3)))
        assert counts.closed and counts.yielded == 4
        return found

    assert run(main()) == [[0, 1], [], [0, 1, 2]]


def test_items_arrive_when_they_are_made() -> None:
    async def main() -> list[float]:
        return [now() async for _ in Counts().up_to(3)]

    assert run(main()) == pytest.approx([1, 2, 3], abs=0.002)


@pytest.mark.parametrize(("method", "error"), [("failing", KeyError), ("shrinking", RayServeException)])
def test_what_a_stream_fails_with_follows_its_items(method: str, error: type[Exception]) -> None:
    async def main() -> Any:
        function = getattr(Counts(), method)
        return await asyncio.gather(collected(function(1)), collected(function(2)))

    assert run(main()) == [[1, error], [2, error]]


def test_a_stream_that_nobody_reads_any_more_is_closed() -> None:
    async def main() -> Counts:
        counts = Counts()

        async def some(wanted: int) -> None:
            stream = counts.up_to(100)
            async for number in stream:
                if number == wanted:
                    break
            await stream.aclose()

        await asyncio.gather(some(1), some(3))
        await asyncio.sleep(3)
        return counts

    counts = run(main())
    assert counts.closed and counts.yielded < 7


# ------------------------------------------------------------- surroundings


def test_calls_for_different_models_are_in_different_batches() -> None:
    seen = []

    @batch(max_batch_size=4, batch_wait_timeout_s=1)
    async def work(items: list[int]) -> list[int]:
        seen.append((context.request_context.get().multiplexed_model_id, items))
        return items

    async def for_model(model: str, item: int) -> None:
        context.request_context.set(context.RequestContext(multiplexed_model_id=model))
        await work(item)

    async def main() -> None:
        await asyncio.gather(*(for_model("ab"[number % 2], number) for number in range(6)))

    run(main())
    assert seen == [("a", [0, 2, 4]), ("b", [1, 3, 5])]


def test_one_function_in_several_loops() -> None:
    log = Log(max_batch_size=2, batch_wait_timeout_s=0.05)
    answers: dict[int, Any] = {}

    def in_thread(base: int) -> None:
        async def main() -> None:
            answers[base] = await asyncio.gather(*(log.work(base + number) for number in range(4)))

        asyncio.run(main())

    threads = [threading.Thread(target=in_thread, args=(base,)) for base in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [0, 10, 20]
    assert all(item // 10 == members[0] // 10 for members in log.batches for item in members)


def test_a_loop_that_ends_with_calls_waiting_leaves_nothing_behind() -> None:
    log = Log(seconds=100, max_batch_size=2, batch_wait_timeout_s=50)

    async def main() -> None:
        for number in range(5):
            task = asyncio.ensure_future(log.work(number))
            await asyncio.sleep(0)
        del task

    run(main())
    assert log.batches == [[0, 1]]
    assert run(log.work(7)) == ("done", 7)
    gc.collect()
    assert log.running == 0


def test_a_function_that_was_used_can_be_pickled() -> None:
    @batch(max_batch_size=3, batch_wait_timeout_s=1)
    async def work(items: list[int]) -> list[int]:
        return [item + 1 for item in items]

    run(work(1))
    work.set_max_batch_size(5)
    copy = cloudpickle.loads(cloudpickle.dumps(work))
    assert run(copy(4)) == 5 and copy._get_max_batch_size() == 5
