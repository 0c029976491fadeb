"""One process's part in a group, and the operations on arrays in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skate.api import get, kill, put
from skate.exceptions import GetTimeoutError, RayError
from skate.util.collective.types import ReduceOp

SMALL = 16 * 1024
"""Arrays of fewer bytes travel within messages; others are stored, and only references to them travel."""

_REDUCE: dict[ReduceOp, Callable[..., Any]] = {
    ReduceOp.SUM: np.add,
    ReduceOp.PRODUCT: np.multiply,
    ReduceOp.MIN: np.minimum,
    ReduceOp.MAX: np.maximum,
}


class Group:
    """A member of a group: its rank, and how many there are. `timeout` is in seconds, for each operation."""

    def __init__(self, name: str, meeting: Any, world_size: int, rank: int, timeout: float) -> None:
        self.name = name
        self.world_size = world_size
        self.rank = rank
        self._meeting = meeting
        self._timeout = timeout
        self._round = 0
        self._sent: dict[tuple[int, int], int] = {}

    def exchange(self, payload: Any) -> list[Any]:
        """What all members brought to this round; all of them make the same calls in the same order."""
        self._round += 1
        return list(self._wait(self._meeting.exchange.remote(self._round, self.rank, self.world_size, payload)))

    def _wait(self, ref: Any) -> Any:
        try:
            return get(ref, timeout=self._timeout)
        except GetTimeoutError:
            raise RuntimeError(
                f"The collective group {self.name!r} waited {self._timeout} s for its other members: did all of them "
                "make the same call?"
            ) from None

    def allreduce(self, tensor: Any, op: ReduceOp) -> None:
        """Each member's `tensor` becomes what all of them make together."""
        target = writable(tensor)
        _fill(target, _reduced([unwrap(item) for item in self.exchange(wrap(target))], op))

    def reduce(self, tensor: Any, root: int, op: ReduceOp) -> None:
        """The same in the member `root` alone."""
        target = writable(tensor)
        brought = self.exchange(wrap(target))
        if self.rank == root:
            _fill(target, _reduced([unwrap(item) for item in brought], op))

    def broadcast(self, tensor: Any, root: int) -> None:
        """`tensor` becomes the one of `root`."""
        target = writable(tensor)
        brought = self.exchange(wrap(target) if self.rank == root else None)
        if self.rank != root:
            _fill(target, unwrap(brought[root]))

    def allgather(self, tensors: Sequence[Any], tensor: Any) -> None:
        """`tensors` become those of all members."""
        targets = [writable(item) for item in tensors]
        for target, item in zip(targets, self.exchange(wrap(as_array(tensor))), strict=True):
            _fill(target, unwrap(item))

    def reducescatter(self, tensor: Any, tensors: Sequence[Any], op: ReduceOp) -> None:
        """`tensor` becomes what the items of all members' `tensors` make that have this member's rank."""
        target = writable(tensor)
        brought = self.exchange([wrap(as_array(item)) for item in tensors])
        _fill(target, _reduced([unwrap(items[self.rank]) for items in brought], op))

    def barrier(self) -> None:
        """Return when all members have come here."""
        self.exchange(None)

    def send(self, tensor: Any, to: int) -> None:
        """Leave `tensor` for another member."""
        self._wait(self._meeting.post.remote(self._next(self.rank, to), wrap(as_array(tensor))))

    def recv(self, tensor: Any, source: int) -> None:
        """`tensor` becomes what another member sent."""
        target = writable(tensor)
        _fill(target, unwrap(self._wait(self._meeting.take.remote(self._next(source, self.rank)))))

    def _next(self, source: int, to: int) -> tuple[int, int, int]:
        number = self._sent[source, to] = self._sent.get((source, to), 0) + 1
        return source, to, number

    def destroy(self) -> None:
        """Leave; the last one ends the meeting."""
        try:
            if get(self._meeting.leave.remote(self.rank, self.world_size), timeout=self._timeout):
                kill(self._meeting)
        except RayError:
            return  # it has ended already


def as_array(tensor: Any) -> np.ndarray[Any, Any]:
    """A tensor in the memory of the CPU as an array on the same memory; TypeError for anything else."""
    if isinstance(tensor, np.ndarray):
        return tensor
    if hasattr(tensor, "detach") and hasattr(tensor, "numpy"):  # PyTorch's, which need not be installed
        array: np.ndarray[Any, Any] = tensor.detach().numpy()
        return array
    raise TypeError(f"Collective calls take NumPy arrays and CPU tensors of PyTorch, not a {type(tensor).__name__}.")


def writable(tensor: Any) -> np.ndarray[Any, Any]:
    """The same for one that will be written to; ValueError when it is read-only."""
    array = as_array(tensor)
    if not array.flags.writeable:
        raise ValueError("The array is read-only, as those that come out of get() are: pass array.copy().")
    return array


def wrap(array: np.ndarray[Any, Any]) -> Any:
    """What travels for an array: itself, or a list with a reference."""
    return array if array.nbytes < SMALL else [put(array)]


def unwrap(payload: Any) -> Any:
    """The array."""
    return get(payload[0]) if isinstance(payload, list) else payload


def _reduced(arrays: Sequence[np.ndarray[Any, Any]], op: ReduceOp) -> np.ndarray[Any, Any]:
    operation = _REDUCE[op]
    result = arrays[0].copy()
    for array in arrays[1:]:
        operation(result, array, out=result)
    return result


def _fill(target: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> None:
    if target.shape != value.shape:
        raise RuntimeError(f"The members' arrays differ in shape: {target.shape} here, {value.shape} elsewhere.")
    target[...] = value
