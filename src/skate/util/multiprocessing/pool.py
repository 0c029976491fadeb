"""`Pool`: the interface of `multiprocessing.Pool`, with actors as its processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, Self

from skate.api import cluster_resources, get, init, is_initialized, put, remote
from skate.cloudpickle import dumps
from skate.util.multiprocessing.dispatch import Chunk, Dispatcher, Job
from skate.util.multiprocessing.pool_worker import Call, Outcome, PoolActor
from skate.util.multiprocessing.results import (
    AsyncResult,
    Callback,
    IMapIterator,
    OrderedIMapIterator,
    UnorderedIMapIterator,
)

__all__ = ["AsyncResult", "Pool"]

LARGE = 64 * 1024
"""A function whose pickle takes as many bytes is stored once, rather than sent with each chunk."""


class Pool:
    """A pool of processes that run calls; see `multiprocessing.pool.Pool`, whose methods these are.

    Args:
        processes: how many; as many as the session has CPUs if None.
        initializer: called in each process when it starts, with `initargs`.
        initargs: its arguments.
        maxtasksperchild: how many chunks of calls a process runs before a new one takes its place; None: any number.
        context: has no effect: actors are the processes.
        ray_address: what to give to ``init(address=...)`` when no session runs.
        ray_remote_args: options of the actors; each takes a CPU if they do not say.

    Functions may be lambdas and closures. Starts a session when none runs.

    Raises ValueError for a number of processes below 1, or above the session's CPUs.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
    ) -> None:
        self._closed = False
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        count = _start_session(processes, ray_address)
        made: Any = remote(PoolActor)
        made = made.options(**{"num_cpus": 1, **(ray_remote_args or {})})
        arguments = tuple(initargs or ())

        def make() -> Any:
            return made.remote(initializer, arguments)

        actors = [make() for _ in range(count)]
        get([actor.ping.remote() for actor in actors])
        self._numbers = itertools.count(1)
        self._dispatcher = Dispatcher(actors, make, maxtasksperchild)
        self._actor_pool = [(actor, 0) for actor in actors]

    # --------------------------------------------------------------------- the calls

    def apply(
        self, func: Callable[..., Any], args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The result of ``func(*args, **kwargs)``, run in a process of the pool; raises what it raises."""
        return self.apply_async(func, args, kwargs).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """Have ``func(*args, **kwargs)`` run; `callback` gets its result, `error_callback` what it raises.

        Both are called on a thread of the pool, and must be short.
        """
        self._check_running()
        result = AsyncResult(1, callback, error_callback, single_result=True)
        self._submit(self._new_job(func), [(tuple(args or ()), dict(kwargs or {}))], 0, result._arrive)
        return result

    def map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """``[func(item) for item in iterable]``, `chunksize` items in a row in one process; waits for all."""
        return list(self.map_async(func, iterable, chunksize).get())

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """`map` without waiting."""
        return self._map(func, (((item,), {}) for item in iterable), iterable, chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """``[func(*items) for items in iterable]``."""
        return list(self.starmap_async(func, iterable, chunksize).get())

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """`starmap` without waiting."""
        calls: Iterable[Call] = ((tuple(items), {}) for items in iterable)
        return self._map(func, calls, iterable, chunksize, callback, error_callback)

    def imap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = 1) -> IMapIterator:
        """Results in order, one by one; the input may be endless, and is read only a little ahead."""
        self._check_running()
        return OrderedIMapIterator(self, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> IMapIterator:
        """`imap`, with results as they come."""
        self._check_running()
        return UnorderedIMapIterator(self, func, iterable, chunksize)

    def _map(
        self,
        func: Callable[..., Any],
        calls: Iterable[Call],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> AsyncResult:
        self._check_running()
        listed = list(calls)
        size = chunksize or self._calculate_chunksize(listed) or 1
        if size < 1:
            raise ValueError(f"chunksize is {chunksize}, and must be 1 at least")
        chunks = [listed[start : start + size] for start in range(0, len(listed), size)]
        result = AsyncResult(len(chunks), callback, error_callback)
        job = self._new_job(func)
        for index, chunk in enumerate(chunks):
            self._submit(job, chunk, index, result._arrive)
        return result

    def _calculate_chunksize(self, listed: list[Any]) -> int:
        """Four chunks for each process."""
        return -(-len(listed) // (len(self._actor_pool) * 4))

    def _new_job(self, func: Callable[..., Any]) -> Job:
        pickled = dumps(func, protocol=5)
        return Job(next(self._numbers), pickled if len(pickled) < LARGE else put(pickled))

    def _submit(self, job: Job, calls: list[Call], index: int, arrive: Callable[[int, list[Outcome]], None]) -> None:
        if self._dispatcher.ended:
            raise ValueError("Pool not running")
        self._dispatcher.submit(Chunk(job, calls, index, arrive))

    # ------------------------------------------------------------------------ the end

    def _check_running(self) -> None:
        if self._closed:
            raise ValueError("Pool not running")

    def close(self) -> None:
        """Take no more work; the processes end when what they have is done."""
        if not self._closed:
            self._closed = True
            self._dispatcher.close()

    def terminate(self) -> None:
        """End the processes at once; `get` of what they have not done raises TaskCancelledError."""
        self._closed = True
        self._dispatcher.terminate()
        self._dispatcher.thread.join(10)

    def join(self) -> None:
        """Wait until the processes have ended; ValueError unless `close` or `terminate` came before."""
        if not self._closed:
            raise ValueError("Pool is still running")
        self._dispatcher.thread.join()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(self, *error: object) -> None:
        self.terminate()

    def __del__(self) -> None:
        dispatcher = self.__dict__.get("_dispatcher")
        if dispatcher is not None and not self._closed:
            dispatcher.close()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


def _start_session(processes: int | None, address: str | None) -> int:
    """How many processes there will be, in a session that runs by then."""
    if processes is not None and processes < 1:
        raise ValueError("Processes in the pool must be >0.")
    if not is_initialized():
        if address is None:
            init(num_cpus=processes)
        else:
            init(address=address, num_cpus=processes if address == "local" else None)
    cpus = int(cluster_resources().get("CPU", 0))
    if processes is None:
        processes = max(1, cpus)
    if processes > cpus:
        raise ValueError(f"A pool of {processes} processes needs as many CPUs, and the session has {cpus}.")
    return processes
