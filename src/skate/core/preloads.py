"""Modules of ours that worker processes shall find imported, because what forks them has imported them once for all."""

from __future__ import annotations

modules: list[str] = []
"""In the order in which they were asked for, each once."""


def preload(*names: str) -> None:
    """Have workers that are started from now on find these modules imported.

    It holds for the session that runs, or else for the next. The modules must start no threads when they are imported:
    a fork would not have those. Without effect where workers are not forked, or are by another program's session.
    """
    modules.extend(name for name in names if name not in modules)
