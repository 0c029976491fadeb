"""Values and functions that cannot be rebuilt where they arrive."""

import asyncio

import pytest

from skate.testing.contract import not_yet


class Broken:
    """Pickles well, and fails to unpickle."""

    def __reduce__(self):
        return int, ("no number",)


def test_put_value(ray):
    with pytest.raises(ray.exceptions.RaySystemError, match="no number"):
        ray.get(ray.put(Broken()), timeout=60)


def test_result_of_a_task(ray):
    @ray.remote(num_returns=2)
    def f():
        return "good", Broken()

    good, broken = f.remote()
    assert ray.get(good) == "good"
    with pytest.raises(ray.exceptions.RaySystemError, match="no number"):
        ray.get([good, broken], timeout=60)


def test_argument_of_a_task(ray):
    @ray.remote
    def f(x):
        return x

    with pytest.raises(ray.exceptions.RaySystemError) as info:
        ray.get(f.remote(Broken()), timeout=60)
    assert isinstance(info.value, ray.exceptions.RayTaskError)


def test_dependency_of_a_task(ray):
    @ray.remote
    def f(x):
        return x

    with pytest.raises(ray.exceptions.RayTaskError):
        ray.get(f.remote(ray.put(Broken())), timeout=60)


def test_awaited_value_and_future(ray):
    ref = ray.put(Broken())

    async def wait():
        return await ref

    with pytest.raises(ray.exceptions.RaySystemError):
        asyncio.run(wait())
    with pytest.raises(ray.exceptions.RaySystemError):
        ref.future().result(timeout=60)


def test_argument_of_a_constructor_ends_the_actor(ray):
    @ray.remote
    class A:
        def __init__(self, x):
            self.x = x

        def f(self):
            return 1

    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(A.remote(Broken()).f.remote(), timeout=60)


@not_yet("inline", raises=ValueError, reason="the function is loaded in the driver, by the call itself")
def test_function_that_cannot_be_loaded(ray):
    part = Broken()

    @ray.remote
    def f():
        return part

    with pytest.raises(RuntimeError) as info:
        ray.get(f.remote(), timeout=60)
    assert isinstance(info.value, ray.exceptions.RayTaskError)
