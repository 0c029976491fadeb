"""What a pool gives for work under way: `AsyncResult`, and iterators over results."""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import TimeoutError
from typing import TYPE_CHECKING, Any

from skate.util.multiprocessing.pool_worker import Call, Outcome

if TYPE_CHECKING:
    from skate.util.multiprocessing.pool import Pool

Callback = Callable[[Any], Any]


class AsyncResult:
    """The result of calls under way, as `multiprocessing.pool.AsyncResult` is. Times are in seconds."""

    def __init__(
        self,
        chunks: int,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        single_result: bool = False,
    ) -> None:
        self._chunks: list[list[Outcome] | None] = [None] * chunks
        self._left = chunks
        self._callback = callback
        self._error_callback = error_callback
        self._single_result = single_result
        self._done = threading.Event()
        if chunks == 0:
            self._finish()

    def _arrive(self, index: int, outcomes: list[Outcome]) -> None:
        """A chunk has been run; on the pool's thread."""
        self._chunks[index] = outcomes
        self._left -= 1
        if self._left == 0:
            self._finish()

    def _finish(self) -> None:
        error = self._error()
        called = self._callback if error is None else self._error_callback
        self._done.set()
        if called is not None:
            try:
                called(self._value() if error is None else error)
            except Exception:  # noqa: BLE001  it must not end the thread that serves all results
                traceback.print_exc()

    def _outcomes(self) -> Iterator[Outcome]:
        return itertools.chain.from_iterable(chunk or [] for chunk in self._chunks)

    def _error(self) -> BaseException | None:
        return next((value for failed, value in self._outcomes() if failed), None)

    def _value(self) -> Any:
        values = [value for _, value in self._outcomes()]
        return values[0] if self._single_result else values

    def wait(self, timeout: float | None = None) -> None:
        """Return when it is ready, or after `timeout` seconds."""
        self._done.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """The result, of `map` in the order of the input; raises what the first call that failed raised.

        Raises `multiprocessing.TimeoutError` when it is not ready after `timeout` seconds.
        """
        if not self._done.wait(timeout):
            raise TimeoutError
        error = self._error()
        if error is not None:
            raise error
        return self._value()

    def ready(self) -> bool:
        """Whether all calls have ended."""
        return self._done.is_set()

    def successful(self) -> bool:
        """Whether none of the calls raised; ValueError when they have not ended."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error() is None


class IMapIterator:
    """Results one by one, while the input is read little by little: two chunks for each process are under way."""

    def __init__(self, pool: Pool, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None) -> None:
        self._pool = pool
        self._items = iter(iterable)
        self._size = chunksize or 1
        self._job = pool._new_job(func)
        self._numbers = itertools.count()
        self._window = 2 * len(pool._actor_pool)
        self._under_way = 0
        self._arrived = threading.Condition()
        self._chunks: dict[int, list[Outcome]] = {}
        self._next = 0
        self._ready: list[Outcome] = []
        self._exhausted = False
        self._fill()

    def _fill(self) -> None:
        while not self._exhausted and self._under_way + len(self._chunks) < self._window:
            calls: list[Call] = [((item,), {}) for item in itertools.islice(self._items, self._size)]
            if not calls:
                self._exhausted = True
                return
            self._under_way += 1
            self._pool._submit(self._job, calls, next(self._numbers), self._arrive)

    def _arrive(self, index: int, outcomes: list[Outcome]) -> None:
        with self._arrived:
            self._chunks[index] = outcomes
            self._under_way -= 1
            self._arrived.notify_all()

    def _choose(self) -> int | None:
        """The chunk to give next, if it is there."""
        raise NotImplementedError

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result; raises what its call raised, and `multiprocessing.TimeoutError` after `timeout` seconds."""
        if not self._ready:
            self._ready = self._take_chunk(timeout)[::-1]
            self._fill()
        failed, value = self._ready.pop()
        if failed:
            raise value
        return value

    def _take_chunk(self, timeout: float | None) -> list[Outcome]:
        end = None if timeout is None else time.monotonic() + timeout
        with self._arrived:
            while (chosen := self._choose()) is None:
                if not self._under_way and not self._chunks:
                    raise StopIteration
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._arrived.wait(left)
            return self._chunks.pop(chosen)


class OrderedIMapIterator(IMapIterator):
    """In the order of the input."""

    def _choose(self) -> int | None:
        if self._next not in self._chunks:
            return None
        self._next += 1
        return self._next - 1


class UnorderedIMapIterator(IMapIterator):
    """As they come."""

    def _choose(self) -> int | None:
        return next(iter(self._chunks), None)
