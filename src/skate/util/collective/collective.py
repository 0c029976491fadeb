"""Collective communication between actors and tasks: all of them call the same, and get a common result.

The backend GLOO is Skate's own: arrays in the memory of the CPU, passed through shared memory, with an actor as the
place to meet. NCCL, for GPUs, is not there.
"""

from __future__ import annotations

import threading
from typing import Any, NoReturn

from skate.api import get, get_actor, remote
from skate.core import engine as engines
from skate.core.ids import actor_binary
from skate.util.collective.group import Group
from skate.util.collective.rendezvous import Rendezvous
from skate.util.collective.types import Backend, ReduceOp

_NAMESPACE = "_skate_collective"
_lock = threading.Lock()
_groups: dict[str, Group] = {}
"""Those that this process is a member of."""


def nccl_available() -> bool:
    """False: there is no NCCL here."""
    return False


def gloo_available() -> bool:
    """True: it needs NumPy alone."""
    return True


def is_backend_available(backend: str) -> bool:
    """Whether a group can be made with it."""
    return backend.upper() in ("GLOO", "TORCH_GLOO")


def is_group_initialized(group_name: str) -> bool:
    """Whether this process is a member of the group."""
    return group_name in _groups


def init_collective_group(
    world_size: int,
    rank: int,
    backend: str = Backend.NCCL,
    group_name: str = "default",
    gloo_timeout: int = 30000,
) -> None:
    """Become a member of a group; called in each of its actors or tasks.

    Args:
        world_size: how many members it has.
        rank: which of them this is, from 0.
        backend: "gloo".
        group_name: the same in all members.
        gloo_timeout: milliseconds after which an operation fails that not all members have come to.

    Raises RuntimeError in a driver, for a backend that is not there, and when this process is a member already;
    ValueError for an empty name or an unknown backend; AssertionError for a rank that is not in 0..world_size-1.
    """
    _check_inside()
    _check_backend(backend)
    if not group_name:
        raise ValueError("A collective group needs a name that is not empty.")
    with _lock:
        if group_name in _groups:
            raise RuntimeError(f"This process is a member of the collective group {group_name!r} already.")
        if not 0 <= rank < world_size:
            raise AssertionError(f"rank {rank} of a collective group of {world_size}")
        _groups[group_name] = Group(group_name, _meeting(group_name), world_size, rank, gloo_timeout / 1000)


def create_collective_group(
    actors: list[Any],
    world_size: int,
    ranks: list[int],
    backend: str = Backend.NCCL,
    group_name: str = "default",
    gloo_timeout: int = 30000,
) -> None:
    """Make actors the members of a group, from the driver: they need not call `init_collective_group`.

    Args:
        actors: the members.
        world_size: how many there are.
        ranks: the rank of each.
        backend, group_name, gloo_timeout: as in `init_collective_group`.

    Raises RuntimeError when the group exists, when numbers do not fit, or the backend is not there.
    """
    _check_backend(backend)
    if len(actors) != len(ranks):
        raise RuntimeError(f"Each actor has one rank: there are {len(actors)} actors, and {len(ranks)} ranks.")
    if sorted(ranks) != list(range(world_size)):
        raise RuntimeError(f"The ranks of {world_size} members are 0 to {world_size - 1}, each once, not {ranks}.")
    meeting = _meeting(group_name)
    if get(meeting.get_info.remote()):
        raise RuntimeError(f"The collective group {group_name!r} exists already.")
    members = {actor._actor_id.hex(): rank for actor, rank in zip(actors, ranks, strict=True)}
    get(meeting.set_info.remote({"members": members, "size": world_size, "timeout": gloo_timeout / 1000}))


def destroy_collective_group(group_name: str = "default") -> None:
    """Leave the group; harmless when this process is no member."""
    _check_inside()
    with _lock:
        group = _groups.pop(group_name, None)
    if group is not None:
        group.destroy()


def get_rank(group_name: str = "default") -> int:
    """The rank of this process; -1 if it is no member."""
    _check_inside()
    return _groups[group_name].rank if group_name in _groups else -1


def get_collective_group_size(group_name: str = "default") -> int:
    """How many members the group has; -1 if this process is none of them."""
    _check_inside()
    return _groups[group_name].world_size if group_name in _groups else -1


def allreduce(tensor: Any, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """Each member's array becomes the sum (or as `op` says) of those of all, in place.

    Here and below, arrays are of NumPy, or CPU tensors of PyTorch, of the same shape in all members. RuntimeError when
    not all of them come within the group's timeout.
    """
    get_group_handle(group_name).allreduce(tensor, op)


def reduce(tensor: Any, dst_rank: int = 0, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """`allreduce`, with the result in the member `dst_rank` alone."""
    group = get_group_handle(group_name)
    _check_rank(group, dst_rank)
    group.reduce(tensor, dst_rank, op)


def broadcast(tensor: Any, src_rank: int = 0, group_name: str = "default") -> None:
    """Each member's array becomes that of the member `src_rank`, in place."""
    group = get_group_handle(group_name)
    _check_rank(group, src_rank)
    group.broadcast(tensor, src_rank)


def allgather(tensor_list: list[Any], tensor: Any, group_name: str = "default") -> None:
    """The arrays of `tensor_list`, one for each member, become the members' `tensor`."""
    group = get_group_handle(group_name)
    _check_list(group, tensor_list)
    group.allgather(tensor_list, tensor)


def reducescatter(
    tensor: Any, tensor_list: list[Any], group_name: str = "default", op: ReduceOp = ReduceOp.SUM
) -> None:
    """`tensor` becomes the sum (or as `op` says) of all members' ``tensor_list[rank]``, with this member's rank."""
    group = get_group_handle(group_name)
    _check_list(group, tensor_list)
    group.reducescatter(tensor, tensor_list, op)


def barrier(group_name: str = "default") -> None:
    """Return when all members have come here."""
    get_group_handle(group_name).barrier()


def send(tensor: Any, dst_rank: int, group_name: str = "default") -> None:
    """Send an array to another member, which calls `recv`; RuntimeError for this one itself."""
    group = get_group_handle(group_name)
    _check_rank(group, dst_rank, other=True)
    group.send(tensor, dst_rank)


def recv(tensor: Any, src_rank: int, group_name: str = "default") -> None:
    """Fill an array with what another member sent; RuntimeError for this one itself."""
    group = get_group_handle(group_name)
    _check_rank(group, src_rank, other=True)
    group.recv(tensor, src_rank)


def synchronize(gpu_id: int) -> NoReturn:
    """Raises RuntimeError: there is no NCCL here."""
    raise RuntimeError(f"synchronize({gpu_id}) is for GPUs, and there is no NCCL here.")


def get_group_handle(group_name: str = "default") -> Group:
    """This process's part in the group; RuntimeError if it has none."""
    _check_inside()
    with _lock:
        group = _groups.get(group_name)
        if group is None:
            group = _groups[group_name] = _declared(group_name)
    return group


def _declared(group_name: str) -> Group:
    """The part that `create_collective_group` gave to this actor."""
    actor = engines.current().context().actor
    try:
        meeting = get_actor(f"info_{group_name}", _NAMESPACE)
    except ValueError:
        meeting = None
    info = get(meeting.get_info.remote()) if meeting is not None and actor is not None else {}
    rank = info["members"].get(actor_binary(actor.actor).hex()) if info and actor is not None else None
    if rank is None:
        raise RuntimeError(
            f"This process is no member of the collective group {group_name!r}: call init_collective_group here, or "
            "create_collective_group in the driver."
        )
    return Group(group_name, meeting, info["size"], rank, info["timeout"])


def _meeting(group_name: str) -> Any:
    made: Any = remote(Rendezvous)
    options = {"name": f"info_{group_name}", "namespace": _NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    return made.options(num_cpus=0, **options).remote()


def _check_inside() -> None:
    engine = engines.running()
    if engine is None or engine.context().driver:
        raise RuntimeError("Collective calls are made by actors and tasks, not by the driver.")


def _check_backend(backend: str) -> None:
    if Backend(backend) != Backend.GLOO:
        raise RuntimeError('The backend NCCL is not available here: give backend="gloo", for arrays of the CPU.')


def _check_rank(group: Group, rank: int, other: bool = False) -> None:
    if not 0 <= rank < group.world_size:
        raise ValueError(f"rank {rank} of a collective group of {group.world_size}")
    if other and rank == group.rank:
        raise RuntimeError(f"The member {rank} sends to itself, or receives from itself.")


def _check_list(group: Group, tensors: list[Any]) -> None:
    if not isinstance(tensors, list):
        raise RuntimeError(f"A list of arrays is needed, not a {type(tensors).__name__}.")
    if len(tensors) != group.world_size:
        raise RuntimeError(f"{len(tensors)} arrays for the {group.world_size} members of {group.name!r}.")
