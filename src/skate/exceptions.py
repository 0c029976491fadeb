"""Every error that Skate raises on purpose: the names, bases and arguments of `ray.exceptions`.

The tree (a name in brackets is a second base, so that plain Python handlers catch it too)::

    RayError
     ├─ RayTaskError                      user code raised; see below
     ├─ UserCodeException
     ├─ UnserializableException           an error arrived that could not be unpickled
     ├─ CrossLanguageError
     ├─ TaskCancelledError
     ├─ GetTimeoutError                   (TimeoutError)
     ├─ PlasmaObjectNotAvailable
     ├─ AsyncioActorExit
     ├─ WorkerCrashedError                the process died under a task
     ├─ OutOfMemoryError
     ├─ OutOfDiskError
     ├─ NodeDiedError
     ├─ LocalRayletDiedError
     ├─ RayActorError                     .actor_id, .error_msg
     │   ├─ ActorDiedError                for good, also when its constructor raised
     │   └─ ActorUnavailableError         for now
     ├─ ActorAlreadyExistsError           (ValueError)
     ├─ ActorHandleNotFoundError          (ValueError)
     ├─ PendingCallsLimitExceeded
     ├─ TaskUnschedulableError
     ├─ ActorUnschedulableError
     ├─ DeadlockError                     of Skate alone: Ray waits for ever
     ├─ TaskPlacementGroupRemoved
     ├─ ActorPlacementGroupRemoved
     ├─ RuntimeEnvSetupError
     ├─ ObjectStoreFullError
     ├─ ObjectLostError                   .object_ref_hex
     │   ├─ ObjectFetchTimedOutError
     │   ├─ ReferenceCountingAssertionError (AssertionError)
     │   ├─ ObjectFreedError
     │   ├─ OwnerDiedError
     │   └─ ObjectReconstructionFailedError
     ├─ ObjectRefStreamEndOfStreamError
     ├─ OufOfBandObjectRefSerializationException   (the spelling is Ray's)
     ├─ AuthenticationError
     ├─ RpcError
     └─ RaySystemError
         ├─ StreamingGeneratorReplayInconsistentError
         ├─ RayCgraphCapacityExceeded
         ├─ RayDirectTransportError
         └─ RayChannelError
             └─ RayChannelTimeoutError    (TimeoutError)

What user code raises reaches the caller as an instance of both `RayTaskError` and the class of
what was raised, so `except KeyError` and `except RayTaskError` both work. Every error survives
pickling with its message and attributes; no `__init__` runs when it is read back.
"""

from __future__ import annotations

import os
import types
import weakref
from typing import Any, ClassVar, SupportsIndex

from skate.core.rebuild import blank, fields_of, fill, group_of, recipe


class RayError(Exception):
    """The root of all of them. Takes any message; `str()` gives it, or the class's own sentence."""

    _unsaid: ClassVar[str] = ""

    def __str__(self) -> str:
        return super().__str__() or self._unsaid

    def __reduce__(self) -> tuple[Any, ...]:
        return recipe(self)

    def to_bytes(self) -> bytes:
        """This error, and its text in case it cannot be unpickled where it arrives."""
        import pickle
        import traceback

        text = "".join(traceback.format_exception(self))
        return pickle.dumps((pickle.dumps(self), text))

    @staticmethod
    def from_bytes(data: bytes) -> RayError:
        """What `to_bytes` wrote; `UnserializableException` with its text where that fails."""
        import pickle

        inner, text = pickle.loads(data)
        try:
            error = pickle.loads(inner)
        except Exception:  # noqa: BLE001  unpickling runs foreign code, which may raise anything
            return UnserializableException(text)
        return error if isinstance(error, RayError) else UnserializableException(text)


# ---- errors of user code -------------------------------------------------------------------------


class RayTaskError(RayError):
    """A task or a method raised.

    Args:
        function_name: what was running, as `module.function` or `Class.method`.
        traceback_str: its formatted traceback.
        cause: what it raised; of an inner task's error, the inner task's cause is taken.
        proctitle: how to call the process in the text; default: `function_name`.
        pid: of the process; default: this one.
        ip: of its node.
        actor_repr: `repr()` of the actor, if it was one.
        actor_id: hex id of the actor, if it was one.
    """

    cause: BaseException

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.proctitle = proctitle or function_name
        self.pid = pid or os.getpid()
        self.ip = ip or "127.0.0.1"
        self.actor_repr = actor_repr
        self._actor_id = actor_id
        self.args = (function_name, traceback_str, cause, proctitle, pid, ip)

    def as_instanceof_cause(self) -> RayTaskError:
        """This error as an instance of the cause's class as well.

        Attributes of the cause are reached on it directly; `.cause` is the cause itself. Where the
        cause's class allows no subclass (or this is an instance of it already), it is this error.
        """
        if isinstance(self, type(self.cause)):
            return self
        try:
            return self.make_dual_exception_instance()
        except Exception as why:  # noqa: BLE001  the class's own hooks run here (metaclass, __init_subclass__)
            import logging

            logging.getLogger(__name__).warning(
                "%s raised %s, a class that allows no subclass: it is raised here as RayTaskError "
                "alone, and the original is its .cause (%s: %s)",
                self.function_name, type(self.cause).__qualname__, type(why).__name__, why,
            )  # fmt: skip
            return self

    def make_dual_exception_instance(self) -> RayTaskError:
        """As `as_instanceof_cause`, but raises, mostly TypeError, where no subclass is allowed."""
        cause = self.cause
        dual = _dual_class(type(cause))
        error: RayTaskError = blank(dual, (cause,), group_of(cause))
        # The cause's names win: a user's `e.pid` is the user's. `cause` itself is ours, as in Ray.
        ours = {name: value for name, value in vars(self).items() if not hasattr(cause, name)}
        vars(error).update(ours, **vars(cause))
        vars(error).update(cause=cause, _task_error=self)
        fill(error, fields_of(cause))
        return error

    def __str__(self) -> str:
        where = f"pid={self.pid}, ip={self.ip}"
        if self.actor_repr:
            where += f", actor_id={self._actor_id}, repr={self.actor_repr}"
        body = self.traceback_str.strip("\n").removeprefix("Traceback (most recent call last):\n")
        return f"{self.proctitle}() ({where})\n{body}"


class _Dual(RayTaskError):
    """What all `RayTaskError(<cause's class>)` classes share. They are never called: see above."""

    _task_error: RayTaskError

    @property
    def args(self) -> tuple[Any, ...]:
        # Not BaseException's: the cause's class may define `args` as it likes.
        return (self.cause,)

    @args.setter
    def args(self, given: Any) -> None:
        """A subclass that another package makes sets it, as Ray 2.53 does when errors cross two tasks: no effect."""

    def as_instanceof_cause(self) -> RayTaskError:
        return self

    def __getattr__(self, name: str) -> Any:
        if name in (
            "cause",
            "_task_error",
        ):  # not filled in yet: do not look for them on themselves
            raise AttributeError(name)
        return getattr(self.cause, name)

    def __str__(self) -> str:
        return str(self._task_error)

    def __reduce__(self) -> tuple[Any, ...]:
        return RayTaskError.as_instanceof_cause, (self._task_error,)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return self.__reduce__()  # ahead of a __reduce_ex__ of the cause's class


# By id, because a metaclass may make classes unhashable. An entry's class is a subclass of the one
# that the id names, so the id is not reused while the entry lives.
_dual_classes: weakref.WeakValueDictionary[int, type] = weakref.WeakValueDictionary()


def _dual_class(cause_class: type) -> type:
    dual = _dual_classes.get(id(cause_class))
    if dual is None:
        name = f"RayTaskError({cause_class.__name__})"
        names = {"__module__": __name__, "__qualname__": name}
        dual = types.new_class(name, (_Dual, cause_class), exec_body=lambda body: body.update(names))
        _dual_classes[id(cause_class)] = dual
    return dual


class UserCodeException(RayError):
    """Wraps what a user's function raised inside a library's task."""


class UnserializableException(RayError):
    """An error came back that could not be unpickled here; its text is kept."""

    def __init__(self, original_stack_trace: str) -> None:
        self._original_stack_trace = original_stack_trace

    def __str__(self) -> str:
        return (
            "The error that came back could not be unpickled in this process: give its class a "
            f"__reduce__ that rebuilds it. It said:\n{self._original_stack_trace}"
        )


class CrossLanguageError(RayError):
    """Code in another language raised. Takes a text or what has a `formatted_exception_string`."""

    def __init__(self, ray_exception: Any) -> None:
        text = getattr(ray_exception, "formatted_exception_string", ray_exception)
        super().__init__(f"Code in another language raised:\n{text}")


# ---- processes, nodes, cancelling ----------------------------------------------------------------


class TaskCancelledError(RayError):
    """The task was cancelled.

    Args:
        task_id: of the task that `cancel` named.
        error_message: why, or by whom.
    """

    def __init__(self, task_id: Any = None, error_message: str | None = None) -> None:
        self.task_id = task_id
        self.error_message = error_message

    def __str__(self) -> str:
        what = f"Task {self.task_id} was cancelled." if self.task_id else "The task was cancelled."
        return f"{what} {self.error_message}" if self.error_message else what


class GetTimeoutError(RayError, TimeoutError):
    """`get` waited as long as it was told to."""

    _unsaid = "The value was not ready within the timeout of get()."


class PlasmaObjectNotAvailable(RayError):
    """An object was not there within the time given."""

    _unsaid = "The object was not available in time."


class AsyncioActorExit(RayError):
    """Ends an async actor from within: what `exit_actor()` raises there."""

    _unsaid = "The actor ends itself by exit_actor()."


class WorkerCrashedError(RayError):
    """The worker process ended while it ran this task; the message says which and how."""

    _unsaid = "The worker process ended unexpectedly while it ran this task."


class OutOfMemoryError(RayError):
    """Work was ended because the machine ran out of memory."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __str__(self) -> str:
        return self.message


class OutOfDiskError(RayError):
    """The object store is full, and so is the disk that it spills to."""

    _unsaid = "The object store is full and the disk that it spills to is full too: free some disk space."


class NodeDiedError(RayError):
    """A node is dead or cannot be reached."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __str__(self) -> str:
        return self.message


class LocalRayletDiedError(RayError):
    """What manages this node's workers is gone."""

    _unsaid = "The process that manages this node's workers ended."


# ---- actors --------------------------------------------------------------------------------------


class RayActorError(RayError):
    """An actor did not finish a call.

    Args:
        actor_id: hex id of the actor.
        error_msg: the whole text.
        actor_init_failed: whether its constructor raised.
        preempted: whether its node was taken away.
    """

    BASE_ERROR_MSG = "The actor failed before it finished this call."

    def __init__(
        self,
        actor_id: str | None = None,
        error_msg: str = BASE_ERROR_MSG,
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        self.actor_id = actor_id
        self.error_msg = error_msg
        self._actor_init_failed = actor_init_failed
        self._preempted = preempted

    def __str__(self) -> str:
        return self.error_msg

    @property
    def preempted(self) -> bool:
        """Whether the actor's node was taken away."""
        return self._preempted

    @property
    def actor_init_failed(self) -> bool:
        """Whether its constructor raised."""
        return self._actor_init_failed


class ActorDiedError(RayActorError):
    """The actor is dead and will not come back.

    Args:
        cause: what its constructor raised (its traceback is then part of the text), or the text
            itself: class, pid, what ended it, what to do.
        actor_id: hex id of the actor; default: that of `cause`.
        preempted: whether its node was taken away.
    """

    BASE_ERROR_MSG = "The actor died before it finished this call."

    def __init__(
        self,
        cause: RayTaskError | str | None = None,
        *,
        actor_id: str | None = None,
        preempted: bool = False,
    ) -> None:
        text = cause or self.BASE_ERROR_MSG
        if isinstance(cause, RayTaskError):
            text = f"The actor died because its constructor raised:\n{cause}"
            actor_id = actor_id or cause._actor_id
        super().__init__(actor_id, str(text), isinstance(cause, RayTaskError), preempted)

    @staticmethod
    def from_task_error(task_error: RayTaskError) -> ActorDiedError:
        """The death of an actor whose constructor raised."""
        return ActorDiedError(task_error)


class ActorUnavailableError(RayActorError):
    """The actor cannot be reached now, but may come back; whether the call ran is not known."""

    def __init__(self, error_message: str, actor_id: bytes | str | None = None) -> None:
        name = actor_id.hex() if isinstance(actor_id, bytes) else actor_id
        super().__init__(
            name,
            f"Actor {name} cannot be reached now: {error_message}. The call may or may not have been carried out.",
        )


class ActorAlreadyExistsError(ValueError, RayError):
    """The name is taken by another actor in this namespace."""

    def __init__(self, error_message: str) -> None:
        super().__init__(error_message)
        self.error_message = error_message

    def __str__(self) -> str:
        return self.error_message


class ActorHandleNotFoundError(ValueError, RayError):
    """The handle names no actor of this session; it may come from before a `shutdown`."""

    def __init__(self, error_message: str) -> None:
        super().__init__(error_message)
        self.error_message = error_message

    def __str__(self) -> str:
        return self.error_message


class PendingCallsLimitExceeded(RayError):
    """More calls wait for the actor than its `max_pending_calls` allows."""

    _unsaid = "More calls wait for this actor than its max_pending_calls allows: await some first."


# ---- scheduling and environments -----------------------------------------------------------------


class TaskUnschedulableError(RayError):
    """No node can ever run the task."""

    def __init__(self, error_message: str) -> None:
        self.error_message = error_message

    def __str__(self) -> str:
        return f"The task cannot be scheduled: {self.error_message}"


class ActorUnschedulableError(RayError):
    """No node can ever host the actor."""

    def __init__(self, error_message: str) -> None:
        self.error_message = error_message

    def __str__(self) -> str:
        return f"The actor cannot be scheduled: {self.error_message}"


class DeadlockError(RayError):
    """A wait would never end, because what it waits for waits for it. Not in Ray, which goes on waiting."""

    _unsaid = "This wait would never end: what it waits for waits for the caller."


class TaskPlacementGroupRemoved(RayError):
    """The task waited for a placement group that was removed."""

    _unsaid = "The placement group that this task was to run in was removed."


class ActorPlacementGroupRemoved(RayError):
    """The actor's placement group was removed."""

    _unsaid = "The placement group that this actor was to run in was removed."


class RuntimeEnvSetupError(RayError):
    """The runtime environment could not be made."""

    def __init__(self, error_message: str | None = None) -> None:
        self.error_message = error_message

    def __str__(self) -> str:
        said = f": {self.error_message}" if self.error_message else "."
        return f"The runtime environment could not be set up{said}"


# ---- objects -------------------------------------------------------------------------------------


class ObjectStoreFullError(RayError):
    """There is no room for the object."""

    _unsaid = (
        "The object store is full of objects still referred to: drop references, or give init() a "
        "larger object_store_memory."
    )


class ObjectLostError(RayError):
    """No copy of the object is left.

    Args:
        object_ref_hex: hex id of the object.
        owner_address: of the process that made it.
        call_site: the line that made it, where known.
        message: what happened, instead of the class's own sentence.
    """

    _unsaid = "Every copy was lost with the node or process that held it."

    def __init__(
        self,
        object_ref_hex: str,
        owner_address: Any = None,
        call_site: str = "",
        *,
        message: str | None = None,
    ) -> None:
        self.object_ref_hex = object_ref_hex
        self.owner_address = owner_address
        self.call_site = call_site
        self._message = message

    def __str__(self) -> str:
        made = f" (made at {self.call_site})" if self.call_site else ""
        return f"Object {self.object_ref_hex}{made} cannot be read. {self._message or self._unsaid}"


class ObjectFetchTimedOutError(ObjectLostError):
    """Nobody was found who holds the object."""

    _unsaid = "It was looked for in vain: no place is known that holds it."


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was deleted while a reference to it was left: a fault of the engine."""

    _unsaid = "It was deleted while a reference to it was left; please report this."


class ObjectFreedError(ObjectLostError):
    """The program freed the object."""

    _unsaid = "The program freed it by hand."


class OwnerDiedError(ObjectLostError):
    """The process that made the object has ended."""

    _unsaid = "The process that made it, by .remote() or put(), has ended."


class ObjectReconstructionFailedError(ObjectLostError):
    """The object was lost and cannot be computed again.

    Args:
        object_ref_hex: hex id of the object.
        reason: a key of `REASON_MESSAGES`.
        reason_message: the reason in words; default: by `reason`.
        owner_address: of the process that made it.
        call_site: the line that made it, where known.
    """

    REASON_MESSAGES: ClassVar[dict[str, str]] = {
        "OBJECT_UNRECONSTRUCTABLE_MAX_ATTEMPTS_EXCEEDED": "Its task has used up its max_retries.",
        "OBJECT_UNRECONSTRUCTABLE_LINEAGE_EVICTED": "How it was made was forgotten to save memory.",
        "OBJECT_UNRECONSTRUCTABLE_PUT": "It came from put(); only results of tasks can be remade.",
        "OBJECT_UNRECONSTRUCTABLE_RETRIES_DISABLED": "Its task has max_retries=0.",
        "OBJECT_UNRECONSTRUCTABLE_BORROWED": "Only the process that made it could have it remade.",
        "OBJECT_UNRECONSTRUCTABLE_REF_NOT_FOUND": "Its reference is not known; please report this.",
        "OBJECT_UNRECONSTRUCTABLE_TASK_CANCELLED": "Its task was cancelled.",
        "OBJECT_UNRECONSTRUCTABLE_LINEAGE_DISABLED": "Remaking of lost objects is switched off.",
    }

    def __init__(
        self,
        object_ref_hex: str,
        reason: str | None = None,
        reason_message: str | None = None,
        owner_address: Any = None,
        call_site: str = "",
    ) -> None:
        said = reason_message or self.REASON_MESSAGES.get(reason or "", "The reason is not known.")
        message = f"It could not be computed again: {said}"
        super().__init__(object_ref_hex, owner_address, call_site, message=message)
        self.reason = reason
        self.reason_message = said


class ObjectRefStreamEndOfStreamError(RayError):
    """A streaming generator has no more references."""

    _unsaid = "The stream of references has ended."


class OufOfBandObjectRefSerializationException(RayError):
    """A reference was pickled outside of an argument, a result or a put, where nobody counts it."""

    _unsaid = "A reference was pickled by hand, which does not keep its object alive: pass it in a call or a put()."


# ---- the system ----------------------------------------------------------------------------------


class AuthenticationError(RayError):
    """The other side did not accept the token."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.__suppress_context__ = True


class RpcError(RayError):
    """A message between processes failed."""

    def __init__(self, message: str, rpc_code: int | None = None) -> None:
        self.message = message
        self.rpc_code = rpc_code

    def __str__(self) -> str:
        return self.message


class RaySystemError(RayError):
    """The engine itself failed.

    Args:
        client_exc: what happened: a text or an exception.
        traceback_str: where.
    """

    def __init__(self, client_exc: Any, traceback_str: str | None = None) -> None:
        self.client_exc = client_exc
        self.traceback_str = traceback_str

    def __str__(self) -> str:
        where = f"\n{self.traceback_str}" if self.traceback_str else ""
        return f"System error: {self.client_exc}{where}"


class StreamingGeneratorReplayInconsistentError(RaySystemError):
    """A generator that was run again gave another number of objects than the first time."""


class RayCgraphCapacityExceeded(RaySystemError):
    """A compiled graph holds as many unread results as it may."""


class RayDirectTransportError(RaySystemError):
    """A transfer between devices failed."""


class RayChannelError(RaySystemError):
    """A channel of a compiled graph failed or was closed."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """A channel of a compiled graph was not ready in time."""


RAY_EXCEPTION_TYPES: list[type[BaseException]] = [
    kind
    for kind in tuple(vars().values())
    if isinstance(kind, type) and issubclass(kind, RayError) and not kind.__name__.startswith("_")
]
