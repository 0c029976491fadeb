"""How values travel in compiled graphs: hints that nodes carry."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["ChannelOutputType", "type_hint_of"]

_TRANSPORTS = ("auto", "nccl", "shm", "accelerator")
_DEVICES = ("default", "cpu", "gpu", "cuda")


class ChannelOutputType(NamedTuple):
    """How what a node gives travels; without words about it: through shared memory."""

    transport: str = "shm"
    device: str = "default"

    def requires_accelerator(self) -> bool:
        """Whether it is to go from GPU to GPU."""
        return self.transport in ("nccl", "accelerator")


def type_hint_of(transport: Any, device: str) -> ChannelOutputType:
    """The hint for these words; ValueError for one that is not known."""
    if device not in _DEVICES:
        raise ValueError(f"Invalid device {device!r}. It is one of {', '.join(map(repr, _DEVICES))}.")
    if transport not in _TRANSPORTS:
        raise ValueError(f"Invalid transport type {transport!r}. It is one of {', '.join(map(repr, _TRANSPORTS))}.")
    return ChannelOutputType("shm" if transport == "auto" else transport, device)
