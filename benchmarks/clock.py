"""The one way in which every contestant times its operations."""

from __future__ import annotations

import time
from collections.abc import Callable

SAMPLE_SECONDS = 0.5  # one sample repeats its operation for at least this long


def per_operation(operation: Callable[[], object], operations: int = 1, at_least: int = 3) -> float:
    """Seconds per operation of one sample; one call of `operation` does `operations` of them."""
    now = time.perf_counter
    calls = 0
    start = now()
    while True:
        operation()
        calls += 1
        passed = now() - start
        if passed >= SAMPLE_SECONDS and calls >= at_least:
            return passed / (calls * operations)
