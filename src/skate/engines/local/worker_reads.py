"""A worker's waits and reads: `get`, `wait`, callbacks and futures, by asking the hub for what is not here."""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from skate import exceptions
from skate.core.engine import Ready
from skate.core.generator import asyncio_ready
from skate.core.refs import ObjectRef
from skate.engines.local.arena import Mapping
from skate.engines.local.blocks import Blocks, LostValue
from skate.engines.local.link import BlockingLink
from skate.engines.local.messages import Answer, Get, Outcome, Values, Welcome
from skate.engines.local.outcomes import raise_outcome
from skate.engines.local.rows import END, FAILED, PENDING

if TYPE_CHECKING:
    import asyncio


class StopIterationError(RuntimeError):
    """A StopIteration, which a future cannot hold."""


class WorkerReads(Blocks):
    """Gets values over the link, and tells when they are there."""

    def __init__(self, link: BlockingLink, welcome: Welcome, open_arena: Callable[[], Mapping]) -> None:
        super().__init__(link, welcome, open_arena)
        self.ended: set[int] = set()
        """Item references past the end of their stream."""
        self._helper: threading.Thread | None = None
        """It reads while callbacks are waited for and nobody else does."""
        self.helping = threading.Lock()
        """Held to begin or end that thread."""
        self.due: deque[Ready] = deque()
        """Callbacks that it is to make."""

    def _outcomes(self, keys: list[int], count: int, timeout: float | None, values: bool) -> list[Outcome]:
        request = next(self.requests)
        blocks = threading.get_ident() == self.main
        if self.fresh:
            self.settle()
        with self.lock:
            self.link.out.append(Get(request, keys, count, timeout, values, blocks))
        replies = self.replies
        try:
            self.until(lambda: request in replies)
        except BaseException:
            self.abandoned.add(request)
            raise
        reply = replies.pop(request)
        if isinstance(reply, Answer):
            raise_outcome(reply.data)
        for key, outcome in zip(keys, reply.outcomes, strict=True):
            if outcome.state == END:
                self.ended.add(key)
        return reply.outcomes

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values in order."""
        keys = [ref._key for ref in refs]
        values: list[Any] = []
        while len(values) < len(keys):
            rest = keys[len(values) :] if values else keys
            outcomes = self._outcomes(rest, len(rest), timeout, True)
            try:
                self._load_all(outcomes, timeout, values)
            except LostValue as lost:
                self.ask("lose", lost.key)
            finally:
                self.unseen(outcomes)
        return values

    def _load_all(self, outcomes: list[Outcome], timeout: float | None, values: list[Any]) -> None:
        """Add the values that an answer brings to `values`."""
        waiting = False
        for outcome in outcomes:
            if outcome.state == FAILED:
                raise_outcome(outcome.value)
            waiting = waiting or outcome.state == PENDING
        if waiting:
            raise exceptions.GetTimeoutError(f"Get timed out: some objects were not ready after {timeout} seconds.")
        for number, outcome in enumerate(outcomes):
            if number and outcome.value == b"":
                return  # too many for one answer: these are asked for again
            values.append(self.load(outcome.value))

    def wait(
        self, refs: Sequence[ObjectRef[Any]], count: int, timeout: float | None, fetch: bool = True
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """At most `count` ready ones, and the rest."""
        outcomes = self._outcomes([ref._key for ref in refs], count, timeout, False)
        ready: list[ObjectRef[Any]] = []
        rest: list[ObjectRef[Any]] = []
        for ref, outcome in zip(refs, outcomes, strict=True):
            (ready if outcome.state != PENDING and len(ready) < count else rest).append(ref)
        return ready, rest

    def on_ready(self, ref: ObjectRef[Any], callback: Ready) -> None:
        """Call back when `ref` is ready, from a thread that may ask for its value."""
        self._subscribe(ref, False, lambda _: self.due.append(callback))
        with self.helping:
            if self._helper is None:
                self._helper = threading.Thread(target=self._keep_reading, name="skate-reader", daemon=True)
                self._helper.start()

    def _subscribe(self, ref: ObjectRef[Any], values: bool, callback: Callable[[Values], None]) -> None:
        request = next(self.requests)
        key = ref._key

        def answered(message: Values, keep: Any = ref) -> None:
            if message.outcomes[0].state == END:
                self.ended.add(key)
            callback(message)

        self.callbacks[request] = answered
        if self.fresh:
            self.settle()
        with self.lock:
            self.link.out.append(Get(request, [key], 1, None, values, False))
            self.link.flush()

    def _keep_reading(self) -> None:
        """Read as long as somebody waits for a callback and nobody else reads; make the callbacks.

        They are not made by whoever reads: they may ask for values, which he would have to read.
        """
        due = self.due
        while True:
            self.turns.until(lambda: due or not self.callbacks)
            while due:
                due.popleft()()
            with self.helping:
                if not due and not self.callbacks:
                    self._helper = None
                    return

    def asyncio_future(self, ref: ObjectRef[Any]) -> asyncio.Future[Any]:
        """A future of the running loop, which reads the link itself while it waits."""
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(outcome: Outcome) -> None:
            try:
                if future.done():
                    return
                if outcome.state == FAILED:
                    raise_outcome(outcome.value)
                future.set_result(self.load(outcome.value))
            except LostValue as lost:
                self.ask("lose", lost.key)
                self._subscribe(ref, True, answered)
            except BaseException as error:  # noqa: BLE001  it belongs to whoever awaits
                future.set_exception(StopIterationError(error) if isinstance(error, StopIteration) else error)
            finally:
                self.unseen([outcome])

        def answered(message: Values) -> None:
            if loop.is_closed():
                self.unseen(message.outcomes)
            else:
                loop.call_soon_threadsafe(settle, message.outcomes[0])

        if self.on_inbox is None:  # an actor's own loop reads already
            loop.add_reader(self.link.read_fd, self.readable)
        self._subscribe(ref, True, answered)
        return future

    def asyncio_ready(self, ref: ObjectRef[Any]) -> Any:
        """A future of the running loop; an actor's own loop reads for it, and needs no other thread."""
        import asyncio

        if self.on_inbox is None:
            return asyncio_ready(self, ref)
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        def answered(_: Values) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake)

        self._subscribe(ref, False, answered)
        return woken

    def readable(self) -> None:
        """The link has something to read: read once, unless another thread does."""
        if self.turns.lead.acquire(False):
            try:
                if self._has_mail():  # or it was read meanwhile, and reading would wait
                    self._read(None)
                    self.turns.notify()
            finally:
                self.turns.lead.release()
                self.turns.pass_on()
        else:
            time.sleep(0)  # let the thread that reads have the interpreter

    def _has_mail(self) -> bool:
        readable = select.poll()
        readable.register(self.link.read_fd, select.POLLIN)
        return bool(readable.poll(0))
