"""Actor methods that stream: generators and async generators."""

# ruff: noqa: UP028 - `yield from` a plain iterator is a case of its own: Ray fails there.

import asyncio

import pytest


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
