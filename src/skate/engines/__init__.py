"""The engines, by name. Each is imported only when it is started."""

from __future__ import annotations

from skate.core.engine import Engine
from skate.core.settings import Settings

NAMES = ("local", "inline", "ray")
DEFAULT = "local"


def start(name: str, settings: Settings) -> Engine:
    """Start the engine called `name`; ValueError for an unknown one."""
    if name not in NAMES:
        raise ValueError(f"There is no engine called {name!r}. Engines: {', '.join(NAMES)}.")
    if name == "ray":
        raise NotImplementedError("The engine 'ray' is not built yet: use engine='local' or engine='inline'.")
    if settings.address:
        if name == "inline":
            raise ConnectionError(
                f"address={settings.address!r}: the engine 'inline' lives in this program alone and attaches to none. "
                "Leave the address out, or use engine='local'."
            )
        from skate.engines.local.attached import attach

        return attach(settings)
    if name == "inline":
        from skate.engines.inline import InlineEngine

        return InlineEngine(settings)
    from skate.engines.local.boot import launch

    boot = launch(settings.object_store_memory)
    from skate.engines.local.engine import start as start_local

    return start_local(settings, boot)
