"""Backends and operations of collective communication."""

from __future__ import annotations

from enum import Enum

__all__ = ["Backend", "ReduceOp"]


class Backend:
    """The names of backends; ``Backend("gloo")`` gives the one that a word stands for, or raises ValueError."""

    NCCL = "NCCL"
    GLOO = "GLOO"

    def __new__(cls, name: str) -> str:  # type: ignore[misc]  # as in Ray it makes plain strings
        upper = name.upper()
        if upper in ("GLOO", "TORCH_GLOO"):
            return cls.GLOO
        if upper == "NCCL":
            return cls.NCCL
        raise ValueError(f"Unrecognized backend: {name!r}. Only NCCL and GLOO are supported")


class ReduceOp(Enum):
    """How values of several processes become one."""

    SUM = 0
    PRODUCT = 1
    MIN = 2
    MAX = 3
