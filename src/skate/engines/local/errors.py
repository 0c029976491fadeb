"""The errors that the hub itself raises, packed: who, where, what next."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from typing import Any

from skate import exceptions
from skate.core import ids
from skate.core.placement import describe
from skate.core.refs import TaskID
from skate.core.resources import as_floats
from skate.core.serialization import pack, unpack
from skate.engines.local.meters import in_words
from skate.engines.local.rows import Actor, Family, Node, Worker

NONE = pack(None).to_bytes()
SHOWN = 5
"""Nodes that a message lists."""


_SIGKILL = {
    True: " by the kernel, which ran out of memory; see memory= and num_cpus=",
    False: " (not by the kernel for want of memory)",
    None: " (the kernel's out-of-memory killer does that too; see memory= and num_cpus=)",
}
_CODES = {
    0: " (by os._exit or sys.exit: a task ends by returning)",
    70: " (a fault of the engine itself; its traceback is below)",
}


class ActorOutOfMemoryError(exceptions.ActorDiedError, exceptions.OutOfMemoryError):
    """The actor took memory that was not there, or more than it had asked for, and was ended.

    Ray raises OutOfMemoryError alone, which a program that expects actors to die does not catch.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


def packed(error: BaseException) -> bytes:
    """An error as a FAILED object's value."""
    return pack(error).to_bytes()


def cancelled(task: int, label: str) -> bytes:
    """A task that `cancel` ended."""
    return packed(exceptions.TaskCancelledError(TaskID(ids.task_binary(task)), f"It was a call of {label}."))


def how_it_ended(status: int, peak: int = 0, starved: bool | None = None) -> str:
    """A process's wait status in words, with the most memory that it had.

    `starved`: whether the kernel has ended processes for want of memory; None: not known.
    """
    had = f", with up to {in_words(peak)} of memory" if peak else ""
    return _status(status, starved) + had


def _status(status: int, starved: bool | None) -> str:
    if status < 0:
        number = -status
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        hint = ""
        if number == signal.SIGKILL:
            hint = _SIGKILL[starved]
        if number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
            hint = " (a crash in native code)"
        return f"killed by {name}{hint}"
    return f"exited with code {status}{_CODES.get(status, '')}"


def _last_words(worker: Worker) -> str:
    if not worker.tail:
        return ""
    return "\nThe last lines it wrote:\n" + "\n".join(f"  {line}" for line in worker.tail)


def crashed(label: str, worker: Worker, how: str, attempts: int) -> bytes:
    """A worker that died under a task."""
    tried = f" after {attempts + 1} attempts" if attempts else ""
    return packed(
        exceptions.WorkerCrashedError(
            f"The worker running {label} died{tried}: pid {worker.pid} {how}.{_last_words(worker)}"
        )
    )


def node_died(label: str, worker: Worker, attempts: int) -> bytes:
    """A task whose node was removed."""
    tried = f" after {attempts + 1} attempts" if attempts else ""
    return packed(exceptions.NodeDiedError(f"{label} did not end{tried}: {worker.node.death}.{_last_words(worker)}"))


def owner_died(key: int) -> bytes:
    """A value of `put` that went with the node on which it was put."""
    message = "It was put on a node that has been removed: nobody can make it again."
    return packed(exceptions.OwnerDiedError(ids.object_binary(key, 0).hex(), None, "", message=message))


def too_many_calls(actor: Actor) -> exceptions.PendingCallsLimitExceeded:
    """An actor whose queue is as long as it may be."""
    limit = actor.info.options.max_pending_calls
    return exceptions.PendingCallsLimitExceeded(
        f"The actor {name_of(actor)} has {actor.pending} calls waiting and max_pending_calls={limit}: get some results "
        f"before making more calls."
    )


def actor_died(actor: Actor, reason: str) -> bytes:
    """An actor that will not come back."""
    return packed(_with_actor(exceptions.ActorDiedError(reason), actor))


def unknown_actor(key: int) -> bytes:
    """A handle of an actor that has ended and been forgotten."""
    actor_id = ids.actor_binary(key).hex()
    error: Any = exceptions.ActorDiedError(f"The actor {actor_id} has ended, or belongs to a session that has.")
    error.actor_id = actor_id
    return packed(error)


def actor_unavailable(actor: Actor, reason: str) -> bytes:
    """An actor that is being restarted: the call in flight is lost, later ones will work."""
    actor_id = ids.actor_binary(actor.key)
    return packed(exceptions.ActorUnavailableError(reason, actor_id))


def actor_death(actor: Actor, worker: Worker | None, how: str) -> str:
    """How an actor's process ended, in words."""
    pid = f" (pid {worker.pid})" if worker is not None else ""
    words = _last_words(worker) if worker is not None else ""
    return f"The actor {name_of(actor)}{pid} died: {how.removesuffix('.')}.{words}"


def actor_lost(actor: Actor, worker: Worker, how: str) -> bytes:
    """An actor whose process is gone for good."""
    text = actor_death(actor, worker, how)
    if worker.doom is None:
        return actor_died(actor, text)
    return packed(_with_actor(ActorOutOfMemoryError(text), actor))


def out_of_memory(label: str, worker: Worker, why: str, attempts: int) -> bytes:
    """A task whose worker the memory monitor ended."""
    tried = f" after {attempts + 1} attempts" if attempts else ""
    return packed(
        exceptions.OutOfMemoryError(
            f"The worker running {label} was ended{tried}: pid {worker.pid} {why}{_last_words(worker)}"
        )
    )


def constructor_failed(actor: Actor, error: bytes) -> bytes:
    """An actor whose constructor raised: the error shows the constructor's traceback."""
    cause = unpack(error)
    if isinstance(cause, exceptions.RayTaskError):
        return packed(_with_actor(exceptions.ActorDiedError(cause), actor))
    text = f"The constructor of the actor {name_of(actor)} did not end well: {cause}"
    return packed(_with_actor(exceptions.ActorDiedError(text), actor))


def _with_actor(error: Any, actor: Actor) -> Any:
    error.actor_id = ids.actor_binary(actor.key).hex()
    return error


def name_of(actor: Actor) -> str:
    """``Class(id)`` or ``Class "name" (id)``."""
    options = actor.info.options
    actor_id = ids.actor_binary(actor.key).hex()
    return (
        f'{options.class_name} "{options.name}" ({actor_id})' if options.name else f"{options.class_name}({actor_id})"
    )


def infeasible(label: str, family: Family, nodes: Mapping[int, Node]) -> str:
    """A request that nothing here can ever meet."""
    asked = _amounts(family.least or family.need)
    wish = f" {describe(family.where)}" if family.where is not None else ""
    if not family.infeasible:
        return f"{label} asks for {asked}{wish} at once (_fail_on_unavailable), and there is no room now."
    there = [_amounts(sorted(node.total.items())) for node in nodes.values()]
    if len(there) > SHOWN:
        there[SHOWN:] = [f"{len(there) - SHOWN} nodes more"]
    return f"{label} can never run here: it asks for {asked}{wish}, and there is {', and '.join(there)}."


def _amounts(resources: Iterable[tuple[str, int]]) -> str:
    return "{" + ", ".join(f"{name}: {value:g}" for name, value in as_floats(resources).items()) + "}"


def unschedulable(label: str, family: Family, nodes: Mapping[int, Node]) -> bytes:
    """What a wait without end for such a request gets."""
    kind = exceptions.TaskUnschedulableError if family.least is None else exceptions.ActorUnschedulableError
    return packed(kind(infeasible(label, family, nodes)))


def no_room(label: str, family: Family, most: int, actors: list[str]) -> bytes:
    """What a wait for a call gets that finds all worker processes held by actors, which do nothing and stay."""
    kind = exceptions.TaskUnschedulableError if family.least is None else exceptions.ActorUnschedulableError
    names = ", ".join(actors[:SHOWN]) + (f" and {len(actors) - SHOWN} more" if len(actors) > SHOWN else "")
    text = (
        f"{label} needs a worker process, but there may be no more than {most} (max_workers={most}), and as things are "
        f"none ends: actors hold them ({names}). End one of them, or allow more."
    )
    return packed(kind(text))


def deadlock(circle: str, is_async: bool, more: str = "") -> bytes:
    """What the wait that closes a circle of waits gets; `more`: another remedy."""
    remedy = "In an async method, await the reference instead of calling get. " if is_async else ""
    return packed(
        exceptions.DeadlockError(
            f"This wait would never end: {circle}. {remedy}Return the reference and let the caller wait for it, or "
            f"make an actor of the circle async, or threaded with max_concurrency{more}."
        )
    )


def too_large(size: int, capacity: int) -> exceptions.ObjectStoreFullError:
    """A value that is larger than the store."""
    return exceptions.ObjectStoreFullError(
        f"No room for an object of {size:,} bytes: the store has {capacity:,} bytes. It can never fit: split it, or "
        "start with a larger object_store_memory."
    )


def disk_full(size: int, used: int, capacity: int, problem: str) -> exceptions.OutOfDiskError:
    """No room for a value in shared memory, nor on the disk that others would go to."""
    return exceptions.OutOfDiskError(
        f"No room for an object of {size:,} bytes: {used:,} of the store's {capacity:,} bytes are in use, and nothing "
        f"more can be spilled: {problem} Drop references to objects that are not needed, free some disk space, or "
        "start with a larger object_store_memory."
    )


def lost(key: int, reason: str) -> bytes:
    """An object whose value is gone and that cannot be made again; `reason` is one of Ray's."""
    return packed(exceptions.ObjectReconstructionFailedError(ids.object_binary(key, 0).hex(), reason))


def no_environment(why: str) -> bytes:
    """A runtime environment that could not be made."""
    return packed(exceptions.RuntimeEnvSetupError(why))


def no_zygote() -> bytes:
    """The process that forks workers is gone."""
    return packed(
        exceptions.RaySystemError(
            "The process that starts workers has died, and all workers with it: this session cannot go on. "
            "Call shutdown() and init() to start another."
        )
    )


def unknown_object(key: int) -> bytes:
    """A reference to an object that is not, or no longer, known to the session."""
    message = "The object is not known here: its session has ended, or it was freed."
    return packed(exceptions.ObjectLostError(ids.object_binary(key, 0).hex(), None, "", message=message))
