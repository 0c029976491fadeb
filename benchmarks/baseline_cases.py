"""What the machine and the standard library can do: baselines to read the figures beside."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from clock import per_operation

Sample = dict[str, float]
Case = Iterator[Sample]

BATCH = 1000


def answer() -> bytes:
    return b"ok"


def add_one(array: Any) -> Any:
    return array + 1


def task_sync(pool: ProcessPoolExecutor) -> Case:
    while True:
        yield {"task_sync": per_operation(lambda: pool.submit(answer).result())}


def task_batch(pool: ProcessPoolExecutor) -> Case:
    def batch() -> None:
        for future in [pool.submit(answer) for _ in range(BATCH)]:
            future.result()

    while True:
        yield {"task_batch": per_operation(batch, BATCH)}


def array_1mb(pool: ProcessPoolExecutor) -> Case:
    import numpy as np

    array = np.zeros(131_072)
    while True:
        yield {"array_1mb": per_operation(lambda: pool.submit(add_one, array).result())}


def pool_of(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers)


FUTURES = {case.__name__: case for case in (task_sync, task_batch, array_1mb)}


def start_futures(workers: int) -> Sample:
    begin = time.perf_counter()
    with ProcessPoolExecutor(workers) as pool:
        pool.submit(answer).result()
        return {"start": time.perf_counter() - begin}


def pipe_round_trip(_: None) -> Case:
    """One byte to another process and back: no call through pipes can be faster than this."""
    there_read, there_write = os.pipe()
    back_read, back_write = os.pipe()
    child = os.fork()
    if child == 0:
        # Closing the far ends lets the read below see the end when the parent goes.
        os.close(there_write)
        os.close(back_read)
        while os.read(there_read, 1):
            os.write(back_write, b".")
        os._exit(0)
    os.close(there_read)
    os.close(back_write)

    def trip() -> None:
        os.write(there_write, b".")
        os.read(back_read, 1)

    try:
        while True:
            figure = per_operation(trip)
            # The bound of everything that waits for one answer is shown beside each such row.
            yield {"pipe": figure, "task_sync": figure, "actor_sync": figure}
    finally:
        os.close(there_write)
        os.waitpid(child, 0)


def memcpy(_: None) -> Case:
    """Copy 100 MB into memory that is already there: the speed of the machine's memory."""
    import numpy as np

    source, target = np.ones(13_107_200), np.zeros(13_107_200)
    while True:
        yield {"put_100mb": per_operation(lambda: np.copyto(target, source), at_least=5)}
