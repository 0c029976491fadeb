"""How much a session remembers of what has ended: Ray's settings where Ray has them, and some of our own.

`skate.core.system_config` tells where they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from skate.core.system_config import SystemConfig

_MOST = 10_000_000


class Keeping(msgspec.Struct, frozen=True):
    """What a session keeps for those who look in."""

    tasks: int = 10_000
    """Attempts of calls that have ended."""
    actors: int = 1_000
    """Actors that have ended and that nobody refers to any more."""
    workers: int = 1_000
    """Workers that have ended."""
    events: int = 1_000
    """Events: warnings, deaths, restarts and the like."""
    event_file: bool = False
    """Whether events are also written to a file of the session's folder, a JSON object in each line."""
    sites: bool = False
    """Whether to note the line of the program that makes each object."""
    log_bytes: int = 4 << 20
    """Bytes kept of what one worker writes to one of its outputs; 0: nothing is kept."""
    log_files: int = 512
    """Files of what workers have written; beyond that those written to longest ago are deleted."""


def keeping(config: Any, environment: Mapping[str, str]) -> Keeping:
    """What `init` was told to keep; ValueError for a number out of its range."""
    setting = SystemConfig(config, {name: _number(text) for name, text in environment.items()}).number

    def count(name: str, default: int, own: bool = False) -> int:
        return int(setting(name, 0, _MOST, default, own=own))

    return Keeping(
        tasks=count("task_events_max_num_task_in_gcs", 10_000),
        actors=count("maximum_gcs_destroyed_actor_cached_count", 1_000),
        workers=count("maximum_gcs_dead_worker_cached_count", 1_000),
        events=count("events_kept", 1_000, own=True),
        event_file=bool(setting("event_file", 0, 1, 0, own=True)),
        sites=bool(setting("record_ref_creation_sites", 0, 1, 0)),
        log_bytes=int(setting("log_bytes", 0, None, 4 << 20, own=True, unit="number of bytes")),
        log_files=count("log_files", 512, own=True),
    )


def _number(text: str) -> str:
    """Ray takes words for what is on or off."""
    return {"true": "1", "false": "0"}.get(text.lower(), text)
