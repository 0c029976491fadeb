"""Streaming results: generators as tasks and as actor methods."""

# ruff: noqa: UP028 - `yield from` a plain iterator is a case of its own: Ray fails there.

import asyncio
import gc
import itertools
import os
import threading
import time

import numpy as np
import pytest

from skate.testing.contract import differs_on_ray, ends_a_process, needs_background, not_yet
from skate.testing.contract.tools import eventually, stands_still


def test_generator_function_gives_a_ref_generator(ray):
    @ray.remote
    def g():
        yield 1

    gen = g.remote()
    assert isinstance(gen, ray.ObjectRefGenerator)
    assert iter(gen) is gen
    assert ray.get(list(gen)) == [1]


def test_items_keep_their_order(ray):
    @ray.remote
    def g():
        for i in range(20):
            yield i

    assert [ray.get(r) for r in g.remote()] == list(range(20))


def test_first_item_is_there_before_the_last(ray, tally):
    @ray.remote
    def g():
        yield "first"
        yield eventually(lambda: tally.count() == 1)

    gen = g.remote()
    assert ray.get(next(gen)) == "first"
    tally.add()
    assert ray.get(next(gen)) is True


def test_empty_generator(ray):
    @ray.remote
    def g():
        return
        yield

    assert list(g.remote()) == []


def test_streaming_can_be_asked_for_explicitly(ray):
    @ray.remote(num_returns="streaming")
    def g():
        yield "a"
        yield "b"

    assert [ray.get(r) for r in g.remote()] == ["a", "b"]


@pytest.mark.filterwarnings("ignore:num_returns")
def test_dynamic_gives_one_ref_to_a_generator(ray):
    @ray.remote(num_returns="dynamic")
    def g(n):
        for i in range(n):
            yield i

    ref = g.remote(3)
    assert isinstance(ref, ray.ObjectRef)
    inner = ray.get(ref)
    assert [ray.get(r) for r in inner] == [0, 1, 2]


@not_yet("ray", raises=ValueError, reason="Ray hands the function its own generator, with its own references")
@pytest.mark.filterwarnings("ignore:num_returns")
def test_dynamic_generator_can_be_an_argument(ray):
    @ray.remote(num_returns="dynamic")
    def g():
        yield 1
        yield 2

    @ray.remote
    def total(refs):
        return sum(ray.get(r) for r in refs)

    assert ray.get(total.remote(g.remote())) == 3


def test_fixed_number_of_items(ray):
    @ray.remote(num_returns=2)
    def g():
        yield 1
        yield 2

    refs = g.remote()
    assert isinstance(refs, list) and ray.get(refs) == [1, 2]


def test_too_few_items_for_a_fixed_number_raise(ray):
    @ray.remote(num_returns=3)
    def g():
        yield 1

    with pytest.raises(ValueError):
        ray.get(g.remote()[2])


def test_next_after_the_end_raises_again(ray):
    @ray.remote
    def g():
        yield 1

    gen = g.remote()
    assert len(list(gen)) == 1
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(gen)


def test_error_midway_comes_after_the_good_items(ray):
    @ray.remote
    def g():
        yield 1
        yield 2
        raise ValueError("third")

    gen = g.remote()
    assert ray.get([next(gen), next(gen)]) == [1, 2]
    bad = next(gen)
    with pytest.raises(ValueError, match="third"):
        ray.get(bad)
    with pytest.raises(StopIteration):
        next(gen)


def test_error_before_the_first_item(ray):
    @ray.remote
    def g():
        raise KeyError("at once")
        yield

    gen = g.remote()
    with pytest.raises(KeyError):
        ray.get(next(gen))


def test_completed_ref_is_ready_after_a_failure_too(ray):
    @ray.remote
    def g():
        yield 1
        raise ValueError("late")

    gen = g.remote()
    assert ray.wait([gen.completed()], timeout=60)[1] == []


def test_value_of_the_completed_ref_is_none(ray):
    @ray.remote
    def g():
        yield 1

    assert ray.get(g.remote().completed(), timeout=60) is None


def test_is_finished_and_next_ready(ray):
    @ray.remote
    def g():
        yield 1

    gen = g.remote()
    assert not gen.is_finished()
    list(gen)
    assert gen.is_finished()


def test_wait_takes_generators_among_refs(ray):
    @ray.remote
    def g():
        yield 1

    gen = g.remote()
    ready, rest = ray.wait([gen], timeout=60)
    assert ready == [gen] and rest == []
    assert ray.get(next(gen)) == 1


@needs_background
def test_wait_on_a_slow_generator_times_out(ray):
    @ray.remote
    def g():
        time.sleep(2)
        yield 1

    gen = g.remote()
    assert ray.wait([gen], timeout=0.2) == ([], [gen])


def test_get_gives_a_generator_back(ray):
    @ray.remote
    def g():
        yield 1

    gen = g.remote()
    assert ray.get(gen) is gen


def test_large_items(ray):
    @ray.remote
    def g():
        for i in range(4):
            yield np.full(1 << 17, i)

    assert [int(ray.get(r)[0]) for r in g.remote()] == [0, 1, 2, 3]


def test_arrays_of_items_outlive_their_refs(ray):
    @ray.remote
    def g():
        for i in range(12):
            yield np.full(1 << 15, i)

    kept = []
    for ref in g.remote():
        kept.append(ray.get(ref))
        del ref
    assert [(int(a.min()), int(a.max())) for a in kept] == [(i, i) for i in range(12)]


def test_items_may_be_refs_and_none(ray):
    @ray.remote
    def g():
        yield None
        yield [ray.put("inner")]

    none, box = [ray.get(r) for r in g.remote()]
    assert none is None and ray.get(box[0]) == "inner"


def test_refs_stay_valid_after_the_generator_is_gone(ray):
    @ray.remote
    def g():
        for i in range(3):
            yield i

    gen = g.remote()
    refs = list(gen)
    del gen
    gc.collect()
    assert ray.get(refs) == [0, 1, 2]


def test_dropping_a_generator_early_leaves_the_session_well(ray):
    @ray.remote
    def g():
        for i in range(100):
            yield np.full(1 << 14, i)

    @ray.remote
    def ok():
        return "ok"

    gen = g.remote()
    next(gen)
    del gen
    gc.collect()
    assert ray.get(ok.remote(), timeout=60) == "ok"


def test_two_generators_side_by_side(ray):
    @ray.remote
    def g(n):
        for i in range(3):
            yield n + i

    pairs = zip(g.remote(0), g.remote(10), strict=True)
    assert [tuple(ray.get([a, b])) for a, b in pairs] == [(0, 10), (1, 11), (2, 12)]


def test_itertools_work_on_a_generator(ray):
    @ray.remote
    def g():
        for i in range(10):
            yield i

    assert ray.get(list(itertools.islice(g.remote(), 3))) == [0, 1, 2]


def test_generator_in_a_task_of_a_task(ray):
    @ray.remote
    def g(n):
        for i in range(n):
            yield i

    @ray.remote
    def total(n):
        return sum(ray.get(r) for r in g.remote(n))

    assert ray.get(total.remote(5)) == 10


def test_generator_that_consumes_another(ray):
    @ray.remote
    def g(n):
        for i in range(n):
            yield i

    @ray.remote
    def doubled(n):
        for ref in g.remote(n):
            yield 2 * ray.get(ref)

    assert [ray.get(r) for r in doubled.remote(3)] == [0, 2, 4]


def test_generator_does_not_travel(ray):
    @ray.remote
    def g():
        yield 1

    @ray.remote
    def use(x):
        return x

    gen = g.remote()
    for attempt in (lambda: ray.put([gen]), lambda: use.remote(gen)):
        with pytest.raises(TypeError):
            attempt()


def test_list_of_generators_cannot_be_got(ray):
    @ray.remote
    def g():
        yield 1

    gen = g.remote()
    with pytest.raises(TypeError):
        ray.get([gen])


def test_streaming_needs_a_generator_function(ray):
    def f():
        return [1, 2]

    with pytest.raises(ValueError):
        ray.remote(num_returns="streaming")(f).remote()


def test_one_result_of_a_generator_function_is_its_first_item(ray):
    @ray.remote(num_returns=1)
    def g():
        yield "first"

    assert ray.get(g.remote()) == "first"


@differs_on_ray("delegating to a plain iterator fails with AttributeError")
def test_yield_from_a_plain_iterator(ray):
    @ray.remote
    def g():
        yield from [1, 2, 3]

    assert [ray.get(r) for r in g.remote()] == [1, 2, 3]


def test_yield_from_a_generator(ray):
    @ray.remote
    def g():
        def part():
            yield 1
            yield 2

        yield from part()

    assert [ray.get(r) for r in g.remote()] == [1, 2]


def test_finally_of_a_generator_runs(ray, tally):
    @ray.remote
    def g():
        try:
            yield 1
        finally:
            tally.add()

    assert len(list(g.remote())) == 1
    assert eventually(lambda: tally.count() == 1)


@pytest.mark.slow
def test_backpressure_holds_the_producer_back(ray, tally):
    @ray.remote(_generator_backpressure_num_objects=2)
    def g():
        for i in range(10):
            tally.add()
            yield i

    gen = g.remote()
    first = next(gen)
    time.sleep(1)
    assert tally.count() < 10
    assert ray.get([first, *gen]) == list(range(10))
    assert tally.count() == 10


@needs_background
def test_without_backpressure_the_producer_runs_ahead(ray, tally):
    @ray.remote
    def g():
        for i in range(10):
            tally.add()
            yield i

    gen = g.remote()
    assert eventually(lambda: tally.count() == 10)
    assert ray.get(list(gen)) == list(range(10))


def test_anext_on_a_generator(ray):
    @ray.remote
    def g():
        yield 1

    async def main():
        gen = g.remote()
        first = await (await gen.__anext__())
        with pytest.raises(StopAsyncIteration):
            await gen.__anext__()
        return first

    assert asyncio.run(main()) == 1


@needs_background
@pytest.mark.slow
@pytest.mark.parametrize("ahead", [1, 3])
def test_backpressure_counts_the_items_that_nobody_has_taken(ray, tally, ahead):
    @ray.remote(_generator_backpressure_num_objects=ahead)
    def g():
        for i in range(8):
            tally.add()
            yield i

    gen = g.remote()
    assert eventually(lambda: tally.count() == ahead)
    time.sleep(0.5)
    assert tally.count() == ahead
    assert ray.get(next(gen)) == 0
    assert eventually(lambda: tally.count() == ahead + 1)
    assert ray.get(list(gen)) == list(range(1, 8))


@differs_on_ray("a maker that waits for its reader keeps its CPU, and the reader may wait for that")
def test_backpressure_lends_the_cpu(ray):
    @ray.remote(_generator_backpressure_num_objects=1)
    def g():
        yield from (i for i in range(3))

    gens = [g.remote() for _ in range(5)]
    assert ray.get([next(gen) for gen in reversed(gens)], timeout=60) == [0] * 5
    assert [ray.get(list(gen)) for gen in gens] == [[1, 2]] * 5


def test_a_retry_after_an_error_yields_nothing_twice(ray, tally):
    @ray.remote(max_retries=2, retry_exceptions=True)
    def g():
        for i in range(4):
            if i == 2 and tally.count() == 0:
                tally.add()
                raise ValueError("once")
            yield i

    assert ray.get(list(g.remote())) == [0, 1, 2, 3]


@ends_a_process
def test_a_retry_after_a_death_yields_nothing_twice(ray, tally):
    @ray.remote(max_retries=2)
    def g():
        for i in range(5):
            if i == 3 and tally.count() == 0:
                tally.add()
                time.sleep(0.3)
                os._exit(1)
            yield i

    assert ray.get(list(g.remote())) == [0, 1, 2, 3, 4]


@ends_a_process
def test_a_death_without_retries_comes_after_the_good_items(ray):
    @ray.remote(max_retries=0)
    def g():
        yield 0
        yield 1
        time.sleep(0.3)
        os._exit(1)

    gen = g.remote()
    assert ray.get([next(gen), next(gen)]) == [0, 1]
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(next(gen))
    with pytest.raises(StopIteration):
        next(gen)


@differs_on_ray("the task runs on to its end")
@needs_background
def test_dropping_a_generator_stops_its_task(ray, tally):
    @ray.remote
    def g():
        for i in range(1000):
            tally.add()
            yield i
            time.sleep(0.01)

    gen = g.remote()
    assert ray.get(next(gen)) == 0
    del gen
    gc.collect()
    assert eventually(lambda: stands_still(tally)) and tally.count() < 1000


@differs_on_ray("one of the threads fails with AssertionError")
def test_threads_may_share_a_generator(ray):
    @ray.remote
    def g():
        for i in range(100):
            yield i

    gen, got = g.remote(), []

    def read():
        for ref in gen:
            got.append(ray.get(ref))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(got) == list(range(100))


def test_async_for_over_a_generator(ray):
    @ray.remote
    def g():
        for i in range(5):
            yield i

    async def main():
        return [await ref async for ref in g.remote()]

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_async_for_in_an_async_actor(ray):
    @ray.remote
    def g():
        for i in range(5):
            yield i

    @ray.remote
    class A:
        async def total(self):
            return sum([await ref async for ref in g.remote()])

    assert ray.get(A.remote().total.remote()) == 10


def test_items_travel_to_tasks(ray):
    @ray.remote
    def g():
        for i in range(4):
            yield np.full(1 << 15, i)

    @ray.remote
    def first(block):
        return int(block[0])

    assert ray.get([first.remote(ref) for ref in g.remote()]) == [0, 1, 2, 3]
