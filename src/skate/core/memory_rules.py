"""When a session acts against a shortage of memory: Ray's settings of its monitor, and two of our own.

Our own are ``SKATE_ENFORCE_MEMORY`` and ``SKATE_MEMORY_LIMIT``; `skate.core.system_config` tells where all are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from skate.core.system_config import SystemConfig


class MemoryRules(msgspec.Struct, frozen=True):
    """The rules of a session's memory monitor."""

    refresh_ms: int = 250
    """Milliseconds between two looks while something runs; 0: no monitor."""
    threshold: float = 0.95
    """The share of memory above which workers are ended."""
    min_free: int = -1
    """Bytes that may be free before `threshold` matters: of the two the one that leaves less; -1: not set."""
    oom_retries: int = -1
    """How often a task that the monitor ended is tried again besides its `max_retries`; -1: without limit."""
    retry_delay_ms: int = 1000
    """Milliseconds before the first such try; doubled each time, up to a minute."""
    limit: int = 0
    """Bytes that all processes of the session and its shared memory may take together; 0: the machine's memory."""
    enforce: bool = False
    """End a worker that takes more than the ``memory=`` of the call that it runs."""

    def bound(self, total: int) -> int:
        """The bytes in use, of `total`, above which the monitor acts."""
        bound = int(total * self.threshold)
        return max(bound, total - self.min_free) if self.min_free >= 0 else bound


def memory_rules(config: Any, environment: Mapping[str, str]) -> MemoryRules:
    """The rules that `init` was given; ValueError for a value that is none."""
    setting = SystemConfig(config, environment).number
    rules = MemoryRules(
        refresh_ms=int(setting("memory_monitor_refresh_ms", 0, None, 250)),
        threshold=setting("memory_usage_threshold", 0, 1, 0.95),
        min_free=int(setting("min_memory_free_bytes", -1, None, -1)),
        oom_retries=int(setting("task_oom_retries", -1, None, -1)),
        retry_delay_ms=int(setting("task_oom_retry_delay_base_ms", 0, None, 1000)),
        limit=int(setting("memory_limit", 0, None, 0, own=True)),
        enforce=bool(setting("enforce_memory", 0, 1, 0, own=True)),
    )
    if rules.enforce and not rules.refresh_ms:
        raise ValueError("enforce_memory needs the memory monitor, which memory_monitor_refresh_ms=0 turns off.")
    return rules
