"""Actor methods that stream: generators and async generators."""

# ruff: noqa: UP028 - `yield from` a plain iterator is a case of its own: Ray fails there.

import asyncio
import gc
import os
import time

import pytest

from skate.testing.contract import differs_on_ray, ends_a_process, needs_background
from skate.testing.contract.tools import eventually


def test_actor_method_generator(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.n = 3

        def items(self):
            for i in range(self.n):
                yield i

    a = A.remote()
    assert [ray.get(r) for r in a.items.remote()] == [0, 1, 2]
    assert [ray.get(r) for r in a.items.remote()] == [0, 1, 2]


def test_async_generator_method(ray):
    @ray.remote
    class A:
        async def items(self, n):
            for i in range(n):
                await asyncio.sleep(0)
                yield i

    assert [ray.get(r) for r in A.remote().items.remote(3)] == [0, 1, 2]


def test_async_generator_methods_interleave(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.event = asyncio.Event()

        async def waiter(self):
            yield "waiting"
            await self.event.wait()
            yield "woken"

        async def wake(self):
            self.event.set()

    a = A.remote()
    gen = a.waiter.remote()
    assert ray.get(next(gen)) == "waiting"
    ray.get(a.wake.remote())
    assert ray.get(next(gen)) == "woken"


def test_error_in_an_async_generator_method(ray):
    @ray.remote
    class A:
        async def items(self):
            yield 1
            raise ValueError("async midway")

    gen = A.remote().items.remote()
    assert ray.get(next(gen)) == 1
    with pytest.raises(ValueError, match="async midway"):
        ray.get(next(gen))


def test_method_generator_option_per_call(ray):
    @ray.remote
    class A:
        def pair(self):
            yield 1
            yield 2

    a = A.remote()
    refs = a.pair.options(num_returns=2).remote()
    assert ray.get(refs) == [1, 2]
    assert [ray.get(r) for r in a.pair.options(num_returns="streaming").remote()] == [1, 2]


def test_generator_method_in_threads(ray):
    @ray.remote(max_concurrency=3)
    class A:
        def items(self, n):
            for i in range(n):
                yield i

    a = A.remote()
    gens = [a.items.remote(n) for n in (3, 4, 5)]
    assert [ray.get(list(gen)) for gen in gens] == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]


@needs_background
@pytest.mark.slow
def test_backpressure_on_an_async_generator_method(ray, tally):
    @ray.remote
    class A:
        async def items(self):
            for i in range(6):
                tally.add()
                yield i

    gen = A.remote().items.options(_generator_backpressure_num_objects=2).remote()
    assert eventually(lambda: tally.count() == 2)
    time.sleep(0.5)
    assert tally.count() == 2
    assert ray.get(list(gen)) == list(range(6))


@ends_a_process
def test_stream_of_an_actor_that_dies(ray):
    @ray.remote
    class A:
        def items(self):
            yield 0
            time.sleep(0.5)
            os._exit(1)

    gen = A.remote().items.remote()
    assert ray.get(next(gen)) == 0
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(next(gen), timeout=60)


@ends_a_process
def test_stream_of_an_actor_that_restarts_yields_nothing_twice(ray, tally):
    @ray.remote(max_restarts=1, max_task_retries=1)
    class A:
        def items(self):
            for i in range(5):
                if i == 3 and tally.count() == 0:
                    tally.add()
                    time.sleep(0.3)
                    os._exit(1)
                yield i

    a = A.remote()
    assert ray.get(list(a.items.remote())) == [0, 1, 2, 3, 4]


@differs_on_ray("the method runs on to its end")
@needs_background
def test_dropping_the_generator_of_a_method_ends_it_at_its_next_item(ray, tally):
    @ray.remote
    class A:
        def items(self):
            for i in range(1000):
                tally.add()
                yield i
                time.sleep(0.01)

        def ping(self):
            return "alive"

    a = A.remote()
    gen = a.items.remote()
    assert ray.get(next(gen)) == 0
    del gen
    gc.collect()
    assert ray.get(a.ping.remote(), timeout=60) == "alive"
    assert tally.count() < 500
