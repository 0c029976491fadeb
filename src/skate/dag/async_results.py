"""Compiled graphs in asyncio: a thread takes the results, and hands them to the event loops that wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from skate.dag.channel import Closed, Message

if TYPE_CHECKING:
    from skate.dag.compiled_dag_node import CompiledDAG

__all__ = ["AsyncResults", "CompiledDAGFuture"]

CLOSED: Message = (0, b"")
"""Given in place of a result when the graph has ended."""


class Flight:
    """One run, from its submission until one of its results was taken, or all were dropped."""

    __slots__ = ("count", "loop", "outcomes")

    def __init__(self, loop: asyncio.AbstractEventLoop, outputs: int) -> None:
        self.loop = loop
        self.outcomes: list[asyncio.Future[Message]] = [loop.create_future() for _ in range(outputs)]
        self.count = outputs

    def land(self, messages: Sequence[Message]) -> None:
        """Give each output what was read for it; on the loop's thread."""
        for outcome, message in zip(self.outcomes, messages, strict=True):
            if not outcome.done():
                outcome.set_result(message)


class AsyncResults:
    """The runs under way of one graph."""

    def __init__(self, end: Any) -> None:
        self.end = end
        self._coming: deque[Flight] = deque()
        """Submitted, and not read yet, in order."""
        self._taken = 0
        self._submitted = 0
        self._places: Sequence[int] = ()
        self._thread: threading.Thread | None = None

    def in_flight(self) -> int:
        """How many runs were submitted whose results nobody has taken or dropped."""
        return self._submitted - self._taken

    def take(self) -> None:
        """A run's results were taken, or dropped."""
        self._taken += 1

    async def submit(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deadline: float | None,
        lock: threading.Lock,
        places: Sequence[int],
    ) -> list[tuple[Flight, int]]:
        """Send the input off, without holding up the loop when there is no room."""
        loop = asyncio.get_running_loop()
        flight = Flight(loop, len(places))
        self._places = places

        def send() -> None:
            with lock:
                self._coming.append(flight)
                try:
                    if kwargs or not args or not self.end.submit_now(args[0]):
                        self.end.submit(args, kwargs, deadline)
                except BaseException:
                    self._coming.remove(flight)
                    raise
                self._submitted += 1
                if self._thread is None:
                    self._thread = threading.Thread(target=self._read, name="skate-graph-results", daemon=True)
                    self._thread.start()

        if self.end.has_room():
            send()
        else:
            await loop.run_in_executor(None, send)
        return [(flight, output) for output in range(len(places))]

    def _read(self) -> None:
        """Take results as they come, until the graph ends."""
        while True:
            try:
                with self.end.reading:
                    messages = self.end.fetch(None)
            except Closed:
                break
            given = [messages[place] for place in self._places]
            self._hand(self._coming.popleft(), given)
        while self._coming:
            flight = self._coming.popleft()
            self._hand(flight, [CLOSED] * len(flight.outcomes))

    @staticmethod
    def _hand(flight: Flight, messages: Sequence[Message]) -> None:
        with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits there
            flight.loop.call_soon_threadsafe(flight.land, messages)


class CompiledDAGFuture:
    """What ``execute_async`` gives: ``await`` it, once, for the value or the error.

    It cannot be copied, pickled, or given to `wait`.
    """

    def __init__(self, dag: CompiledDAG, outcome: tuple[Flight, int]) -> None:
        self._dag = dag
        self._flight, self._output = outcome
        self._awaited = False

    def __await__(self) -> Generator[Any, None, Any]:
        if self._awaited:
            raise ValueError("A CompiledDAGFuture can be awaited once, and it was.")
        kind, data = yield from self._flight.outcomes[self._output].__await__()
        self._settle()
        return self._dag._async_value(kind, data)

    def _settle(self) -> None:
        """Its run counts as taken as soon as one of the outputs is."""
        if not self._awaited:
            self._awaited = True
            flight = self._flight
            first = flight.count == len(flight.outcomes)
            flight.count -= 1
            results = self._dag._async
            if first and results is not None:
                results.take()

    def __del__(self) -> None:
        if "_awaited" in self.__dict__:
            self._settle()

    def __copy__(self) -> Any:
        raise ValueError("A CompiledDAGFuture cannot be copied.")

    def __deepcopy__(self, memo: Any) -> Any:
        raise ValueError("A CompiledDAGFuture cannot be copied.")

    def __reduce__(self) -> Any:
        raise ValueError("A CompiledDAGFuture cannot be pickled.")

    def __repr__(self) -> str:
        return f"CompiledDAGFuture({self._dag.get_id()}, output={self._output})"
