"""The training that a worker takes part in, as xgboost-ray and lightgbm-ray ask for it."""

from __future__ import annotations

__all__ = ["get_session"]


def get_session() -> None:
    """None: no process of Skate's is part of a training of Ray's own library."""
