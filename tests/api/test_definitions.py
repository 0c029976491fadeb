"""A remote function with a closure has an identity: two of them that were equal do not share what it holds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import skate


@pytest.fixture(autouse=True, scope="module")
def session() -> Iterator[None]:
    skate.init(engine="local", num_cpus=1)
    yield
    skate.shutdown()


def counter() -> Callable[[], int]:
    seen: list[int] = []

    def count() -> int:
        seen.append(1)
        return len(seen)

    return count


def test_equal_closures_keep_their_own_state() -> None:
    count = counter()
    first, second = skate.remote(count), skate.remote(count)
    assert [skate.get(first.remote()) for _ in range(2)] == [1, 2]
    assert [skate.get(second.remote()) for _ in range(2)] == [1, 2]


def test_options_keep_the_function_that_they_are_of() -> None:
    function = skate.remote(counter())
    other = function.options(name="other")
    assert [skate.get(each.remote()) for each in (function, other, function)] == [1, 2, 3]


def test_generators_in_closures_begin_anew_in_each_function() -> None:
    def drawn() -> float:
        source = random.Random(5)
        draw: Any = skate.remote(lambda: source.random())
        return float(skate.get(draw.remote()))

    assert drawn() == drawn() == random.Random(5).random()


def test_function_that_calls_itself_is_sent_once_for_each_place() -> None:
    def make() -> Any:
        @skate.remote(num_cpus=0.1)
        def below(number: int) -> int:
            return 0 if number == 0 else 1 + int(skate.get(below.remote(number - 1)))

        return below

    assert skate.get(make().remote(6)) == 6
