"""Pools, queues, serializers."""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any

import pytest

import skate
from skate.util import ActorPool, deregister_serializer, get_node_ip_address, register_serializer
from skate.util.queue import Empty, Full, Queue


class Worker:
    def double(self, x: int) -> int:
        return 2 * x

    def fail(self, x: int) -> int:
        raise KeyError(x)


def double(actor: Any, value: int) -> Any:
    return actor.double.remote(value)


@pytest.fixture
def workers(session: None) -> list[Any]:
    return [skate.remote(Worker).remote() for _ in range(2)]


def test_pool_maps_in_order(workers: list[Any]) -> None:
    pool = ActorPool(workers)
    assert list(pool.map(double, range(5))) == [0, 2, 4, 6, 8]
    assert sorted(pool.map_unordered(double, range(5))) == [0, 2, 4, 6, 8]
    assert pool.has_free() and not pool.has_next()


def test_pool_queues_what_no_actor_is_free_for(workers: list[Any]) -> None:
    pool = ActorPool(workers)
    for i in range(3):
        pool.submit(double, i)
    assert pool.has_next() and not pool.has_free() and pool.pop_idle() is None
    assert [pool.get_next() for _ in range(3)] == [0, 2, 4]
    with pytest.raises(StopIteration):
        pool.get_next()


def test_pool_gets_its_actor_back_after_a_failure(workers: list[Any]) -> None:
    pool = ActorPool(workers)
    pool.submit(lambda actor, value: actor.fail.remote(value), 1)
    with pytest.raises(KeyError):
        pool.get_next()
    assert pool.pop_idle() and pool.pop_idle() and pool.pop_idle() is None


def test_pool_keeps_its_members_apart(workers: list[Any]) -> None:
    pool = ActorPool(workers[:1])
    with pytest.raises(ValueError, match="belongs"):
        pool.push(workers[0])
    pool.push(workers[1])
    pool.submit(double, 1)
    pool.submit(double, 2)
    assert pool.get_next_unordered() in (2, 4)
    with pytest.raises(ValueError):
        pool.push(workers[0])


def test_queue_is_first_in_first_out(session: None) -> None:
    q = Queue(maxsize=2)
    q.put(1)
    q.put(2)
    assert q.full() and len(q) == q.size() == q.qsize() == 2
    assert q.get() == 1 and q.get_nowait() == 2 and q.empty()


def test_queue_errors_are_those_of_the_standard_library(session: None) -> None:
    assert issubclass(Empty, queue.Empty) and issubclass(Full, queue.Full)
    q = Queue(maxsize=1)
    with pytest.raises(Empty):
        q.get(block=False)
    with pytest.raises(Empty):
        q.get(timeout=0.01)
    q.put(None)
    with pytest.raises(Full):
        q.put_nowait(2)
    with pytest.raises(Full):
        q.put(2, timeout=0.01)
    assert q.get() is None
    with pytest.raises(ValueError):
        q.get(timeout=-1)


def test_queue_batches_are_all_or_nothing(session: None) -> None:
    q = Queue(maxsize=2)
    with pytest.raises(Full):
        q.put_nowait_batch([1, 2, 3])
    q.put_nowait_batch([1, 2])
    with pytest.raises(Empty):
        q.get_nowait_batch(3)
    assert q.get_nowait_batch(2) == [1, 2]
    with pytest.raises(TypeError):
        q.put_nowait_batch(5)  # type: ignore[arg-type]


def test_queue_travels_and_serves_coroutines(session: None) -> None:
    q = Queue()

    @skate.remote
    def produce(q: Queue) -> None:
        q.put("from a task")

    skate.get(produce.remote(q))

    async def main() -> Any:
        await q.put_async(2)
        return await q.get_async(), await q.get_async()

    assert asyncio.run(main()) == ("from a task", 2)
    q.shutdown(force=True)


def test_registered_serializer_is_used_until_it_is_taken_back(session: None) -> None:
    class Guarded:
        def __init__(self, value: int) -> None:
            self.value, self.lock = value, threading.Lock()

    with pytest.raises(TypeError):
        skate.put(Guarded(1))
    register_serializer(Guarded, serializer=lambda g: g.value, deserializer=Guarded)
    assert skate.get(skate.put([Guarded(7)]))[0].value == 7
    deregister_serializer(Guarded)
    deregister_serializer(Guarded)
    with pytest.raises(TypeError):
        skate.put(Guarded(1))


def test_address_of_the_node() -> None:
    assert get_node_ip_address().count(".") == 3


def test_marks_change_nothing() -> None:
    from skate.util.annotations import DeveloperAPI, PublicAPI

    assert PublicAPI(Worker) is Worker and DeveloperAPI(stability="beta")(double) is double


def test_no_client_is_connected() -> None:
    from skate.util.client import ray as client

    assert client.is_connected() is False
