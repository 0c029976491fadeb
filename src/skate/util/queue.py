"""`Queue`: a first-in, first-out queue that tasks, actors and drivers share."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from typing import Any

from skate.api import get, kill, remote

__all__ = ["Empty", "Full", "Queue"]


class Empty(queue.Empty):
    """There was nothing to get."""


class Full(queue.Full):
    """There was no room to put it."""


class Queue:
    """A queue in an actor of its own; it may be sent to tasks and actors like any value.

    Args:
        maxsize: how many items it holds; 0: any number.
        actor_options: options of the actor, such as ``{"name": "jobs"}``; those of any actor when None.

    Timeouts are in seconds, None: without limit; a negative one raises ValueError.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        made: Any = remote(_QueueActor)
        self.actor: Any = made.options(**(actor_options or {})).remote(maxsize)

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """How many items it holds."""
        return int(get(self.actor.qsize.remote()))

    def qsize(self) -> int:
        """How many items it holds."""
        return self.size()

    def empty(self) -> bool:
        """Whether it holds nothing."""
        return self.size() == 0

    def full(self) -> bool:
        """Whether it has no room."""
        return 0 < self.maxsize <= self.size()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; Full when there is no room: at once unless `block`, or after `timeout` s."""
        self._put_now_or_later(get(self._put_call(item, block, timeout)))

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """`put` for coroutines."""
        self._put_now_or_later(await self._put_call(item, block, timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item; Empty when there is none, at once unless `block`, else after
        `timeout` s."""
        return _item(get(self._get_call(block, timeout)))

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """`get` for coroutines."""
        return _item(await self._get_call(block, timeout))

    def put_nowait(self, item: Any) -> None:
        """Add an item, or raise Full."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """Take the oldest item, or raise Empty."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items in one go, or none and raise Full; TypeError for what holds no items."""
        if not isinstance(items, Iterable):
            raise TypeError(f"put_nowait_batch takes items to add, not a {type(items).__name__}")
        if not get(self.actor.put_batch.remote(list(items))):
            raise Full("The queue has no room for all of these items.")

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take `num_items` in one go, or none and raise Empty; TypeError, ValueError: no whole number from 0 on."""
        if not isinstance(num_items, int):
            raise TypeError(f"num_items must be an integer, not a {type(num_items).__name__}")
        if num_items < 0:
            raise ValueError("num_items must not be negative")
        items: list[Any] | None = get(self.actor.get_batch.remote(num_items))
        if items is None:
            raise Empty(f"The queue holds fewer than {num_items} items.")
        return items

    def shutdown(self, force: bool = False, grace_period_s: int = 5) -> None:
        """End the queue's actor: when what was asked of it is done, after `grace_period_s` seconds at the latest, or at
        once if `force`.
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        if not force:
            from skate.api import wait

            done, _ = wait([actor.__ray_terminate__.remote()], timeout=grace_period_s)
            if done:
                return
        kill(actor, no_restart=True)

    def _put_call(self, item: Any, block: bool, timeout: float | None) -> Any:
        return self.actor.put.remote(item, *_patience(block, timeout))

    def _get_call(self, block: bool, timeout: float | None) -> Any:
        return self.actor.get.remote(*_patience(block, timeout))

    @staticmethod
    def _put_now_or_later(added: bool) -> None:
        if not added:
            raise Full("The queue is full.")


def _patience(block: bool, timeout: float | None) -> tuple[bool, float | None]:
    if block and timeout is not None and timeout < 0:
        raise ValueError("timeout must not be negative")
    return block, timeout


def _item(found: list[Any]) -> Any:
    if not found:
        raise Empty("The queue is empty.")
    return found[0]


class _QueueActor:
    """Holds the items; its answers are plain values, so that no error has to travel."""

    def __init__(self, maxsize: int) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    async def qsize(self) -> int:
        return self._queue.qsize()

    async def put(self, item: Any, block: bool, timeout: float | None) -> bool:
        if block:
            try:
                await asyncio.wait_for(self._queue.put(item), timeout)
            except TimeoutError:
                return False
            return True
        return await self.put_batch([item])

    async def get(self, block: bool, timeout: float | None) -> list[Any]:
        if block:
            try:
                return [await asyncio.wait_for(self._queue.get(), timeout)]
            except TimeoutError:
                return []
        return await self.get_batch(1) or []

    async def put_batch(self, items: list[Any]) -> bool:
        if 0 < self._queue.maxsize < self._queue.qsize() + len(items):
            return False
        for item in items:
            self._queue.put_nowait(item)
        return True

    async def get_batch(self, count: int) -> list[Any] | None:
        if self._queue.qsize() < count:
            return None
        return [self._queue.get_nowait() for _ in range(count)]
