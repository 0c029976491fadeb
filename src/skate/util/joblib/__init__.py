"""joblib on actors: ``register_ray()``, then ``with joblib.parallel_backend("ray"): ...``."""

from __future__ import annotations

__all__ = ["register_ray"]


def register_ray() -> None:
    """Make "ray" the name of a backend of joblib; ImportError when joblib is not installed."""
    try:
        from joblib.parallel import register_parallel_backend
    except ImportError as error:
        raise ImportError("register_ray needs joblib: pip install 'skate-ray[joblib]'") from error
    from skate.util.joblib.ray_backend import RayBackend

    register_parallel_backend("ray", RayBackend)
