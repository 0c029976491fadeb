"""`DAGContext`: what compiled graphs use where a call of `experimental_compile` does not say."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DAGContext"]


def _from_environment(name: str, kind: Callable[[str], float], default: float) -> Any:
    def read() -> float:
        text = os.environ.get(f"RAY_CGRAPH_{name}")
        return default if text is None else kind(text)

    return field(default_factory=read)


def _whole(text: str) -> int:
    return int(float(text))


@dataclass
class DAGContext:
    """Settings of compiled graphs in this process; each can be given as an environment variable too.

    ``DAGContext.get_current().buffer_size_bytes = 500`` holds for graphs that are compiled afterwards; so does
    ``RAY_CGRAPH_buffer_size_bytes=500`` before the first of them.
    """

    submit_timeout: int = _from_environment("submit_timeout", _whole, 10)
    """Seconds that ``execute`` waits for room; -1: any time."""
    get_timeout: int = _from_environment("get_timeout", _whole, 10)
    """Seconds that ``get`` waits for a result, if it is not told; -1: any time."""
    teardown_timeout: int = _from_environment("teardown_timeout", _whole, 30)
    """Seconds that ``teardown`` waits for the actors to stop."""
    read_iteration_timeout: float = _from_environment("read_iteration_timeout_s", float, 0.1)
    """Has no effect: who waits is woken, and need not look from time to time."""
    buffer_size_bytes: int = _from_environment("buffer_size_bytes", _whole, 1_000_000)
    """What a channel's buffers are meant for, in bytes. They grow to what a message needs, up to 16 times that and
    64 MB; larger messages go in several pieces."""
    max_inflight_executions: int = _from_environment("max_inflight_executions", _whole, 10)
    """How many executions of a graph may be under way."""
    max_buffered_results: int = _from_environment("max_buffered_results", _whole, 1000)
    """How many results of a graph are kept that were not asked for yet."""
    overlap_gpu_communication: bool = False
    """Has no effect."""

    def __post_init__(self) -> None:
        if self.read_iteration_timeout > self.get_timeout >= 0:
            raise ValueError(
                f"read_iteration_timeout ({self.read_iteration_timeout} s) is longer than get_timeout "
                f"({self.get_timeout} s)"
            )

    @staticmethod
    def get_current() -> DAGContext:
        """The settings of this process."""
        global _current
        with _lock:
            if _current is None:
                _current = DAGContext()
            return _current


_current: DAGContext | None = None
_lock = threading.Lock()
