"""Collective communication between actors: `allreduce`, `broadcast`, `send` and others, on arrays of NumPy."""

try:
    from skate.util.collective.collective import (
        allgather,
        allreduce,
        barrier,
        broadcast,
        create_collective_group,
        destroy_collective_group,
        get_collective_group_size,
        get_group_handle,
        get_rank,
        gloo_available,
        init_collective_group,
        is_backend_available,
        is_group_initialized,
        nccl_available,
        recv,
        reduce,
        reducescatter,
        send,
        synchronize,
    )
except ModuleNotFoundError as error:
    text = f"skate.util.collective needs NumPy: pip install 'skate-ray[numpy]' ({error})"
    raise ModuleNotFoundError(text, name=error.name) from error

__all__ = [
    "allgather",
    "allreduce",
    "barrier",
    "broadcast",
    "create_collective_group",
    "destroy_collective_group",
    "get_collective_group_size",
    "get_group_handle",
    "get_rank",
    "gloo_available",
    "init_collective_group",
    "is_backend_available",
    "is_group_initialized",
    "nccl_available",
    "recv",
    "reduce",
    "reducescatter",
    "send",
    "synchronize",
]
