"""`serve.multiplexed`: which models are here, when they are loaded, and how they go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest
from fake_time import run
from hypothesis import given
from hypothesis import strategies as st

from skate.serve import context, multiplex
from skate.serve.api import get_multiplexed_model_id
from skate.serve.multiplex import multiplexed


@pytest.fixture(autouse=True)
def nothing_left_over() -> Iterator[None]:
    before = list(multiplex._watchers)
    multiplex._all.clear()
    yield
    multiplex._all.clear()
    multiplex._watchers[:] = before


def replica(limit: int, seconds: float = 1.0) -> Any:
    """An object that loads models, and notes what it loads and unloads."""

    class Replica:
        def __init__(self) -> None:
            self.log: list[str] = []

        @multiplexed(max_num_models_per_replica=limit)
        async def get(self, model_id: str) -> Any:
            self.log.append(f"+{model_id}")
            await asyncio.sleep(seconds)
            if model_id.startswith("bad"):
                raise OSError(model_id)
            log = self.log

            class Model:
                name = model_id

                def __del__(self) -> None:
                    log.append(f"-{model_id}")

            return Model()

        @multiplexed(max_num_models_per_replica=limit)
        async def other(self, model_id: str) -> str:
            return f"other {model_id}"

    return Replica()


def test_the_least_recently_used_model_goes() -> None:
    async def main() -> list[str]:
        one = replica(2)
        for name in "abacab":
            await asyncio.create_task(one.get(name))
        return list(one.log)

    assert run(main()) == ["+a", "+b", "-b", "+c", "-c", "+b"]


@given(
    names=st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=20),
    limit=st.sampled_from([1, 2, 3, -1]),
    at_once=st.integers(1, 4),
)
def test_whatever_is_asked_for(names: list[str], limit: int, at_once: int) -> None:
    made: list[Any] = []

    class Model:
        def __init__(self, name: str) -> None:
            self.name = name
            self.ends = 0
            made.append(self)

        async def __del__(self) -> None:
            self.ends += 1

    @multiplexed(max_num_models_per_replica=limit)
    async def get(model_id: str) -> Model:
        await asyncio.sleep(1)
        return Model(model_id)

    async def main() -> None:
        gate = asyncio.Semaphore(at_once)

        async def use(name: str) -> None:
            async with gate:
                model = await get(name)
                assert model.name == name
                await asyncio.sleep(0.5)
                assert not model.ends

        await asyncio.gather(*(use(name) for name in names))
        await asyncio.sleep(1)
        here = [model.name for model in made if not model.ends]
        assert sorted(here) == multiplex.model_ids()
        assert len(here) == len(set(names)) if limit == -1 else len(here) <= limit
        await multiplex.unload_all()
        assert all(model.ends == 1 for model in made) and multiplex.model_ids() == []

    run(main())


def test_one_load_serves_all_that_wait_even_when_the_first_is_cancelled() -> None:
    async def main() -> list[str]:
        one = replica(2)
        first, second, third = (asyncio.create_task(one.get("a")) for _ in range(3))
        await asyncio.sleep(0.5)
        first.cancel()
        assert (await second) is (await third)
        assert asyncio.get_running_loop().time() == pytest.approx(1)
        return list(one.log)

    assert run(main()) == ["+a"]


def test_a_load_that_fails_fails_for_all_that_wait_and_is_tried_again() -> None:
    async def main() -> list[str]:
        one = replica(2)
        errors = await asyncio.gather(*(one.get("bad") for _ in range(3)), return_exceptions=True)
        assert all(isinstance(error, OSError) for error in errors)
        assert multiplex.model_ids() == []
        with pytest.raises(OSError, match="bad"):
            await one.get("bad")
        assert (await one.get("good")).name == "good"
        return list(one.log)

    assert run(main()) == ["+bad", "+bad", "+good"]


def test_a_model_in_use_is_unloaded_after_its_requests() -> None:
    async def main() -> list[str]:
        one = replica(1)

        async def request(name: str, seconds: float) -> None:
            model = await one.get(name)
            await asyncio.sleep(seconds)
            one.log.append(f"{model.name} done")

        await asyncio.gather(request("a", 10), request("b", 1))
        await asyncio.sleep(1)
        return list(one.log)

    assert run(main()) == ["+a", "+b", "b done", "a done", "-a"]


def test_an_async_end_is_awaited_once() -> None:
    log = []

    class Model:
        async def __del__(self) -> None:
            await asyncio.sleep(1)
            log.append("closed")

    @multiplexed(max_num_models_per_replica=1)
    async def get(model_id: str) -> Model:
        return Model()

    async def main() -> None:
        for name in "ab":
            await asyncio.create_task(get(name))
        assert log == ["closed"]
        await multiplex.unload_all()

    run(main())
    assert log == ["closed", "closed"]


def test_an_end_that_fails_makes_room_all_the_same() -> None:
    class Model:
        async def __del__(self) -> None:
            raise OSError("stuck")

    @multiplexed(max_num_models_per_replica=1)
    async def get(model_id: str) -> Any:
        return Model() if model_id == "a" else model_id

    async def main() -> Any:
        await asyncio.create_task(get("a"))
        return await get("b")

    assert run(main()) == "b"


def test_objects_and_functions_have_models_of_their_own() -> None:
    async def main() -> None:
        one, two = replica(1), replica(1)
        mine, yours = await asyncio.gather(one.get("a"), two.get("a"))
        assert mine is not yours
        assert await one.other("b") == "other b"
        assert await one.get("a") is mine

    run(main())


def test_those_who_watch_are_told() -> None:
    told: list[list[str]] = []

    async def main() -> None:
        multiplex.watch(told.append)
        one = replica(2)
        await asyncio.create_task(one.get("a"))
        await asyncio.create_task(one.get("b"))
        await asyncio.create_task(one.get("c"))
        await multiplex.unload_all()

    run(main())
    assert told[0] == ["a"] and ["a", "b"] in told and ["b", "c"] in told and told[-1] == []


@pytest.mark.parametrize(("given_id", "error"), [(3, TypeError), (None, TypeError), ("", ValueError)])
def test_ids_that_are_none(given_id: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="model ID"):
        run(replica(1).get(given_id))


@pytest.mark.parametrize("arguments", [(), ("a", "b"), ("a", "b", "c")])
def test_one_argument_is_wanted(arguments: tuple[str, ...]) -> None:
    with pytest.raises(TypeError, match="exactly one argument"):
        run(replica(1).get(*arguments))


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-2, ValueError), ("3", TypeError), (1.0, TypeError)])
def test_wrong_limits(limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_num_models_per_replica"):
        multiplexed(max_num_models_per_replica=limit)


def test_only_async_functions_of_one_argument() -> None:
    async def none() -> None: ...

    async def three(self: Any, one: str, two: str) -> None: ...

    for wrong in (3, lambda model_id: model_id, none, three):
        with pytest.raises(TypeError):
            multiplexed(wrong)  # type: ignore[arg-type]


def test_the_requests_model() -> None:
    assert get_multiplexed_model_id() == ""
    token = context.request_context.set(context.RequestContext(multiplexed_model_id="a"))
    assert get_multiplexed_model_id() == "a"
    context.request_context.reset(token)


def test_a_function_that_was_used_can_be_pickled() -> None:
    @multiplexed
    async def get(model_id: str) -> list[str]:
        return [model_id]

    run(get("a"))
    assert run(cloudpickle.loads(cloudpickle.dumps(get))("b")) == ["b"]
