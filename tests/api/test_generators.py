"""Streams as their reader sees them."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import Iterator

import pytest

import skate
from skate.core.refs import closed_streams


@skate.remote
def count(n: int, fail: bool = False) -> Iterator[int]:
    yield from range(n)
    if fail:
        raise KeyError("late")


def test_items_come_as_references_then_it_ends(session: None) -> None:
    stream = count.remote(2)
    assert [skate.get(ref) for ref in stream] == [0, 1]
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(stream)
    assert stream.is_finished() and not stream.next_ready()


def test_failure_is_the_last_item(session: None) -> None:
    stream = count.remote(1, fail=True)
    assert skate.get(next(stream)) == 0
    assert not stream.is_finished()
    with pytest.raises(KeyError):
        skate.get(next(stream))
    with pytest.raises(StopIteration):
        next(stream)


def test_async_iteration(session: None) -> None:
    async def collect() -> list[int]:
        return [await ref async for ref in count.remote(3)]

    assert asyncio.run(collect()) == [0, 1, 2]


def test_completed_is_ready_at_the_end(session: None) -> None:
    stream = count.remote(1)
    assert skate.get(stream.completed()) is None
    assert stream.task_id() == stream.completed().task_id()


def test_it_cannot_be_sent_or_sent_to(session: None) -> None:
    stream = count.remote(1)
    with pytest.raises(TypeError, match="cannot be sent"):
        pickle.dumps(stream)
    for verb in (lambda: stream.send(1), lambda: stream.throw(ValueError()), stream.close):
        with pytest.raises(NotImplementedError, match="one way"):
            verb()


def test_dropping_it_is_noted_for_the_engine(session: None) -> None:
    stream = count.remote(1)
    key = stream.completed()._key
    gc.collect()
    closed_streams.clear()
    del stream
    assert list(closed_streams) == [key]
