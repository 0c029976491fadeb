"""The verbs: remote, get, put, wait, cancel, kill, and what the cluster looks like."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from skate.actor import ActorHandle, exit_actor, make_actor_class, method
from skate.actor_handle import found_handle
from skate.core import engine as engines
from skate.core.generator import ObjectRefGenerator
from skate.core.init_arguments import check_namespace
from skate.core.refs import ObjectRef
from skate.remote_function import make_remote_function
from skate.session import init, is_initialized, shutdown

if TYPE_CHECKING:
    from skate.remote_function import RemoteFunction
    from skate.typed import ActorClassLike, LooseRemoteDecorator, RemoteDecorator

__all__ = [
    "available_resources",
    "cancel",
    "cluster_resources",
    "exit_actor",
    "get",
    "get_actor",
    "get_gpu_ids",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "wait",
]


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
W = TypeVar("W")


# mypy sees that a function may be more than one of these; the first that fits is meant.
@overload
def remote(target: type[T], /) -> ActorClassLike[T]: ...  # type: ignore[overload-overlap]
@overload
def remote(  # type: ignore[overload-overlap]
    target: Callable[P, AsyncIterator[R]], /
) -> RemoteFunction[P, ObjectRefGenerator[R]]: ...
@overload
def remote(target: Callable[P, Iterator[R]], /) -> RemoteFunction[P, ObjectRefGenerator[R]]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, R], /) -> RemoteFunction[P, ObjectRef[R]]: ...
@overload
def remote(*, num_returns: Any, **options: Any) -> LooseRemoteDecorator: ...
@overload
def remote(**options: Any) -> RemoteDecorator: ...
def remote(*args: Any, **options: Any) -> Any:
    """Make a function or a class remote: ``@remote``, ``@remote(num_cpus=2)``, ``remote(f)``.

    Returns a `RemoteFunction`, an `ActorClass`, or with options alone a decorator that makes them.

    Raises:
        AssertionError: neither one function or class nor options alone were given.
        TypeError: a callable of another kind; an option of the wrong type.
        ValueError: an ``async def`` function; a wrong value; an option that does not exist (the valid ones are listed).
        NotImplementedError: a scheduling strategy or environment that is not built yet.
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _make_remote(args[0], {})
    if args or not options:
        raise AssertionError(
            "remote takes one function or class (@remote without parentheses), or options alone, "
            "as in @remote(num_cpus=2)."
        )

    def apply(target: Any) -> Any:
        return _make_remote(target, options)

    return apply


def _make_remote(target: Any, options: dict[str, Any]) -> Any:
    if isinstance(target, type):
        return make_actor_class(target, options)
    if isinstance(target, FunctionType) or _is_compiled(target):
        return make_remote_function(target, options)
    raise TypeError(
        f"remote works on Python functions and classes, not on {target!r} "
        f"({type(target).__name__}). Wrap it in a function."
    )


def _is_compiled(target: Any) -> bool:
    """Whether `target` is a function that Cython made."""
    return type(target).__name__ in ("cython_function_or_method", "fused_cython_function")


@overload
def get(object_refs: ObjectRef[R], *, timeout: float | None = None) -> R: ...
@overload
def get(object_refs: ObjectRefGenerator[R], *, timeout: float | None = None) -> ObjectRefGenerator[R]: ...
@overload
def get(object_refs: Sequence[ObjectRef[R]], *, timeout: float | None = None) -> list[R]: ...
def get(object_refs: Any, *, timeout: float | None = None, _use_object_store: bool = False) -> Any:
    """The value of a reference, or the values of a list of them, waiting until they exist.

    Args:
        object_refs: one `ObjectRef`, or a list of them. A generator is returned as it is.
        timeout: seconds to wait, 0 not at all; None or -1: as long as it takes.

    Raises:
        GetTimeoutError: not ready in time.
        RayTaskError: the task raised; also an instance of the class that it raised.
        TaskCancelledError, WorkerCrashedError, RayActorError, ObjectLostError: there will be no value; each says why.
        TaskUnschedulableError, ActorUnschedulableError: it can never run here, and no `timeout` is given.
        ValueError: neither a reference nor a list; a negative `timeout` other than -1.
        TypeError: the list holds something else than references.

    Of several that failed, the first in the order of the list raises. Values are fresh copies;
    arrays are read-only, and large ones are views of shared memory.
    """
    engine = engines._current or engines.current()
    given = timeout
    if timeout is not None and timeout < 0:
        if timeout != -1:
            raise ValueError(f"get(timeout={timeout!r}): must not be negative (None waits without limit)")
        timeout = None  # as in Ray
    if isinstance(object_refs, ObjectRef):
        return engine.get([object_refs], timeout)[0]
    if isinstance(object_refs, list):
        for ref in object_refs:
            if not isinstance(ref, ObjectRef):
                return _get_each(object_refs, ref, given)
        return engine.get(object_refs, timeout)
    if isinstance(object_refs, ObjectRefGenerator):
        return object_refs
    own = getattr(object_refs, "__skate_get__", None)
    if own is not None:
        return own(given)
    raise ValueError(f"get takes an ObjectRef or a list of them, not {object_refs!r} ({_kind(object_refs)})")


def _get_each(refs: list[Any], other: Any, timeout: float | None) -> list[Any]:
    """The values of a list with `other` in it, which is no ObjectRef: results of compiled graphs, and nothing else."""
    owns = [getattr(ref, "__skate_get__", None) for ref in refs]
    if None in owns:
        other = other if not hasattr(other, "__skate_get__") else refs[owns.index(None)]
        raise TypeError(f"get takes references; the list holds {other!r} ({_kind(other)})")
    return [own(timeout) for own in owns if own is not None]


def put(value: R, *, _owner: Any = None, _tensor_transport: str | None = None) -> ObjectRef[R]:
    """Store a copy of `value` and return a reference to it.

    Values that take 64 KiB and more go to shared memory. `_tensor_transport` has no effect.

    Raises:
        ValueError: an `_owner`, which Ray 2.56 dropped.
        TypeError: the value is a reference itself, or cannot be pickled (the path to the part is named).
        ObjectStoreFullError: there is no room in shared memory.
    """
    if _owner is not None:
        raise ValueError("put(_owner=...) is gone, here as in Ray: an object belongs to whoever puts it")
    if isinstance(value, ObjectRef):
        raise TypeError("put of an ObjectRef: it names a stored value already. (A list may hold it.)")
    return (engines._current or engines.current()).put(value)


def wait(
    ray_waitables: list[W],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[W], list[W]]:
    """Wait until `num_returns` of the references are ready, or until `timeout` seconds have passed.

    Args:
        ray_waitables: references and generators, each once. A generator is ready when its next item is.
        num_returns: how many to wait for, 1 to the length of the list.
        timeout: seconds to wait, 0 not at all; None: as long as it takes.
        fetch_local: bring the values to this machine meanwhile; has no effect where there is but one.

    Returns ``(ready, pending)``, both in the given order; `ready` holds at most `num_returns`, fewer when time is up. A
    task that failed is ready. An empty list gives two empty lists.

    Raises:
        TypeError: not a list, or something else in it.
        ValueError: duplicates, `num_returns` out of range, a negative `timeout`.
    """
    engine = engines._current or engines.current()
    refs: list[Any] = [
        waitable if isinstance(waitable, ObjectRef) else _awaited(waitable) for waitable in _checked_list(ray_waitables)
    ]
    if timeout is not None and timeout < 0:
        raise ValueError(f"wait(timeout={timeout!r}): must not be negative")
    if not refs:
        return [], []
    if len({ref._key for ref in refs}) != len(refs):
        raise ValueError("wait takes each reference once: the list has duplicates")
    if num_returns <= 0 or num_returns > len(refs):
        raise ValueError(f"wait(num_returns={num_returns!r}): not in 1..{len(refs)}, the list's length")
    ready, pending = engine.wait(refs, int(num_returns), timeout, fetch_local)
    given: dict[ObjectRef[Any], Any] = {
        ref: waitable for ref, waitable in zip(refs, ray_waitables, strict=True) if ref is not waitable
    }
    if not given:
        return ready, pending  # type: ignore[return-value]
    return [given.get(ref, ref) for ref in ready], [given.get(ref, ref) for ref in pending]


def _checked_list(waitables: Any) -> list[Any]:
    if not isinstance(waitables, list):
        raise TypeError(f"wait takes a list of references, not {waitables!r} ({_kind(waitables)})")
    return waitables


def _awaited(value: Any) -> ObjectRef[Any]:
    """What to wait for in place of a generator; TypeError for anything else."""
    if isinstance(value, ObjectRefGenerator):
        return value._peek() or value.completed()
    raise TypeError(f"wait takes references and generators; the list holds {value!r} ({_kind(value)})")


def cancel(
    ray_waitable: ObjectRef[Any] | ObjectRefGenerator[Any],
    *,
    force: bool = False,
    recursive: bool = True,
) -> None:
    """Cancel the task that makes a reference: its `get` raises TaskCancelledError.

    A task that has not started never runs; a running one gets KeyboardInterrupt (an async actor's
    call asyncio.CancelledError), or with `force` its worker is killed. A running call of any other
    actor goes on, but its result is dropped. With `recursive`, the tasks that it started are
    cancelled too. What has ended, or was `put`, stays as it is.

    Raises:
        TypeError: neither a reference nor a generator.
        ValueError: `force` with a call of an actor.
    """
    if isinstance(ray_waitable, ObjectRefGenerator):
        ray_waitable = ray_waitable.completed()
    if not isinstance(ray_waitable, ObjectRef):
        raise TypeError(
            f"cancel takes an ObjectRef, not {ray_waitable!r} ({_kind(ray_waitable)}). (An actor is ended with kill.)"
        )
    engines.current().cancel(ray_waitable, force, recursive)


def kill(actor: Any, *, no_restart: bool = True) -> None:
    """End an actor at once, in the middle of whatever it does.

    Its calls raise ActorDiedError. With ``no_restart=False`` it restarts if its ``max_restarts``
    allow, and the calls under way raise ActorUnavailableError. Harmless when it is dead already.

    Raises ValueError when `actor` is not a handle.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(
            f"kill takes an actor's handle, not {actor!r} ({_kind(actor)}). (A task is ended with cancel.)"
        )
    engines.current().kill(actor._skate.key, no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """The handle of a named actor; it does not keep the actor alive.

    Args:
        name: the actor's ``name=``.
        namespace: where to look; the session's own when None.

    Raises:
        ValueError: no living actor of the namespace has the name; an empty name or namespace.
        TypeError: one of them is not a string.
    """
    if not name:
        raise ValueError("get_actor needs a name, and it must not be empty")
    if not isinstance(name, str):
        raise TypeError(f"get_actor needs a name, not {name!r} ({_kind(name)})")
    check_namespace(namespace)
    return found_handle(engines.current().find(name, namespace or ""))


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster, a dict for each, with the keys that Ray gives them.

    An embedded engine has one. Raises RaySystemError when no session runs.
    """
    return [_node(row) for row in _session().state("nodes")]


def _node(row: dict[str, Any]) -> dict[str, Any]:
    known = {
        "NodeID": "",
        "Alive": True,
        "NodeManagerAddress": "127.0.0.1",
        "NodeManagerHostname": "localhost",
        "NodeManagerPort": 0,
        "ObjectManagerPort": 0,
        "ObjectStoreSocketName": "",
        "RayletSocketName": "",
        "MetricsExportPort": 0,
        "NodeName": "127.0.0.1",
        "DashboardAgentListenPort": -1,
        "MetricsAgentPort": -1,
        "RuntimeEnvAgentPort": 0,
        "DeathReason": 0,
        "DeathReasonMessage": "",
        "Resources": {},
        "Labels": {},
    }
    given = {**known, **row}
    given["alive"] = given["Alive"]
    return given


def cluster_resources() -> dict[str, float]:
    """All resources of the cluster by name, ``memory`` and ``object_store_memory`` in bytes.

    Raises RaySystemError when no session runs.
    """
    return _session().resources()[0]


def available_resources() -> dict[str, float]:
    """The resources that nothing holds at this moment, in the units of `cluster_resources`.

    Raises RaySystemError when no session runs.
    """
    return _session().resources()[1]


def get_gpu_ids() -> list[int] | list[str]:
    """Numbers of the GPUs assigned to the calling task or actor; empty in a driver.

    Where the program was started with CUDA_VISIBLE_DEVICES: their names there, as strings.
    """
    found: Any = list(engines.current().context().gpus)
    return found  # type: ignore[no-any-return]


def timeline(filename: str | os.PathLike[str] | None = None) -> list[dict[str, Any]] | None:
    """What the session ran, when and in which worker: events for chrome://tracing and Perfetto.

    Args:
        filename: where to write them as JSON, or, where it ends with ``.html``, as a page that opens in any browser
            without a network. None: they are returned, in microseconds since the epoch.

    Raises:
        RuntimeError: no session runs in this process.
        OSError: the file cannot be written.
    """
    from skate.util import timeline as module

    return module.timeline(filename)


def _session() -> engines.Engine:
    engine = engines.running()
    if engine is None:
        from skate.exceptions import RaySystemError

        raise RaySystemError("No session runs in this process: call skate.init() first.")
    return engine


def _kind(value: object) -> str:
    return type(value).__name__
