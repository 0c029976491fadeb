"""Ray's own command line, which starts and ends its clusters: `skate start`, `skate up` and others hand over to it.

Nothing here imports Ray: the program `ray` is found, and takes this process's place.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Mapping
from typing import NoReturn

from skate.core.config import load as load_config
from skate.core.ray_cluster import MISSING, knock

__all__ = ["LauncherMissing", "address", "chosen", "environment", "find", "knock", "program"]

_SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compat", "site")


class LauncherMissing(ImportError):
    """Ray is not installed."""


def chosen(engine: str | None = None) -> bool:
    """Whether clusters are Ray's: by `engine`, else by SKATE_ENGINE, else by the configuration.

    Raises ConfigError for an unknown setting in a file or in the environment.
    """
    return (engine or os.environ.get("SKATE_ENGINE") or load_config().chosen_engine) == "ray"


def address() -> str:
    """The cluster that is configured (``[engine] address``); empty: none."""
    return load_config().engine.address or ""


def find() -> str:
    """The path of the program `ray`: the one of this Python, else the first on the PATH.

    Raises LauncherMissing where there is none; the text names the extra to install.
    """
    beside = os.path.join(sysconfig.get_path("scripts"), "ray")
    found = beside if os.access(beside, os.X_OK) else shutil.which("ray")
    if found is None:
        raise LauncherMissing(MISSING)
    return found


def program(*words: str) -> Callable[[], NoReturn]:
    """A function that turns this process into ``ray WORDS...``; LauncherMissing at once where there is no Ray."""
    path = find()

    def run() -> NoReturn:
        os.execve(path, ["ray", *words], environment(os.environ))

    return run


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Variables for Ray's own programs: without the directory from which ``import ray`` would give Skate."""
    kept = dict(given)
    path = [entry for entry in kept.pop("PYTHONPATH", "").split(os.pathsep) if entry and entry != _SITE]
    if path:
        kept["PYTHONPATH"] = os.pathsep.join(path)
    return kept
