"""What a session is started with, checked already."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from skate.core.keeping import Keeping
from skate.core.memory_rules import MemoryRules
from skate.core.nodes import NodeSpec
from skate.core.system_config import SystemConfig


class Settings(msgspec.Struct, frozen=True):
    """The arguments of ``init`` that an engine acts on."""

    num_cpus: float | None = None
    """None: as many as the machine has."""
    num_gpus: float | None = None
    """None: none; for the engines that share them out, `skate.core.gpus` has counted them by then."""
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    node_memory: int | None = None
    """Bytes that the resource ``memory`` of the driver's node has; None: 70 % of the machine's."""
    nodes: tuple[NodeSpec, ...] = ()
    """Virtual nodes besides the driver's own."""
    max_workers: int | None = None
    """The most worker processes that there may be at a time; None: as many as calls need."""
    object_store_memory: int | None = None
    """Bytes; None: the engine's choice."""
    spill_folder: str = ""
    """Where objects go that do not fit; empty: the system's place for temporary files."""
    spill_limit: int | None = None
    """Bytes that they may take there; None: as much as the disk allows."""
    disk_full: float = 0.95
    """Part of that disk in use at which nothing more is written."""
    namespace: str = ""
    """Never empty when an engine sees it: a fresh one if none was given."""
    environment: str = ""
    """The job's runtime environment as JSON; empty: none."""
    log_to_driver: bool = True
    memory: MemoryRules = MemoryRules()
    """When to act against a shortage of memory."""
    keeping: Keeping = Keeping()
    """What to remember of what has ended."""
    address: str = ""
    """The cluster to join; empty: start a session of our own."""
    folder: str = ""
    """The session's folder; it exists as long as the session."""
    looks_in: bool = False
    """To join it as somebody who only looks, not as a job."""
    apart: bool = False
    """The hub is to have a process of its own, which ends with this one."""
    alone: bool = False
    """The session is to have a process of its own; no driver lives in it."""
    name: str = ""
    """What such a session is called."""
    others: dict[str, Any] = {}
    """Arguments of ``init`` that mean something to Ray alone."""


def spilling(system_config: Any, temp_dir: Any, environ: Mapping[str, str]) -> dict[str, Any]:
    """The `Settings` of spilling, from Ray's ``_system_config`` and ``_temp_dir`` and from SKATE_SPILL_*.

    `skate.core.system_config` tells where its numbers are read.

    Raises ValueError or TypeError for what is no directory, no number of bytes, or a kind of storage that is not there.
    """
    config = _mapping("_system_config", system_config)
    storage = config.get("object_spilling_config") or {}
    if isinstance(storage, str):
        storage = json.loads(storage)
    storage = _mapping("object_spilling_config", storage)
    if storage.get("type", "filesystem") != "filesystem":
        raise ValueError(f"object_spilling_config: type {storage['type']!r} is not built; there is 'filesystem'.")
    folder = _mapping("params", storage.get("params")).get("directory_path") or temp_dir
    if isinstance(folder, list):
        folder = folder[0] if folder else None
    folder = folder or environ.get("SKATE_SPILL_DIRECTORY") or ""
    if folder:
        os.makedirs(folder, exist_ok=True)
    setting = SystemConfig(config, environ).number
    limit = setting("spill_limit", 0, None, -1, own=True, unit="number of bytes")
    return {
        "spill_folder": str(folder),
        "spill_limit": None if limit < 0 else int(limit),
        "disk_full": setting("local_fs_capacity_threshold", 0, 1, 0.95),
    }


def most_workers(given: Any, environ: Mapping[str, str]) -> int | None:
    """``init(max_workers=...)``, or SKATE_MAX_WORKERS; TypeError or ValueError for what is no whole number above 0."""
    text = environ.get("SKATE_MAX_WORKERS")
    if given is None and text:
        if not text.isdigit() or not int(text):
            raise ValueError(f"SKATE_MAX_WORKERS={text}: must be a whole number, 1 or more")
        return int(text)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"init(max_workers=...) must be a whole number, not {type(given).__name__}: {given!r}")
    if given < 1:
        raise ValueError(f"init(max_workers={given}): must be 1 or more")
    return given


def _mapping(name: str, given: Any) -> Mapping[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"init: {name} must be a dict, not {type(given).__name__}: {given!r}")
    return given or {}
