"""Which package and engine the suite runs on; read from the environment once."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

PACKAGE = os.environ.get("CONTRACT_PACKAGE", "skate")
ENGINE = "ray" if PACKAGE == "ray" else os.environ.get("SKATE_ENGINE", "local")

if ENGINE == "ray":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# What every session starts with; a case file adds to it with a module-level INIT.
SESSION: dict[str, object] = {
    "num_cpus": 2,
    "include_dashboard": False,
    "log_to_driver": False,
    "object_store_memory": 200 * 1024 * 1024,
}


def package() -> ModuleType:
    """The package under test."""
    return importlib.import_module(PACKAGE)
