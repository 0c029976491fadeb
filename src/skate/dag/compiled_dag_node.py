"""`CompiledDAG`: a graph that is run many times, by channels of shared memory from actor to actor."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from typing import Any, NamedTuple

from skate.api import kill
from skate.core import engine as engines
from skate.dag.async_results import AsyncResults, CompiledDAGFuture
from skate.dag.channel import ERROR, VALUE, Closed, Message
from skate.dag.context import DAGContext
from skate.dag.dag_node import DAGNode
from skate.dag.driver_end import DriverEnd
from skate.dag.in_process import PLAIN, InProcess
from skate.dag.plan import Plan, make_plan
from skate.dag.values import decode
from skate.exceptions import RayCgraphCapacityExceeded, RayChannelError, RayChannelTimeoutError, RayTaskError
from skate.experimental.compiled_dag_ref import CompiledDAGRef

__all__ = ["CompiledDAG"]

MOST_SLOTS = 16
"""A channel holds so many messages at most; a run that is further ahead waits for room."""
GROWS, LARGEST = 16, 64 << 20
"""How many times its first size a buffer may grow, and to how many bytes, unless it was larger from the start."""
_numbers = itertools.count(1)


class Settings(NamedTuple):
    """How a graph is compiled, with nothing left open. Times are in seconds, -1: any time."""

    submit_timeout: float
    get_timeout: float
    buffer_size: int
    asyncio: bool
    most_in_flight: int
    most_buffered: int

    @classmethod
    def from_arguments(
        cls,
        submit_timeout: float | None,
        buffer_size: int | None,
        enable_asyncio: bool,
        most_in_flight: int | None,
        most_buffered: int | None,
    ) -> Settings:
        """The arguments of `experimental_compile`, filled up from `DAGContext`; ValueError for sizes below 1."""
        context = DAGContext.get_current()

        def given(value: Any, default: Any) -> Any:
            return default if value is None else value

        made = cls(
            given(submit_timeout, context.submit_timeout),
            context.get_timeout,
            given(buffer_size, context.buffer_size_bytes),
            enable_asyncio,
            given(most_in_flight, context.max_inflight_executions),
            given(most_buffered, context.max_buffered_results),
        )
        for name in ("buffer_size", "most_in_flight", "most_buffered"):
            if getattr(made, name) < 1:
                raise ValueError(f"experimental_compile: {name} is {getattr(made, name)}, and must be 1 at least")
        return made


def compile_graph(output: DAGNode, settings: Settings) -> CompiledDAG:
    """The graph that ends in `output`, ready to run."""
    size = settings.buffer_size
    room = min(GROWS * size, max(size, LARGEST))
    plan = make_plan(output, min(settings.most_in_flight, MOST_SLOTS), room)
    end: Any = DriverEnd(plan)
    if not end.start():
        end = InProcess(output, plan)
    output.is_cgraph_output_node = True
    return CompiledDAG(plan, settings, end)


class CompiledDAG:
    """A compiled graph, made by ``node.experimental_compile()``.

    ``execute`` sends the input off and returns a reference, whose value `get` gives once. The actors go on
    answering other calls. The graph ends with `teardown`, when it is dropped, or when one of its actors dies.
    """

    def __init__(self, plan: Plan, settings: Settings, end: Any) -> None:
        self._id = f"{os.getpid():x}-{next(_numbers):x}"
        self._plan = plan
        self._settings = settings
        self._end = end
        self._submit, self._submit_now, self._fetch_soon = end.submit, end.submit_now, end.fetch_soon
        # What every call looks at, close at hand.
        self._positional, self._named, self._several = plan.positional, plan.named, plan.several
        self._outputs = len(plan.results[1])
        self._submit_timeout, self._most_in_flight = settings.submit_timeout, settings.most_in_flight
        self._reading = end.reading
        self._submitting = threading.Lock()
        self._submitted = 0
        self._finished = 0
        """Runs whose results have been taken from the channels, or by whom they were for."""
        self._results: dict[int, dict[int, Message]] = {}
        """Taken from the channels and not asked for yet: by run, by output."""
        self._dropped: deque[tuple[int, int]] = deque()
        """Results that nobody will ask for; noted here by destructors, which may come at any moment."""
        self._unwanted: dict[int, set[int]] = {}
        """The same, sorted: outputs by run."""
        self._torn_down = False
        self._async: AsyncResults | None = AsyncResults(end) if settings.asyncio else None

    def get_id(self) -> str:
        """Names the graph in this program."""
        return self._id

    @property
    def is_teardown(self) -> bool:
        """Whether `teardown` was called."""
        return self._torn_down

    def __repr__(self) -> str:
        return f"CompiledDAG({self._id})"

    # ------------------------------------------------------------------- running it

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Send the input off; returns a reference, or a list of them for a graph that ends in a `MultiOutputNode`.

        Raises:
            ValueError: other arguments than the graph's `InputNode` was taken apart into; the graph is for asyncio.
            TypeError: an argument cannot be pickled.
            RayCgraphCapacityExceeded: as many runs are under way as there may be.
            RayChannelTimeoutError: there was no room within the time for submitting.
            RayChannelError, RayActorError: the graph has ended, or an actor of it has died.
        """
        if self._async is not None:
            raise ValueError("This graph was compiled with enable_asyncio=True: await execute_async(...).")
        if self._torn_down or kwargs or len(args) != self._positional or self._named:
            self._check(args, kwargs)
        with self._submitting:
            if self._submitted - self._finished >= self._most_in_flight:
                self._make_room()
            try:
                if kwargs or self._named or not self._submit_now(args[0]):
                    timeout = self._submit_timeout
                    self._submit(args, kwargs, time.monotonic() + timeout if timeout >= 0 else None)
            except Closed:
                raise self._why_closed() from None
            self._submitted = run = self._submitted + 1
        if self._several:
            return [CompiledDAGRef(self, run, output) for output in range(self._outputs)]
        return CompiledDAGRef(self, run, 0)

    async def execute_async(self, *args: Any, **kwargs: Any) -> Any:
        """Send the input off; returns what to await for the result, or a list of such.

        The graph was compiled with ``enable_asyncio=True``. Raises as `execute` does.
        """
        if self._async is None:
            raise ValueError("This graph was compiled without enable_asyncio=True: call execute(...).")
        self._check(args, kwargs)
        if self._async.in_flight() >= self._most_in_flight:
            raise self._too_many()
        deadline = self._deadline(self._submit_timeout)
        try:
            futures = await self._async.submit(args, kwargs, deadline, self._submitting, self._plan.results[1])
        except Closed:
            raise self._why_closed() from None
        made = [CompiledDAGFuture(self, future) for future in futures]
        return made if self._plan.several else made[0]

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._torn_down:
            raise RayChannelError("The compiled graph was torn down.")
        plan = self._plan
        if len(args) != plan.positional:
            raise ValueError(f"The graph takes {plan.positional} arguments by position, not {len(args)}.")
        if kwargs.keys() != plan.named:
            missing = ", ".join(sorted(plan.named - kwargs.keys()))
            if missing:
                raise ValueError(f"The graph takes arguments by name that were not given: {missing}.")

    def _deadline(self, timeout: float) -> float | None:
        return None if timeout < 0 else time.monotonic() + timeout

    def _too_many(self) -> RayCgraphCapacityExceeded:
        most = self._most_in_flight
        return RayCgraphCapacityExceeded(
            f"{most} executions of the graph are under way, and there may be no more: take a result, or compile it "
            "with a larger _max_inflight_executions."
        )

    def _make_room(self) -> None:
        """Take results that have come and that nobody wants; RayCgraphCapacityExceeded if there are none."""
        if not self._reading.acquire(False):
            raise self._too_many()  # another thread waits for results
        try:
            self._sort_out()
            while self._submitted - self._finished >= self._most_in_flight:
                outputs = self._unwanted.get(self._finished + 1, ())
                if len(outputs) < self._outputs or not self._end.arrived():
                    raise self._too_many()
                self._take_next(None)
        finally:
            self._reading.release()

    # ---------------------------------------------------------------------- results

    def _result(self, run: int, output: int, timeout: float | None) -> Any:
        """The value of an output; raises the error that stands for it."""
        reading = self._reading
        if timeout is None:
            timeout = self._settings.get_timeout
        if not reading.acquire(False) and not reading.acquire(timeout=timeout if timeout >= 0 else -1):
            raise self._late()
        try:
            if self._dropped:
                self._sort_out()
            message = None
            if self._finished == run - 1 and self._outputs == 1 and not self._torn_down:
                message = self._fetch_soon()
            if message is not None:
                self._finished = run
                kind, data = message
            else:
                deadline = time.monotonic() + timeout if timeout >= 0 else None
                while self._finished < run:
                    self._take_next(deadline)
                messages = self._results[run]
                kind, data = messages.pop(output)
                if not messages:
                    del self._results[run]
        except Closed:
            raise self._why_closed() from None
        except RayChannelTimeoutError:
            raise self._late() from None
        finally:
            reading.release()
        return value_of(kind, data)

    def _has_taken(self, run: int, output: int) -> bool:
        """Whether an error of a result is its own, not that it was late."""
        return self._finished >= run and output not in self._results.get(run, ())

    def _async_value(self, kind: int, data: Any) -> Any:
        if not kind:
            raise self._why_closed()
        return value_of(kind, data)

    def _take_next(self, deadline: float | None) -> None:
        """Take the results of one more run from the channels."""
        if self._torn_down:
            raise Closed("The compiled graph was torn down.")
        if len(self._results) >= self._settings.most_buffered:
            raise RayCgraphCapacityExceeded(
                f"{len(self._results)} results of the graph wait to be asked for, and there may be no more: get them, "
                "or compile it with a larger _max_buffered_results."
            )
        messages = self._end.fetch(deadline)
        self._finished += 1
        wanted = {output: messages[place] for output, place in enumerate(self._plan.results[1])}
        for output in self._unwanted.pop(self._finished, ()):
            del wanted[output]
        if wanted:
            self._results[self._finished] = wanted

    def _sort_out(self) -> None:
        """Forget what was dropped; for who has the lock of reading."""
        while self._dropped:
            run, output = self._dropped.popleft()
            if run > self._finished:
                self._unwanted.setdefault(run, set()).add(output)
            elif run in self._results:
                self._results[run].pop(output, None)
                if not self._results[run]:
                    del self._results[run]

    def _late(self) -> RayChannelTimeoutError:
        return RayChannelTimeoutError(
            "The result of a compiled graph was not there in time. If it takes longer than "
            f"{self._settings.get_timeout} s, give get(timeout=), or set RAY_CGRAPH_get_timeout."
        )

    def _why_closed(self) -> Exception:
        error: Exception = self._end.why_closed()
        return error

    # ---------------------------------------------------------------------- the end

    def teardown(self, kill_actors: bool = False) -> None:
        """End the graph; the actors live on, and have done with it when this returns.

        Args:
            kill_actors: end the actors too.

        Waits for a method that runs, as long as `DAGContext.teardown_timeout` says. Results that were not taken yet
        are lost. Harmless the second time.
        """
        if not self._torn_down:
            self._torn_down = True
            self._end.close()
            self._end.wait_for_actors(DAGContext.get_current().teardown_timeout)
            self._end.release()
        if kill_actors and engines.running() is not None:
            for actor in self._plan.actors:
                kill(actor)

    def __del__(self) -> None:
        end = self.__dict__.get("_end")
        if end is not None and not self._torn_down:
            end.close()  # without waiting: this may be any thread, at any moment
            end.release()


def value_of(kind: int, data: Any) -> Any:
    """The value that a message holds; raises the error, if it holds one."""
    if kind == VALUE:
        return decode(data)
    if kind == PLAIN:
        return data
    error = decode(data) if kind == ERROR else data
    raise error.as_instanceof_cause() if isinstance(error, RayTaskError) else error
