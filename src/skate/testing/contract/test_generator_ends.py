"""What is left when a generator has ended, in each of the ways it can."""

import os
import time

import pytest

from skate.testing.contract import ends_a_process, needs_background
from skate.testing.contract.tools import raised


def ends(ray, gen):
    """Kinds of the errors of the items, and of the reference to the end."""
    items = [raised(lambda ref=ref: ray.get(ref, timeout=60)) for ref in gen]
    return items, raised(lambda: ray.get(gen.completed(), timeout=60))


def test_own_error_is_the_last_item_and_the_end_is_in_order(ray):
    @ray.remote
    def g():
        yield 1
        raise KeyError("midway")

    items, end = ends(ray, g.remote())
    assert items[0] is None and isinstance(items[1], KeyError)
    assert end is None


def test_failed_argument_is_the_error_of_the_end_too(ray):
    @ray.remote
    def bad():
        raise KeyError("argument")

    @ray.remote
    def g(x):
        yield x

    items, end = ends(ray, g.remote(bad.remote()))
    assert len(items) == 1 and isinstance(items[0], KeyError)
    assert isinstance(end, KeyError)


@ends_a_process
def test_crash_is_the_error_of_the_end_too(ray):
    @ray.remote(max_retries=0)
    def g():
        yield 1
        time.sleep(0.3)
        os._exit(1)

    items, end = ends(ray, g.remote())
    assert isinstance(items[-1], ray.exceptions.WorkerCrashedError)
    assert isinstance(end, ray.exceptions.WorkerCrashedError)


@ends_a_process
def test_death_of_the_actor_is_the_error_of_the_end_too(ray):
    @ray.remote
    class A:
        def g(self):
            yield 1
            time.sleep(0.3)
            os._exit(1)

    a = A.remote()
    items, end = ends(ray, a.g.remote())
    assert isinstance(items[-1], ray.exceptions.RayActorError)
    assert isinstance(end, ray.exceptions.RayActorError)


@needs_background
def test_cancel_is_the_error_of_the_end_too(ray):
    @ray.remote
    def g():
        for i in range(200):
            yield i
            time.sleep(0.05)

    gen = g.remote()
    next(gen)
    ray.cancel(gen)
    items, end = ends(ray, gen)
    assert isinstance(items[-1], ray.exceptions.TaskCancelledError)
    assert isinstance(end, ray.exceptions.TaskCancelledError)


@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_generator_may_have_more_items_than_are_asked_for(ray, wanted):
    @ray.remote
    def g():
        yield from (x for x in "abc")

    refs = g.options(num_returns=wanted).remote()
    assert ray.get(refs) == ["a", "ab", "abc"][wanted - 1] if wanted == 1 else list("abc")[:wanted]


def test_method_of_an_async_actor_gives_its_first_item(ray):
    @ray.remote
    class A:
        async def wait(self):
            return 1

        def g(self):
            yield "first"
            yield "second"

    assert ray.get(A.remote().g.options(num_returns=1).remote()) == "first"


def test_async_generator_cannot_fill_a_fixed_number(ray):
    @ray.remote
    class A:
        async def g(self):
            yield 1
            yield 2

    with pytest.raises(TypeError):
        ray.get(A.remote().g.options(num_returns=2).remote())
