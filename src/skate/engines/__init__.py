"""The engines, by name. Each is imported only when it is started."""

from __future__ import annotations

import sys

from skate.core.engine import Engine
from skate.core.settings import Settings

NAMES = ("local", "inline", "ray")
DEFAULT = "local"


def hosted() -> bool:
    """Whether this process is one of Ray's: a worker, or the one that acts for a driver that came by ``ray://``."""
    worker = sys.modules.get("ray._private.worker")
    if worker is None or getattr(sys.modules.get("ray"), "ANSWERED_BY_SKATE", False):
        return False
    if "ray.util.client.server.server" in sys.modules:  # what it unpickles for the driver names this engine's classes
        return bool(worker.global_worker.connected)
    return bool(worker.global_worker.mode == worker.WORKER_MODE)


def chosen(named: str | None) -> str:
    """The engine of this process: Ray in a worker of Ray's; else the one that was named, or the default."""
    return "ray" if hosted() else named or DEFAULT


def start(name: str, settings: Settings) -> Engine:
    """Start the engine called `name`; ValueError for an unknown one."""
    if name not in NAMES:
        raise ValueError(f"There is no engine called {name!r}. Engines: {', '.join(NAMES)}.")
    if name == "ray":
        from skate.engines.ray import start as start_ray

        return start_ray(settings)
    if settings.address:
        if name == "inline":
            raise ConnectionError(
                f"address={settings.address!r}: the engine 'inline' lives in this program alone and attaches to none. "
                "Leave the address out, or use engine='local'."
            )
        from skate.engines.local.attached import AttachedEngine, attach

        return attach(settings, AttachedEngine)
    if name == "inline":
        from skate.engines.inline import InlineEngine

        return InlineEngine(settings)
    if settings.apart:
        from skate.engines.local.standing import start_apart

        return start_apart(settings)
    from skate.engines.local.boot import launch

    boot = launch(settings.object_store_memory)
    from skate.engines.local.engine import start as start_local

    return start_local(settings, boot)
