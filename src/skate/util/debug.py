"""`log_once`: say something the first time only."""

from __future__ import annotations

import time

__all__ = ["disable_log_once_globally", "enable_periodic_logging", "log_once", "reset_log_once"]

PERIOD = 60.0
"""Seconds after which periodic logging begins anew."""
_seen: set[str] = set()
_disabled = False
_periodic = False
_since = 0.0


def log_once(key: str) -> bool:
    """True the first time that this process asks for `key`, then False.

    ``if log_once("slow-path"): logger.warning(...)``
    """
    global _since
    if _disabled:
        return False
    now = time.monotonic()
    if _periodic and now - _since > PERIOD:
        _seen.clear()
    if key in _seen:
        return False
    _seen.add(key)
    _since = now
    return True


def disable_log_once_globally() -> None:
    """Have `log_once` return False in this process from now on."""
    global _disabled
    _disabled = True


def enable_periodic_logging() -> None:
    """Have `log_once` forget its keys when a minute has passed since the last new one."""
    global _periodic
    _periodic = True


def reset_log_once(key: str | None = None) -> None:
    """Forget `key`, or all keys."""
    if key is None:
        _seen.clear()
    else:
        _seen.discard(key)
