"""The actor of a pool: runs chunks of calls, each with a result or an error of its own."""

from __future__ import annotations

import pickle
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

Call = tuple[tuple[Any, ...], dict[str, Any]]
Outcome = tuple[bool, Any]
"""Whether the call raised, and its result or what it raised."""
_KEPT = 8


class PoolActor:
    """One process of a pool."""

    def __init__(self, initializer: Callable[..., Any] | None = None, initargs: tuple[Any, ...] = ()) -> None:
        self._functions: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        """Those used last, by the number of their job."""
        if initializer is not None:
            initializer(*initargs)

    def ping(self) -> bool:
        """Whether it lives."""
        return True

    def run_batch(self, job: int, pickled: bytes, calls: list[Call]) -> list[Outcome]:
        """Run calls of one function one after another; one that raises does not keep the others from running."""
        function = self._functions.get(job)
        if function is None:
            function = self._functions[job] = pickle.loads(pickled)
            while len(self._functions) > _KEPT:
                self._functions.popitem(last=False)
        return [_outcome(function, args, kwargs) for args, kwargs in calls]


def _outcome(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
    try:
        return False, function(*(args or ()), **(kwargs or {}))
    except Exception as error:  # noqa: BLE001  whatever the call raises is the caller's
        text = traceback.format_exc()
        error.add_note(f"It was raised in a pool's process:\n{text}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception as why:  # noqa: BLE001  any class may fail to pickle in any way
            return True, RuntimeError(f"{text}\n(The exception itself could not be sent: {why})")
        return True, error
