"""What a session is started with, checked already."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True):
    """The arguments of ``init`` that an engine acts on."""

    num_cpus: float | None = None
    """None: as many as the machine has."""
    num_gpus: float | None = None
    """None: none."""
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    object_store_memory: int | None = None
    """Bytes; None: the engine's choice."""
    namespace: str = ""
    """Never empty when an engine sees it: a fresh one if none was given."""
    environment: str = ""
    """The job's runtime environment as JSON; empty: none."""
    log_to_driver: bool = True
    address: str = ""
    """The cluster to join; empty: start a session of our own."""
