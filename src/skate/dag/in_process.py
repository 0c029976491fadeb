"""A compiled graph whose actors live in the process that runs it: its calls are made plainly, without channels."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from skate.api import get
from skate.dag.channel import Closed
from skate.dag.dag_node import DAGNode
from skate.dag.plan import Plan
from skate.exceptions import GetTimeoutError, RayChannelError, RayChannelTimeoutError, RayError

PLAIN, RAISED = 8, 9
"""Kinds of results: a value as it is, an error as it is."""


class InProcess:
    """Does for such a graph what `DriverEnd` does for others."""

    def __init__(self, output: DAGNode, plan: Plan) -> None:
        self.output = output
        self.plan = plan
        self.reading = threading.Lock()
        self._coming: deque[Any] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def has_room(self) -> bool:
        """There always is."""
        return True

    def submit(self, args: tuple[Any, ...], kwargs: dict[str, Any], deadline: float | None) -> None:
        """Make the calls of one run."""
        made = self.output.execute(*args, **kwargs)
        with self._changed:
            self._coming.append(made if self.plan.several else [made])
            self._changed.notify()

    def submit_now(self, value: Any) -> bool:
        """False: `submit` does it."""
        return False

    def fetch_soon(self) -> None:
        """None: `fetch` does it."""

    def fetch(self, deadline: float | None) -> list[tuple[int, Any]]:
        """The results of the next run, one for each channel that there would be."""
        with self._changed:
            while not self._coming:
                if self._closed:
                    raise Closed("The compiled graph has ended.")
                self._changed.wait()
        refs = self._coming[0]
        places, messages = self.plan.results[1], {}
        for ref, place in zip(refs, places, strict=True):
            timeout = None if deadline is None else max(0, deadline - time.monotonic())
            try:
                messages[place] = (PLAIN, get(ref, timeout=timeout))
            except GetTimeoutError:
                raise RayChannelTimeoutError("A call of the graph took too long.") from None
            except RayError as error:
                messages[place] = (RAISED, error)
        self._coming.popleft()
        return [messages[place] for place in range(len(messages))]

    def arrived(self) -> bool:
        """Whether the next run has its results."""
        return bool(self._coming)

    def why_closed(self) -> RayError:
        """What to raise once it has ended."""
        return RayChannelError("The compiled graph was torn down.")

    def close(self) -> None:
        """End the graph."""
        with self._changed:
            self._closed = True
            self._coming.clear()
            self._changed.notify()

    def wait_for_actors(self, seconds: float) -> None:
        """Nothing runs when nobody calls."""

    def release(self) -> None:
        """Nothing is held."""
