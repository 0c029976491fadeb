"""The functions of the state API, with Ray's names and arguments.

They ask the session of this process. With an `address` and no session they attach to the one there for as long as the
question takes. `timeout` is accepted and has no effect: nobody is asked who could keep one waiting.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from skate.core import engine as engines
from skate.core.refs import ObjectRef
from skate.util.state import summaries
from skate.util.state.common import (
    DEFAULT_LIMIT,
    DEFAULT_RPC_TIMEOUT,
    RAY_MAX_LIMIT_FROM_API_SERVER,
    SCHEMAS,
    ActorState,
    ClusterEventState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    StateResource,
    StateSchema,
    SummaryResource,
    TaskState,
    WorkerState,
)
from skate.util.state.exception import RayStateApiException, ServerUnavailable
from skate.util.state.filters import checked, contradict, passes, typed
from skate.util.state.rows import MAKERS, rows_of, table, table_if_any

Filters = Sequence[tuple[str, str, Any]] | None
Shown = TypeVar("Shown", bound=StateSchema)
_IDS = {
    StateResource.NODES: "node_id",
    StateResource.ACTORS: "actor_id",
    StateResource.PLACEMENT_GROUPS: "placement_group_id",
    StateResource.WORKERS: "worker_id",
    StateResource.TASKS: "task_id",
    StateResource.OBJECTS: "object_id",
    StateResource.JOBS: "submission_id",
}


@contextlib.contextmanager
def session(address: str | None = None) -> Iterator[engines.Engine]:
    """The engine to ask; ServerUnavailable when there is none."""
    engine = engines.running()
    if engine is not None:
        yield engine
        return
    if not address:
        raise ServerUnavailable("No session runs in this process: call skate.init() first, or give the address of one.")
    from skate.session import init, shutdown

    try:
        init(address=address, log_to_driver=False, _looks_in=True)
    except ConnectionError as error:
        raise ServerUnavailable(str(error)) from error
    try:
        yield engines.current()
    finally:
        shutdown()


def _listed(
    resource: StateResource,
    address: str | None,
    filters: Filters,
    limit: int,
    detail: bool,
    explain: bool,
) -> list[Any]:
    wanted = checked(filters)
    if limit > RAY_MAX_LIMIT_FROM_API_SERVER:
        raise RayStateApiException(f"limit={limit}: a list gives at most {RAY_MAX_LIMIT_FROM_API_SERVER:,} rows.")
    if limit < 0:
        raise RayStateApiException(f"limit={limit}: must be zero or more.")
    if contradict(wanted):
        return []
    schema = SCHEMAS[resource]
    wanted = typed(wanted, schema)
    started = time.perf_counter()
    with session(address) as engine:
        raw, make = rows_of(engine, resource)
    found: list[StateSchema] = []
    names = schema.list_columns(detail)
    for given in raw:
        if len(found) >= limit:
            break
        row = make(given)
        if passes(row, wanted):
            found.append(_row(schema, row, names))
    if explain:
        took = (time.perf_counter() - started) * 1e3
        print(f"{resource.value}: {len(raw)} rows, {len(found)} of them shown, in {took:.1f} ms")
    return found


def _got(resource: StateResource, id: str, address: str | None, explain: bool) -> list[Any]:
    if not isinstance(id, str):
        raise TypeError(f"{_IDS[resource]} must be a string of hex digits, not {type(id).__name__}")
    return _listed(resource, address, [(_IDS[resource], "=", id)], RAY_MAX_LIMIT_FROM_API_SERVER, True, explain)


def _one(found: list[Shown]) -> Shown | None:
    return found[0] if found else None


# ------------------------------------------------------------------------------- lists


def list_actors(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ActorState]:
    """Actors: those that live, and the last of those that have ended.

    Args:
        address: of the session; that of this process when None.
        filters: ``(column, "=" or "!=", value)`` each; a row must pass all. Strings are compared without case.
        limit: the most rows, at most 10,000.
        timeout: seconds; has no effect.
        detail: fill all columns, not only the base ones.
        raise_on_missing_output: has no effect: nothing is ever missing.

    Raises:
        RayStateApiException: an unknown column, a value of another type than the column's, a limit out of range.
        ServerUnavailable: no session.
        ValueError: a filter of another form.
    """
    return _listed(StateResource.ACTORS, address, filters, limit, detail, _explain)


def list_placement_groups(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[PlacementGroupState]:
    """Placement groups; arguments and errors as of `list_actors`."""
    return _listed(StateResource.PLACEMENT_GROUPS, address, filters, limit, detail, _explain)


def list_nodes(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[NodeState]:
    """Nodes; arguments and errors as of `list_actors`."""
    return _listed(StateResource.NODES, address, filters, limit, detail, _explain)


def list_jobs(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[JobState]:
    """Jobs: drivers, and what was submitted; arguments and errors as of `list_actors`."""
    return _listed(StateResource.JOBS, address, filters, limit, detail, _explain)


def list_workers(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[WorkerState]:
    """Processes: drivers, workers, the last workers that have ended; arguments and errors as of `list_actors`."""
    return _listed(StateResource.WORKERS, address, filters, limit, detail, _explain)


def list_tasks(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[TaskState]:
    """Attempts of tasks and actor calls, the newest first: those under way, and the last of those that have ended.

    Arguments and errors as of `list_actors`. A call with ``enable_task_events=False`` is not listed.
    """
    return _listed(StateResource.TASKS, address, filters, limit, detail, _explain)


def list_objects(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ObjectState]:
    """References to objects, a row for each object and process; arguments and errors as of `list_actors`."""
    return _listed(StateResource.OBJECTS, address, filters, limit, detail, _explain)


def list_runtime_envs(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[RuntimeEnvState]:
    """Runtime environments that were built; arguments and errors as of `list_actors`."""
    return _listed(StateResource.RUNTIME_ENVS, address, filters, limit, detail, _explain)


def list_cluster_events(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ClusterEventState]:
    """What happened in the session, the newest first; arguments and errors as of `list_actors`."""
    return _listed(StateResource.CLUSTER_EVENTS, address, filters, limit, detail, _explain)


# ------------------------------------------------------------------------------ by id


def get_actor(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> ActorState | None:
    """The actor with this id, in all detail; None when it is not known."""
    return _one(_got(StateResource.ACTORS, id, address, _explain))


def get_job(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> JobState | None:
    """The submitted job with this id; None when it is not known."""
    return _one(_got(StateResource.JOBS, id, address, _explain))


def get_placement_group(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> PlacementGroupState | None:
    """The placement group with this id; None when it is not known."""
    return _one(_got(StateResource.PLACEMENT_GROUPS, id, address, _explain))


def get_node(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> NodeState | None:
    """The node with this id; None when it is not known."""
    return _one(_got(StateResource.NODES, id, address, _explain))


def get_worker(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> WorkerState | None:
    """The worker with this id; None when it is not known."""
    return _one(_got(StateResource.WORKERS, id, address, _explain))


def get_task(
    id: str | ObjectRef[Any],
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    _explain: bool = False,
) -> TaskState | list[TaskState] | None:
    """The task with this id, or that makes this reference; a list when it had several attempts, None for none."""
    wanted = id if isinstance(id, str) else id.task_id().hex()
    found: list[TaskState] = _got(StateResource.TASKS, wanted, address, _explain)
    return found if len(found) > 1 else _one(found)


def get_objects(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> list[ObjectState]:
    """The references to one object; an empty list when it is not known."""
    return _got(StateResource.OBJECTS, id, address, _explain)


def tasks_under_way(address: str | None = None) -> list[TaskState]:
    """The rows of `list_tasks` that have not ended, in all detail, at less cost where many have."""
    with session(address) as engine:
        given = table_if_any(engine, "tasks_under_way")
        if given is None:
            given = [row for row in table(engine, "tasks") if row["state"] not in ("FINISHED", "FAILED")]
    make = MAKERS[StateResource.TASKS][1]
    return [_row(TaskState, make(row), TaskState.list_columns()) for row in given]


def _row(schema: type[Shown], row: dict[str, Any], names: list[str]) -> Shown:
    return schema(**{name: row.get(name) for name in names})


# -------------------------------------------------------------------------- summaries


def _summary(resource: SummaryResource, address: str | None) -> dict[str, Any]:
    with session(address) as engine:
        counts = table_if_any(engine, "task_counts") if resource is SummaryResource.TASKS else None
        if counts is not None:
            return {"cluster": summaries.tasks(counts)}
        raw, make = rows_of(engine, StateResource(resource.value))
    return {"cluster": summaries.SUMMARIES[resource]([make(row) for row in raw])}


def summarize_tasks(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many calls of each name are in which state: ``["cluster"]["summary"][name]["state_counts"]``."""
    return _summary(SummaryResource.TASKS, address)


def summarize_actors(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many actors of each class are in which state: ``["cluster"]["summary"][class]["state_counts"]``."""
    return _summary(SummaryResource.ACTORS, address)


def summarize_objects(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many objects each line of the program made, of what size; lines are recorded on request only."""
    return _summary(SummaryResource.OBJECTS, address)


# ------------------------------------------------------------------------- the client


@dataclasses.dataclass
class ListApiOptions:
    """What a list is asked for, for `StateApiClient`."""

    limit: int = DEFAULT_LIMIT
    timeout: int = DEFAULT_RPC_TIMEOUT
    detail: bool = False
    filters: Filters = None
    exclude_driver: bool = True


@dataclasses.dataclass
class GetApiOptions:
    """What a single row is asked for, for `StateApiClient`."""

    timeout: int = DEFAULT_RPC_TIMEOUT


class StateApiClient:
    """The same questions with the resource as an argument, as tools ask them."""

    def __init__(
        self, address: str | None = None, cookies: dict[str, Any] | None = None, headers: dict[str, Any] | None = None
    ) -> None:
        self.address = address

    def list(
        self,
        resource: StateResource,
        options: ListApiOptions,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> list[Any]:
        """Rows of a resource, as the functions ``list_*`` give them."""
        return _listed(resource, self.address, options.filters, options.limit, options.detail, _explain)

    def get(
        self, resource: StateResource, id: str, options: GetApiOptions | None = None, _explain: bool = False
    ) -> Any:
        """One row of a resource, as the functions ``get_*`` give it; ValueError for what has no id."""
        if resource not in _IDS:
            raise ValueError(f"{resource.value} cannot be had by id.")
        if resource is StateResource.TASKS:
            return get_task(id, self.address)
        found = _got(resource, id, self.address, _explain)
        return found if resource is StateResource.OBJECTS else _one(found)

    def summary(
        self,
        resource: SummaryResource,
        *,
        options: Any = None,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> dict[str, Any]:
        """Counts of a resource, as the functions ``summarize_*`` give them."""
        return _summary(resource, self.address)
