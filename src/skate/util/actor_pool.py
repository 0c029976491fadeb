"""`ActorPool`: spread calls over a fixed set of actors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from skate.api import get, wait
from skate.core.refs import ObjectRef
from skate.exceptions import ActorDiedError

V = TypeVar("V")


class ActorPool:
    """Actors that take turns: each gets the next piece of work when it is done with its last.

    >>> pool = ActorPool([Worker.remote(), Worker.remote()])  # doctest: +SKIP
    >>> list(pool.map(lambda actor, x: actor.double.remote(x), [1, 2, 3]))  # doctest: +SKIP
    [2, 4, 6]
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        self._idle_actors = list(actors)
        self._future_to_actor: dict[ObjectRef[Any], tuple[int, Any]] = {}
        self._index_to_future: dict[int, ObjectRef[Any]] = {}
        self._next_task_index = 0
        self._next_return_index = 0
        self._pending_submits: list[tuple[Callable[[Any, Any], Any], Any]] = []

    def map(self, fn: Callable[[Any, V], Any], values: Iterable[V]) -> Iterator[Any]:
        """Results of ``fn(actor, value)`` in the order of `values`; forgets earlier work."""
        self._start_over(fn, values)

        def results() -> Iterator[Any]:
            while self.has_next():
                yield self.get_next()

        return results()

    def map_unordered(self, fn: Callable[[Any, V], Any], values: Iterable[V]) -> Iterator[Any]:
        """Results of ``fn(actor, value)`` as they come; forgets earlier work."""
        self._start_over(fn, values)

        def results() -> Iterator[Any]:
            while self.has_next():
                yield self.get_next_unordered()

        return results()

    def _start_over(self, fn: Callable[[Any, V], Any], values: Iterable[V]) -> None:
        while self._future_to_actor:
            future, (index, actor) = next(iter(self._future_to_actor.items()))
            self._forget(future, index)
            self._return_actor(actor)
        for value in values:
            self.submit(fn, value)

    def submit(self, fn: Callable[[Any, V], Any], value: V) -> None:
        """Call ``fn(actor, value)``, which must return one reference, when an actor is free."""
        if not self._idle_actors:
            self._pending_submits.append((fn, value))
            return
        actor = self._idle_actors.pop()
        future = fn(actor, value)
        self._future_to_actor[future] = (self._next_task_index, actor)
        self._index_to_future[self._next_task_index] = future
        self._next_task_index += 1

    def has_next(self) -> bool:
        """Whether there are results to take, ready or not."""
        return bool(self._future_to_actor)

    def has_free(self) -> bool:
        """Whether an actor is free and no work waits."""
        return bool(self._idle_actors) and not self._pending_submits

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of submission; waits without limit when `timeout` is None.

        Raises:
            StopIteration: no results are left.
            TimeoutError: not ready after `timeout` seconds. With `ignore_if_timedout` the result is
                given up and the actor takes other work.
            ValueError: results were taken out of order before.
        """
        if not self.has_next():
            raise StopIteration("The pool has no more results.")
        future = self._index_to_future.get(self._next_return_index)
        if future is None:
            raise ValueError("get_next cannot follow get_next_unordered: the order is lost.")
        self._await([future], timeout, ignore_if_timedout)
        self._next_return_index += 1
        return self._take(future)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The result that is ready first; raises as `get_next`."""
        if not self.has_next():
            raise StopIteration("The pool has no more results.")
        future = self._await(list(self._future_to_actor), timeout, ignore_if_timedout)
        index, _ = self._future_to_actor[future]
        self._next_return_index = max(self._next_return_index, index + 1)
        return self._take(future)

    def _await(self, futures: list[ObjectRef[Any]], timeout: float | None, give_up: bool) -> ObjectRef[Any]:
        ready, _ = wait(futures, timeout=timeout)
        if ready:
            return ready[0]
        if not give_up:
            raise TimeoutError(f"No result of the pool came within {timeout} s.")
        index, actor = self._future_to_actor[futures[0]]
        self._forget(futures[0], index)
        self._next_return_index = max(self._next_return_index, index + 1)
        self._return_actor(actor)
        raise TimeoutError(f"No result of the pool came within {timeout} s; {futures[0]} is given up.")

    def _take(self, future: ObjectRef[Any]) -> Any:
        index, actor = self._future_to_actor[future]
        self._forget(future, index)
        try:
            result = get(future)
        except ActorDiedError:
            self._return_actor(actor, is_alive=False)
            raise
        except BaseException:
            self._return_actor(actor)
            raise
        self._return_actor(actor)
        return result

    def _forget(self, future: ObjectRef[Any], index: int) -> None:
        del self._future_to_actor[future]
        del self._index_to_future[index]

    def _return_actor(self, actor: Any, is_alive: bool = True) -> None:
        if is_alive:
            self._idle_actors.append(actor)
        while self._pending_submits and self._idle_actors:
            self.submit(*self._pending_submits.pop(0))

    def push(self, actor: Any) -> None:
        """Add an actor; ValueError if it is in the pool already."""
        if actor in self._idle_actors or any(actor == busy for _, busy in self._future_to_actor.values()):
            raise ValueError(f"{actor} belongs to this pool already.")
        self._return_actor(actor)

    def pop_idle(self) -> Any:
        """Take a free actor out of the pool; None when there is none."""
        return self._idle_actors.pop() if self.has_free() else None
