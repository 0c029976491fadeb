"""Which event loop an actor of serve gets: uvloop where it is installed."""

from __future__ import annotations

import asyncio
import os
from typing import Any


class FastLoop:
    """An argument of an actor's constructor that has the actor's process use uvloop.

    An actor's arguments are unpacked in its process ahead of its event loop, so that is where the choice is made. Where
    actors live in the program's own process nothing is changed.
    """

    def __init__(self, pid: int = 0) -> None:
        self.pid = pid or os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.pid,)


def _arrived(pid: int) -> FastLoop:
    if pid != os.getpid():
        use_uvloop()
    return FastLoop(pid)


def use_uvloop() -> bool:
    """Have event loops that are made from now on in this process be uvloop's; False where it is not installed."""
    try:
        import uvloop
    except ImportError:
        return False
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    return True
