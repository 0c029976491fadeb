"""Joining a cluster: is anybody there; and Skate and what it needs, sent along to nodes that may not have it.

Ray's workers load pickles that name Skate's classes. A local instance finds them where the driver does; a cluster gets
them as ``py_modules`` of the job, unless SKATE_SHIP=0 says that they are installed there. The compiled module fits,
for Ray wants one version of Python on all nodes anyway.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

KNOCK = 5.0
"""Seconds for a connection; Ray itself would try for minutes."""
MODULES = ("skate", "msgspec", "cloudpickle")
OURS: set[str] = set()
"""Addresses of clusters that this process has started: their workers have its environment, and with it Skate."""


def with_skate(environment: dict[str, Any]) -> dict[str, Any]:
    """A job's runtime environment that brings Skate along, and what workers shall do first if `ray` is Skate here."""
    hook = next((hook for finder in sys.meta_path if (hook := getattr(finder, "worker_hook", ""))), "")
    if hook:
        given = environment.get("worker_process_setup_hook")
        environment = {**environment, "worker_process_setup_hook": _both(hook, given) if given else hook}
    if os.environ.get("SKATE_SHIP") == "0":
        return environment
    paths = [os.path.dirname(os.path.abspath(str(importlib.import_module(name).__file__))) for name in MODULES]
    return {**environment, "py_modules": [*environment.get("py_modules", ()), *paths]}


def _both(first: str, then: str | Callable[[], Any]) -> Callable[[], None]:
    """One setup hook for two."""

    def setup() -> None:
        from pkgutil import resolve_name

        resolve_name(first)()
        (resolve_name(then) if isinstance(then, str) else then)()

    return setup


def knock(address: str) -> None:
    """ConnectionError at once when nobody listens at ``host:port`` or ``ray://host:port``; other forms Ray resolves."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"There is no Ray cluster at {address!r} ({error}). Start one with `ray start --head`, or leave the "
            "address out for a local instance."
        ) from None
