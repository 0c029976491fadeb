"""Standing hubs: sessions with a process of their own, which programs attach to with ``init(address=...)``.

The commands `skate start`, `skate status` and `skate stop` are made of these functions; docs/standing.md shows them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from skate.core.init_arguments import capacity
from skate.core.memory_rules import memory_rules
from skate.core.settings import Settings, spilling
from skate.engines.local import standing as hubs
from skate.engines.local.dial import Session, look_at
from skate.engines.local.standing import GONE_WITHIN, AlreadyRunning
from skate.engines.local.visit import Visit

__all__ = ["AlreadyRunning", "Hub", "find", "running", "start", "status", "stop"]


class Hub(NamedTuple):
    """A standing hub."""

    name: str
    """What it is called; empty for the one without a name."""
    pid: int
    folder: str
    """Its session's folder; ``init(address=folder)`` attaches."""
    since: float
    """When it was started, in seconds since 1970."""

    @property
    def address(self) -> str:
        """For ``init(address=...)``."""
        return f"unix:{self.folder}"


def start(
    name: str = "",
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    object_store_memory: int | None = None,
    ends_with_us: bool = False,
) -> Hub:
    """Start a standing hub; programs can attach when this returns.

    Args:
        name: for the address, where there are several; letters, digits, ``-``, ``_`` and ``.``.
        num_cpus, num_gpus, resources, labels, object_store_memory: as for `skate.init`.
        ends_with_us: whether it ends when this process does. Otherwise `stop` ends it.

    Raises:
        AlreadyRunning: one of that name runs.
        RuntimeError: it did not come up; the text says why.
        TypeError, ValueError: a wrong argument.
    """
    if not isinstance(name, str):
        raise TypeError(f"The name of a hub is a string, not {type(name).__name__}: {name!r}")
    if name in ("auto", "local") or not all(letter.isalnum() or letter in "-_." for letter in name):
        raise ValueError(f"A hub cannot be called {name!r}: use letters, digits, '-', '_' and '.'.")
    own = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": resources,
        "labels": labels,
        "object_store_memory": object_store_memory,
    }
    settings = Settings(
        **capacity(own, None, None),
        namespace="standing",
        memory=memory_rules(None, os.environ),
        name=name,
        **spilling(None, None, os.environ),
    )
    return _hub(hubs.start(settings, bound=ends_with_us))


def running() -> list[Hub]:
    """The standing hubs of this user, the newest first."""
    return [_hub(session) for session in hubs.running()]


def find(name: str = "") -> Hub | None:
    """The standing hub of that name; None when there is none."""
    return next((hub for hub in running() if hub.name == name), None)


def stop(hub: Hub, *, force: bool = False, timeout: float = GONE_WITHIN) -> None:
    """End a standing hub, and return when all of its processes are gone; harmless when it has ended.

    Drivers that are attached go on, without a session. Submitted jobs get SIGTERM, and SIGKILL after 3 seconds; with
    `force` everything is killed at once. Raises TimeoutError when something is left after `timeout` seconds.
    """
    hubs.end(Session(hub.folder, hub.since, True, hub.name, hub.pid), force=force, patience=timeout)


def status(address: str = "auto") -> dict[str, Any]:
    """What a session is doing: ``name``, ``pid``, ``folder``, ``seconds`` up, ``total`` and ``free`` resources, and
    the rows of ``nodes``, ``actors``, ``workers`` and ``jobs``.

    Raises ConnectionError when there is none at `address`.
    """
    with Visit(address) as visit:
        kinds = ("nodes", "actors", "workers", "jobs")
        found: dict[str, Any] = {kind: [_plain(row) for row in visit.ask("state", kind)] for kind in kinds}
        total, free = visit.ask("resources")
    session = look_at(visit.folder)
    pid, since = (session.pid, session.begun) if session is not None else (0, time.time())
    return {
        "name": visit.name,
        "pid": pid,
        "folder": visit.folder,
        "seconds": max(0.0, time.time() - since),
        "total": total,
        "free": free,
        **found,
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row without packed values, which only their maker can read."""
    return {name: value for name, value in row.items() if not isinstance(value, bytes)}


def _hub(session: Session) -> Hub:
    return Hub(session.name, session.pid, session.folder, session.begun)
