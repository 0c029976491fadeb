"""The thread of a pool: gives chunks of work to its actors as they get free, and their outcomes to whom they are for.

All that changes belongs to this thread; others post events to it. An actor has at most two chunks, the second so that
it need not wait for the news that it has done with the first.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from skate.api import get, kill
from skate.exceptions import RayActorError, RayError, TaskCancelledError
from skate.util.multiprocessing.pool_worker import Call, Outcome

AHEAD = 2
"""Chunks that an actor has at once."""


class Job(NamedTuple):
    """A function that chunks of a pool run."""

    number: int
    pickled: Any
    """The function's pickle, or a reference to it."""


class Chunk(NamedTuple):
    """Calls of one function that one actor runs in a row."""

    job: Job
    calls: list[Call]
    number: int
    arrive: Callable[[int, list[Outcome]], None]

    def fail(self, error: BaseException) -> None:
        """Give `error` for each call."""
        self.arrive(self.number, [(True, error)] * len(self.calls))


class Slot:
    """An actor of the pool, and what it is at."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.chunks: dict[Any, Chunk] = {}
        """Those it has, by their references."""
        self.begun = 0
        """How many it was given."""


class Dispatcher:
    """Owns a pool's actors. `make` starts one; `most` is how many chunks one may run, or None."""

    def __init__(self, actors: list[Any], make: Callable[[], Any], most: int | None) -> None:
        self.slots = [Slot(actor) for actor in actors]
        self.make = make
        self.most = most
        self.retired: list[Slot] = []
        self.events: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self.waiting: deque[Chunk] = deque()
        self.closing = False
        self.ended = False
        self.thread = threading.Thread(target=self._serve, name="skate-pool", daemon=True)
        self.thread.start()

    # What other threads call.

    def submit(self, chunk: Chunk) -> None:
        """Have a chunk run."""
        self.events.put((self._add, (chunk,)))

    def close(self) -> None:
        """Have the actors end when all chunks have been run."""
        self.events.put((self._close, ()))

    def terminate(self) -> None:
        """End the actors at once; what has not been run fails."""
        self.events.put((self._terminate, ()))

    # What the thread does.

    def _serve(self) -> None:
        while not self.ended:
            act, arguments = self.events.get()
            act(*arguments)

    def _add(self, chunk: Chunk) -> None:
        self.waiting.append(chunk)
        self._hand_out()

    def _hand_out(self) -> None:
        while self.waiting:
            slot = min(self.slots, key=lambda slot: len(slot.chunks))
            if len(slot.chunks) >= AHEAD:
                return
            self._give(slot, self.waiting.popleft())
        self._end_if_done()

    def _give(self, slot: Slot, chunk: Chunk) -> None:
        try:
            ref = slot.actor.run_batch.remote(chunk.job.number, chunk.job.pickled, chunk.calls)
        except Exception as error:  # noqa: BLE001  an argument that cannot be pickled, or a session that has ended
            chunk.fail(error)
            return
        slot.chunks[ref] = chunk
        slot.begun += 1
        if self.most is not None and slot.begun >= self.most:
            self.slots.remove(slot)
            self.retired.append(slot)
            self._replace()
        ref.future().add_done_callback(lambda future: self.events.put((self._done, (slot, ref, future))))

    def _replace(self) -> None:
        """Another actor for one that has left."""
        try:
            self.slots.append(Slot(self.make()))
        except RayError as error:  # the session has ended
            while self.waiting:
                self.waiting.popleft().fail(error)

    def _done(self, slot: Slot, ref: Any, future: Any) -> None:
        chunk = slot.chunks.pop(ref)
        error = future.exception()
        if error is None:
            chunk.arrive(chunk.number, future.result())
        else:
            chunk.fail(error)
            if isinstance(error, RayActorError) and slot in self.slots and not self.closing:
                self.slots.remove(slot)  # its other chunk fails in the same way
                self._replace()
        if slot in self.retired and not slot.chunks:
            self.retired.remove(slot)
            slot.actor.__ray_terminate__.remote()
        self._hand_out()

    def _close(self) -> None:
        self.closing = True
        self._end_if_done()

    def _end_if_done(self) -> None:
        if not self.closing or self.waiting or any(slot.chunks for slot in (*self.slots, *self.retired)):
            return
        for slot in self.slots:
            left = slot.actor.__ray_terminate__.remote()
            try:
                get(left, timeout=10)
            except RayError:  # as it should: the actor has ended, or the session
                continue
        self._forget()

    def _terminate(self) -> None:
        self.closing = True
        for slot in (*self.slots, *self.retired):
            kill(slot.actor)
            for chunk in slot.chunks.values():
                chunk.fail(TaskCancelledError(error_message="The pool was terminated."))
        while self.waiting:
            self.waiting.popleft().fail(TaskCancelledError(error_message="The pool was terminated."))
        self._forget()

    def _forget(self) -> None:
        self.slots.clear()
        self.retired.clear()
        self.ended = True
