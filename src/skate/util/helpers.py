"""Results as they come: `as_completed` and `map_unordered`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from skate.api import get, wait
from skate.core.refs import ObjectRef

__all__ = ["as_completed", "map_unordered"]


def as_completed(
    refs: Sequence[ObjectRef[Any]], *, chunk_size: int = 10, yield_obj_refs: bool = False, **kwargs: Any
) -> Iterator[Any]:
    """Yield results of `refs` as they come, `chunk_size` at a time (fewer at the end).

    Args:
        refs: references, each once.
        chunk_size: how many to wait for before they are yielded; 1 yields each as soon as it is there.
        yield_obj_refs: yield references in place of values.
        kwargs: further arguments of `wait`, such as ``timeout`` in seconds: what is ready by then is yielded.

    Raises ValueError for a `chunk_size` below 1, and for ``num_returns``; what a task raised, when its turn comes.
    """
    _check(chunk_size, kwargs)
    left = list(refs)
    while left:
        batch, left = _next_batch(left, chunk_size, yield_obj_refs, kwargs)
        yield from batch


def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **kwargs: Any,
) -> Iterator[Any]:
    """Yield ``fn.remote(item)`` of all items as results come; see `as_completed`.

    Args:
        fn: a remote function, or a method of an actor.
        items: read only as far as calls are made; may be endless.
        backpressure_size: how many calls may be under way; None: all at once.
        chunk_size, yield_obj_refs, kwargs: as in `as_completed`.

    Raises ValueError for a `backpressure_size` below 1, and as `as_completed`.
    """
    _check(chunk_size, kwargs)
    if backpressure_size is not None and backpressure_size < 1:
        raise ValueError(f"backpressure_size is {backpressure_size}, and must be 1 at least")
    calls = (fn.remote(item) for item in items)
    left = list(itertools.islice(calls, backpressure_size))
    while left:
        batch, left = _next_batch(left, chunk_size, yield_obj_refs, kwargs)
        yield from batch
        more = None if backpressure_size is None else backpressure_size - len(left)
        left.extend(itertools.islice(calls, more))


def _check(chunk_size: int, kwargs: dict[str, Any]) -> None:
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, and must be 1 at least")
    if "num_returns" in kwargs:
        raise ValueError("how many results to wait for is given as chunk_size, not num_returns")


def _next_batch(
    refs: list[ObjectRef[Any]], size: int, as_refs: bool, kwargs: dict[str, Any]
) -> tuple[list[Any], list[ObjectRef[Any]]]:
    ready, left = wait(refs, num_returns=min(size, len(refs)), **kwargs)
    return (ready if as_refs else get(ready)), left
