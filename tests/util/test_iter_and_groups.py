"""Iterators over shards, and groups of actors; on the inline engine, for they use the public API alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import skate
from skate.util import iter as par_iter
from skate.util.actor_group import ActorGroup


@pytest.fixture(autouse=True, params=["inline", "local"])
def session(request: pytest.FixtureRequest) -> Iterator[None]:
    skate.init(engine=request.param, num_cpus=2)
    yield
    skate.shutdown()


def test_shards_are_gathered_in_turn() -> None:
    numbers = par_iter.from_range(6, num_shards=2)
    assert numbers.num_shards() == 2
    assert list(numbers.gather_sync()) == [0, 3, 1, 4, 2, 5]
    assert [list(shard) for shard in numbers.shards()] == [[0, 1, 2], [3, 4, 5]]
    assert list(numbers.batch_across_shards()) == [[0, 3], [1, 4], [2, 5]]


def test_shards_of_different_length() -> None:
    items = par_iter.from_items([1, 2, 3], num_shards=2)
    assert list(items.gather_sync()) == [1, 2, 3]
    assert sorted(items.gather_async()) == [1, 2, 3]
    assert sorted(items.gather_async(num_async=3)) == [1, 2, 3]


def test_steps_run_in_order() -> None:
    made = par_iter.from_range(8, 2).for_each(lambda x: x + 1).filter(lambda x: x % 2 == 0).batch(2)
    assert list(made.gather_sync()) == [[2, 4], [6, 8]]
    assert list(made.flatten().gather_sync()) == [2, 6, 4, 8]
    assert list(par_iter.from_range(2, 1).combine(lambda x: [x, x]).gather_sync()) == [0, 0, 1, 1]
    assert list(par_iter.from_range(3, 1).transform(lambda items: (-x for x in items)).gather_sync()) == [0, -1, -2]


def test_endless_shards() -> None:
    assert par_iter.from_items([1, 2], num_shards=1, repeat=True).take(5) == [1, 2, 1, 2, 1]
    assert par_iter.from_iterators([lambda: iter([7])], repeat=True).take(2) == [7, 7]


def test_shards_are_chosen_and_joined() -> None:
    one, two = par_iter.from_range(4, 2), par_iter.from_items(["a"], 1)
    assert list(one.select_shards([1]).gather_sync()) == [2, 3]
    assert list(one.union(two).gather_sync()) == [0, 2, "a", 1, 3]
    assert sorted(one.repartition(3).gather_sync()) == [0, 1, 2, 3]


def test_a_shuffle_keeps_the_items() -> None:
    numbers = par_iter.from_range(50, 1).local_shuffle(10, seed=1)
    first = list(numbers.gather_sync())
    assert sorted(first) == list(range(50))
    assert first != list(range(50))
    assert list(numbers.gather_sync()) == first


def test_local_iterators() -> None:
    local = par_iter.from_range(6, 1).gather_sync()
    assert local.for_each(lambda x: 2 * x).filter(bool).batch(2).take(1) == [[2, 4]]
    one, two = par_iter.from_range(3, 1).gather_sync().duplicate(2)
    assert (list(one), list(two)) == ([0, 1, 2], [0, 1, 2])
    joined = par_iter.from_range(2, 1).gather_sync().union(par_iter.from_items("abc", 1).gather_sync())
    assert list(joined) == [0, "a", 1, "b", "c"]
    assert sorted(par_iter.from_range(9, 1).gather_sync().shuffle(3)) == list(range(9))
    assert list(par_iter.from_items([[1], [2]], 1).gather_sync().flatten().combine(lambda x: [x, x])) == [1, 1, 2, 2]


def test_an_error_in_a_step_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(par_iter.from_range(3, 1).for_each(lambda x: 1 // x).gather_sync())


def test_a_parallel_iterator_is_not_iterated_itself() -> None:
    with pytest.raises(TypeError, match="gather"):
        iter(par_iter.from_range(3))
    assert "from_range[3, shards=2].for_each()" in repr(par_iter.from_range(3).for_each(str))


class Member:
    def __init__(self, start: int, step: int = 0) -> None:
        self.value = start + step

    def add(self, x: int) -> int:
        return self.value + x


def test_a_group_is_called_together() -> None:
    group: Any = ActorGroup(Member, 3, num_cpus_per_actor=0, init_args=(10,), init_kwargs={"step": 1})
    assert len(group) == 3
    assert skate.get(group.add.remote(5)) == [16, 16, 16]
    group.add_actors(1)
    group.remove_actors([0, 1])
    assert skate.get(group.add.remote(0)) == [11, 11]
    assert skate.get(group[0].add.remote(1)) == 12
    with pytest.raises(RuntimeError):
        group.start()
    group.shutdown()
    with pytest.raises(RuntimeError):
        group.add.remote(1)
    group.start()
    assert len(group) == 3
    group.shutdown(patience_s=0)


def test_a_group_checks_its_numbers() -> None:
    with pytest.raises(ValueError, match="num_actors"):
        ActorGroup(Member, 0)
    with pytest.raises(ValueError, match="negative"):
        ActorGroup(Member, 1, num_cpus_per_actor=-1)
