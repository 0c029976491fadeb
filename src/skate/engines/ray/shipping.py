"""Joining a cluster: Skate and what it needs, sent along to nodes that may not have it.

Ray's workers load pickles that name Skate's classes. A local instance finds them where the driver does; a cluster gets
them as ``py_modules`` of the job, unless SKATE_SHIP=0 says that they are installed there. The compiled module fits,
for Ray wants one version of Python on all nodes anyway.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

import ray

from skate._version import __version__

MODULES = ("skate", "msgspec", "cloudpickle")
OURS: set[str] = set()
"""Addresses of clusters that this process has started: their workers have its environment, and with it Skate."""
DRIVERS = "SKATE_DRIVER_VERSION"
"""Tells workers, in their environment, which Skate the driver has."""
ANSWER = 60.0
"""Seconds for a worker to tell its version; a cluster that is so busy is not asked again."""


def ships() -> bool:
    """Whether Skate is sent along."""
    return os.environ.get("SKATE_SHIP") != "0"


def with_skate(environment: dict[str, Any]) -> dict[str, Any]:
    """A job's runtime environment that brings Skate along, or else tells workers which one the driver has; and what
    workers shall do first if `ray` is Skate here.
    """
    hook = next((hook for finder in sys.meta_path if (hook := getattr(finder, "worker_hook", ""))), "")
    if hook:
        given = environment.get("worker_process_setup_hook")
        environment = {**environment, "worker_process_setup_hook": _both(hook, given) if given else hook}
    if not ships():
        return {**environment, "env_vars": {**environment.get("env_vars", {}), DRIVERS: __version__}}
    paths = [os.path.dirname(os.path.abspath(str(importlib.import_module(name).__file__))) for name in MODULES]
    return {**environment, "py_modules": [*environment.get("py_modules", ()), *paths]}


def _both(first: str, then: str | Callable[[], Any]) -> Callable[[], None]:
    """One setup hook for two."""

    def setup() -> None:
        from pkgutil import resolve_name

        resolve_name(first)()
        (resolve_name(then) if isinstance(then, str) else then)()

    return setup


def check_worker() -> None:
    """RuntimeError in a worker that has another Skate than the driver."""
    _compare(os.environ.get(DRIVERS, __version__), __version__)


def check_cluster() -> None:
    """RuntimeError when workers have another Skate than this driver, or none: one of them is asked."""
    asked = ray.remote(num_cpus=0, max_retries=0)(pkgutil.resolve_name).remote("skate._version:__version__")
    try:
        found = ray.get(asked, timeout=ANSWER)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(asked)  # whoever gets a worker first will say it
        return
    except ImportError:
        found = ""
    _compare(__version__, found)


def _compare(drivers: str, workers: str) -> None:
    if drivers != workers:
        there = f"have Skate {workers}" if workers else "have no Skate"
        raise RuntimeError(
            f"The workers of this cluster {there}, the driver has Skate {drivers}. Leave SKATE_SHIP out, and the "
            f"driver's is sent along; or install skate-ray=={drivers} on all nodes."
        )
