"""Iterators over shards that live in actors: `from_items`, `from_range`, `from_iterators`, `from_actors`.

A `ParallelIterator` is a plan: its steps run in the actors, each on its own shard, when somebody gathers the items.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from skate.api import get, remote, wait
from skate.core.refs import ObjectRef

__all__ = [
    "LocalIterator",
    "ParallelIterator",
    "ParallelIteratorWorker",
    "from_actors",
    "from_items",
    "from_iterators",
    "from_range",
]

Step = Callable[[Iterable[Any]], Iterable[Any]]


def from_items(items: Sequence[Any], num_shards: int = 2, repeat: bool = False) -> ParallelIterator:
    """The items dealt out over shards in turn; again and again if `repeat`."""
    shards = [items[index::num_shards] for index in range(num_shards)]
    kind = type(items[0]).__name__ if len(items) else "None"
    name = f"from_items[{kind}, {len(items)}, shards={num_shards}{', repeat=True' if repeat else ''}]"
    return from_iterators(shards, repeat, name)


def from_range(n: int, num_shards: int = 2, repeat: bool = False) -> ParallelIterator:
    """The numbers below `n`, in as many runs as there are shards."""
    size = n // num_shards
    bounds = [(index * size, n if index == num_shards - 1 else (index + 1) * size) for index in range(num_shards)]
    name = f"from_range[{n}, shards={num_shards}{', repeat=True' if repeat else ''}]"
    return from_iterators([range(start, end) for start, end in bounds], repeat, name)


def from_iterators(generators: Sequence[Any], repeat: bool = False, name: str | None = None) -> ParallelIterator:
    """A shard for each of `generators`: iterables, or functions that make them (as lambdas can, they travel)."""
    made: Any = remote(ParallelIteratorWorker)
    actors = [made.options(num_cpus=0).remote(generator, repeat) for generator in generators]
    text = f"from_iterators[shards={len(actors)}{', repeat=True' if repeat else ''}]"
    return from_actors(actors, name or text)


def from_actors(actors: Sequence[Any], name: str | None = None) -> ParallelIterator:
    """A shard for each actor; their class derives from `ParallelIteratorWorker`."""
    return ParallelIterator([(actor, ()) for actor in actors], name or f"from_actors[shards={len(actors)}]")


class ParallelIteratorWorker:
    """The actor of a shard: holds its items, and runs the steps on them.

    Args:
        item_generator: an iterable, or a function that makes one.
        repeat: begin again at the end.
    """

    def __init__(self, item_generator: Any, repeat: bool) -> None:
        def items() -> Iterator[Any]:
            while True:
                yield from item_generator() if callable(item_generator) else item_generator
                if not repeat:
                    return

        self._items = items
        self._running: dict[int, Iterator[Any]] = {}

    def par_iter_start(self, number: int, steps: tuple[Step, ...]) -> None:
        """Begin a run of the steps over the shard."""
        stream: Iterable[Any] = self._items()
        for step in steps:
            stream = step(stream)
        self._running[number] = iter(stream)

    def par_iter_take(self, number: int, count: int) -> list[Any]:
        """The next items of a run, at most so many; fewer at its end."""
        return list(itertools.islice(self._running[number], count))


_runs = itertools.count(1)


class ParallelIterator:
    """Items in shards, and steps to be done with them; each method gives another one."""

    def __init__(self, shards: Sequence[tuple[Any, tuple[Step, ...]]], name: str) -> None:
        self._shards = list(shards)
        self.name = name

    def __repr__(self) -> str:
        return f"ParallelIterator[{self.name}]"

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("Say how the shards are to be gathered: gather_sync() or gather_async().")

    def transform(self, fn: Step) -> ParallelIterator:
        """`fn` gets an iterator over a shard's items, and gives another."""
        return self._with(fn, ".transform()")

    def for_each(self, fn: Callable[[Any], Any], max_concurrency: int = 1, resources: Any = None) -> ParallelIterator:
        """``fn(item)`` for each item, in the shard's actor.

        `max_concurrency` and `resources` have no effect: a shard's items are worked on one after another.
        """
        return self._with(lambda items: map(fn, items), ".for_each()")

    def filter(self, fn: Callable[[Any], bool]) -> ParallelIterator:
        """The items for which ``fn(item)`` is true."""
        return self._with(lambda items: filter(fn, items), ".filter()")

    def batch(self, n: int) -> ParallelIterator:
        """Lists of `n` items, fewer at the end of a shard."""
        return self._with(lambda items: _batches(items, n), f".batch({n})")

    def flatten(self) -> ParallelIterator:
        """The items of the items."""
        return self._with(itertools.chain.from_iterable, ".flatten()")

    def combine(self, fn: Callable[[Any], list[Any]]) -> ParallelIterator:
        """The items of ``fn(item)``."""
        return self._with(lambda items: itertools.chain.from_iterable(map(fn, items)), ".combine()")

    def local_shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> ParallelIterator:
        """The items of each shard in another order, by a buffer of so many."""
        step = _shuffler(shuffle_buffer_size, seed)
        return self._with(step, f".local_shuffle(shuffle_buffer_size={shuffle_buffer_size}, seed={seed})")

    def union(self, other: ParallelIterator) -> ParallelIterator:
        """The shards of both."""
        return ParallelIterator([*self._shards, *other._shards], f"ParallelUnion[{self}, {other}]")

    def select_shards(self, shards_to_keep: list[int]) -> ParallelIterator:
        """Those shards alone."""
        kept = [self._shards[index] for index in shards_to_keep]
        return ParallelIterator(kept, f"{self.name}.select_shards({len(kept)} total)")

    def repartition(self, num_partitions: int, batch_ms: int = 0) -> ParallelIterator:
        """The items dealt out over another number of shards; they are gathered once for that, now."""
        return from_items(list(self.gather_sync()), num_partitions)

    def _with(self, step: Step, name: str) -> ParallelIterator:
        return ParallelIterator([(actor, (*steps, step)) for actor, steps in self._shards], self.name + name)

    def num_shards(self) -> int:
        """How many shards there are."""
        return len(self._shards)

    def shards(self) -> list[LocalIterator]:
        """An iterator over each shard."""
        return [self.get_shard(index) for index in range(len(self._shards))]

    def get_shard(self, shard_index: int, batch_ms: int = 0, num_async: int = 1) -> LocalIterator:
        """An iterator over one shard."""
        shard = self._shards[shard_index]
        return LocalIterator(lambda: _items_of(_Run(*shard), num_async), f"{self.name}.shard[{shard_index}]")

    def gather_sync(self) -> LocalIterator:
        """The items of all shards, one of each in turn."""
        return LocalIterator(lambda: itertools.chain.from_iterable(self._rounds()), f"{self}.gather_sync()")

    def batch_across_shards(self) -> LocalIterator:
        """Lists of one item of each shard; of those that have any left."""
        return LocalIterator(self._rounds, f"{self}.batch_across_shards()")

    def gather_async(self, batch_ms: int = 0, num_async: int = 1) -> LocalIterator:
        """The items of all shards as they come, with `num_async` calls of each under way."""
        return LocalIterator(lambda: self._as_they_come(num_async), f"{self}.gather_async()")

    def take(self, n: int) -> list[Any]:
        """The first `n` items."""
        return self.gather_sync().take(n)

    def show(self, n: int = 20) -> None:
        """Print the first `n` items."""
        self.gather_sync().show(n)

    def _rounds(self) -> Iterator[list[Any]]:
        runs = [_Run(*shard) for shard in self._shards]
        while runs:
            taken = get([run.next() for run in runs])
            runs = [run for run, items in zip(runs, taken, strict=True) if items]
            row = [item for items in taken for item in items]
            if row:
                yield row

    def _as_they_come(self, ahead: int) -> Iterator[Any]:
        if ahead < 1:
            raise ValueError(f"num_async is {ahead}, and must be 1 at least")
        under_way: dict[ObjectRef[Any], _Run] = {}
        for shard in self._shards:
            run = _Run(*shard)
            under_way.update((run.next(), run) for _ in range(ahead))
        while under_way:
            (ready,), _ = wait(list(under_way))
            run = under_way.pop(ready)
            items = get(ready)
            if items:
                under_way[run.next()] = run
                yield from items


class _Run:
    """The steps at work on one shard."""

    def __init__(self, actor: Any, steps: tuple[Step, ...]) -> None:
        self._actor = actor
        self._number = next(_runs)
        self._started = actor.par_iter_start.remote(self._number, steps)

    def next(self) -> ObjectRef[list[Any]]:
        """A list of the next item; an empty one at the end."""
        ref: ObjectRef[list[Any]] = self._actor.par_iter_take.remote(self._number, 1)
        return ref


def _items_of(run: _Run, ahead: int) -> Iterator[Any]:
    under_way = deque(run.next() for _ in range(max(1, ahead)))
    while items := get(under_way.popleft()):
        under_way.append(run.next())
        yield from items


class LocalIterator:
    """An iterator in this process, with the same steps; it can be iterated over once."""

    def __init__(self, make: Callable[[], Iterator[Any]], name: str = "LocalIterator") -> None:
        self._make = make
        self._iterator: Iterator[Any] | None = None
        self.name = name

    def __repr__(self) -> str:
        return f"LocalIterator[{self.name}]"

    def __iter__(self) -> LocalIterator:
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self._make())
        return next(self._iterator)

    def transform(self, fn: Step) -> LocalIterator:
        """`fn` gets this iterator, and gives another."""
        return LocalIterator(lambda: iter(fn(self)), f"{self.name}.transform()")

    def for_each(self, fn: Callable[[Any], Any], max_concurrency: int = 1, resources: Any = None) -> LocalIterator:
        """``fn(item)`` for each item; `max_concurrency` and `resources` have no effect."""
        return LocalIterator(lambda: map(fn, self), f"{self.name}.for_each()")

    def filter(self, fn: Callable[[Any], bool]) -> LocalIterator:
        """The items for which ``fn(item)`` is true."""
        return LocalIterator(lambda: filter(fn, self), f"{self.name}.filter()")

    def batch(self, n: int) -> LocalIterator:
        """Lists of `n` items, fewer at the end."""
        return LocalIterator(lambda: _batches(self, n), f"{self.name}.batch({n})")

    def flatten(self) -> LocalIterator:
        """The items of the items."""
        return LocalIterator(lambda: itertools.chain.from_iterable(self), f"{self.name}.flatten()")

    def combine(self, fn: Callable[[Any], list[Any]]) -> LocalIterator:
        """The items of ``fn(item)``."""
        return LocalIterator(lambda: itertools.chain.from_iterable(map(fn, self)), f"{self.name}.combine()")

    def shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> LocalIterator:
        """The items in another order, by a buffer of so many."""
        return LocalIterator(lambda: iter(_shuffler(shuffle_buffer_size, seed)(self)), f"{self.name}.shuffle()")

    def take(self, n: int) -> list[Any]:
        """The next `n` items."""
        return list(itertools.islice(self, n))

    def show(self, n: int = 20) -> None:
        """Print the next `n` items."""
        for item in self.take(n):
            print(item)

    def duplicate(self, n: int) -> list[LocalIterator]:
        """`n` iterators over the same items; what the slowest has not taken is kept."""
        copies = itertools.tee(self, n)
        return [LocalIterator(partial(iter, copy), f"{self.name}.duplicate()") for copy in copies]

    def union(self, *others: LocalIterator) -> LocalIterator:
        """The items of all, one of each in turn."""

        def items() -> Iterator[Any]:
            left: deque[LocalIterator] = deque([self, *others])
            while left:
                for item in left[0]:
                    yield item
                    left.rotate(-1)
                    break
                else:
                    left.popleft()

        return LocalIterator(items, f"LocalUnion[{', '.join(map(repr, [self, *others]))}]")


def _batches(items: Iterable[Any], n: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, n)):
        yield batch


def _shuffler(size: int, seed: int | None) -> Step:
    def shuffled(items: Iterable[Any]) -> Iterator[Any]:
        chance, held = random.Random(seed), []
        for item in items:
            held.append(item)
            if len(held) >= size:
                yield held.pop(chance.randrange(len(held)))
        chance.shuffle(held)
        yield from held

    return shuffled
