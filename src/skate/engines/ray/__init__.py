"""The engine that hands everything to a real Ray: verbs, options and errors are translated, and nothing is added.

References and handles hold Ray's own, so Ray counts them, finds them inside values, and waits for them as arguments.
Functions and classes travel as the user wrote them. A worker process of Ray in which such code uses Skate gets this
engine by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skate.core.ray_cluster import MISSING
from skate.core.settings import Settings

if TYPE_CHECKING:
    from skate.engines.ray.engine import RayEngine


def start(settings: Settings) -> RayEngine:
    """Start Ray, or join the cluster at ``settings.address``; ImportError when Ray is not installed."""
    try:
        import ray
    except ImportError as missing:
        raise ImportError(MISSING) from missing
    if getattr(ray, "ANSWERED_BY_SKATE", False):
        raise RuntimeError(
            "The engine 'ray' needs Ray itself, but `import ray` is answered by Skate in this process. Choose the "
            "engine from outside, with SKATE_ENGINE=ray or in the configuration: then `ray` is left alone."
        )
    from skate.engines.ray.engine import RayEngine

    return RayEngine(settings)
