"""The rows of the state API: Ray's names, and its words for states.

A column is *filterable* when filters may name it, and a *detail* when it is None unless ``detail=True`` asks for it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

DEFAULT_RPC_TIMEOUT = 30
DEFAULT_LIMIT = 100
DEFAULT_LOG_LIMIT = 1000
RAY_MAX_LIMIT_FROM_API_SERVER = 10_000
"""The most rows that a list gives."""


class StateResource(Enum):
    """What can be listed."""

    ACTORS = "actors"
    JOBS = "jobs"
    PLACEMENT_GROUPS = "placement_groups"
    NODES = "nodes"
    WORKERS = "workers"
    TASKS = "tasks"
    OBJECTS = "objects"
    RUNTIME_ENVS = "runtime_envs"
    CLUSTER_EVENTS = "cluster_events"


class SummaryResource(Enum):
    """What can be summarised."""

    ACTORS = "actors"
    TASKS = "tasks"
    OBJECTS = "objects"


_BASE = {"detail": False, "filterable": True}
_SHOWN = {"detail": False, "filterable": False}
_DETAIL = {"detail": True, "filterable": False}
_DETAIL_FILTERABLE = {"detail": True, "filterable": True}


@dataclass
class StateSchema:
    """A row: attributes, and ``row["name"]`` for programs that were written for dicts."""

    @classmethod
    def list_columns(cls, detail: bool = True) -> list[str]:
        """Names of the columns in order; without `detail` those that are always there."""
        return [column.name for column in dataclasses.fields(cls) if detail or not column.metadata["detail"]]

    @classmethod
    def columns(cls) -> set[str]:
        """Names of all columns."""
        return set(cls.list_columns())

    @classmethod
    def base_columns(cls) -> set[str]:
        """Names of the columns that are always there."""
        return set(cls.list_columns(detail=False))

    @classmethod
    def detail_columns(cls) -> set[str]:
        """Names of the columns that are there with ``detail=True``: all of them."""
        return cls.columns()

    @classmethod
    def filterable_columns(cls) -> set[str]:
        """Names of the columns that filters may name."""
        return {column.name for column in dataclasses.fields(cls) if column.metadata["filterable"]}

    def asdict(self) -> dict[str, Any]:
        """The row as a dict of plain data."""
        return dataclasses.asdict(self)

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def get(self, key: str, default: Any = None) -> Any:
        """The column `key`, or `default` when there is none of that name."""
        return getattr(self, key, default)


Schema = TypeVar("Schema", bound=StateSchema)


@dataclass(kw_only=True)
class ActorState(StateSchema):
    """An actor. Its state is DEPENDENCIES_UNREADY, PENDING_CREATION, ALIVE, RESTARTING or DEAD."""

    actor_id: str = field(metadata=_BASE)
    class_name: str = field(metadata=_BASE)
    state: str = field(metadata=_BASE)
    job_id: str = field(metadata=_BASE)
    name: str | None = field(default=None, metadata=_BASE)
    node_id: str | None = field(default=None, metadata=_BASE)
    pid: int | None = field(default=None, metadata=_BASE)
    ray_namespace: str | None = field(default=None, metadata=_BASE)
    serialized_runtime_env: str | None = field(default=None, metadata=_DETAIL)
    required_resources: dict[str, float] | None = field(default=None, metadata=_DETAIL)
    death_cause: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    is_detached: bool | None = field(default=None, metadata=_DETAIL)
    placement_group_id: str | None = field(default=None, metadata=_DETAIL_FILTERABLE)
    repr_name: str | None = field(default=None, metadata=_DETAIL_FILTERABLE)
    num_restarts: int | None = field(default=None, metadata=_DETAIL)
    num_restarts_due_to_lineage_reconstruction: int | None = field(default=None, metadata=_DETAIL)
    num_restarts_due_to_node_preemption: int | None = field(default=None, metadata=_DETAIL)
    call_site: str | None = field(default=None, metadata=_DETAIL)
    label_selector: dict[str, str] | None = field(default=None, metadata=_DETAIL)
    fallback_strategy: dict[str, Any] | None = field(default=None, metadata=_DETAIL)


@dataclass(kw_only=True)
class PlacementGroupState(StateSchema):
    """A placement group. Its state is PENDING, PREPARED, CREATED, REMOVED or RESCHEDULING."""

    placement_group_id: str = field(metadata=_BASE)
    name: str = field(metadata=_BASE)
    creator_job_id: str = field(metadata=_BASE)
    state: str = field(metadata=_BASE)
    bundles: list[dict[str, Any]] | None = field(default=None, metadata=_DETAIL)
    is_detached: bool | None = field(default=None, metadata=_DETAIL_FILTERABLE)
    stats: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    topology_strategy: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    topology_assignments: dict[str, Any] | None = field(default=None, metadata=_DETAIL)


@dataclass(kw_only=True)
class NodeState(StateSchema):
    """A node, ALIVE or DEAD. Times are in milliseconds since the epoch, here and below; 0: not yet."""

    node_id: str = field(metadata=_BASE)
    node_ip: str = field(metadata=_BASE)
    is_head_node: bool = field(metadata=_BASE)
    state: str = field(metadata=_BASE)
    state_message: str | None = field(default=None, metadata=_SHOWN)
    node_name: str = field(metadata=_BASE)
    resources_total: dict[str, float] = field(metadata=_SHOWN)
    labels: dict[str, str] = field(metadata=_SHOWN)
    start_time_ms: int | None = field(default=None, metadata=_DETAIL)
    end_time_ms: int | None = field(default=None, metadata=_DETAIL)


@dataclass
class DriverInfo:
    """The program that a job runs in."""

    id: str
    node_ip_address: str
    pid: str


@dataclass(kw_only=True)
class JobState(StateSchema):
    """A job: a driver's own (DRIVER), or one that was submitted (SUBMISSION)."""

    type: str = field(metadata=_BASE)
    job_id: str | None = field(default=None, metadata=_BASE)
    submission_id: str | None = field(default=None, metadata=_BASE)
    driver_info: DriverInfo | None = field(default=None, metadata=_SHOWN)
    status: str = field(metadata=_BASE)
    entrypoint: str = field(metadata=_SHOWN)
    message: str | None = field(default=None, metadata=_SHOWN)
    error_type: str | None = field(default=None, metadata=_SHOWN)
    start_time: int | None = field(default=None, metadata=_DETAIL)
    end_time: int | None = field(default=None, metadata=_DETAIL)
    metadata: dict[str, str] | None = field(default=None, metadata=_DETAIL)
    runtime_env: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    driver_agent_http_address: str | None = field(default=None, metadata=_DETAIL)
    driver_node_id: str | None = field(default=None, metadata=_DETAIL)
    driver_exit_code: int | None = field(default=None, metadata=_DETAIL)


@dataclass(kw_only=True)
class WorkerState(StateSchema):
    """A process of the session: a DRIVER or a WORKER.

    Its `exit_type` is None while it lives, then SYSTEM_ERROR, INTENDED_SYSTEM_EXIT, INTENDED_USER_EXIT or
    NODE_OUT_OF_MEMORY.
    """

    worker_id: str = field(metadata=_BASE)
    is_alive: bool = field(metadata=_BASE)
    worker_type: str = field(metadata=_BASE)
    exit_type: str | None = field(default=None, metadata=_BASE)
    node_id: str = field(metadata=_BASE)
    ip: str = field(metadata=_BASE)
    pid: int = field(metadata=_BASE)
    exit_detail: str | None = field(default=None, metadata=_DETAIL)
    worker_launch_time_ms: int | None = field(default=None, metadata=_DETAIL)
    worker_launched_time_ms: int | None = field(default=None, metadata=_DETAIL)
    start_time_ms: int | None = field(default=None, metadata=_DETAIL)
    end_time_ms: int | None = field(default=None, metadata=_DETAIL)
    debugger_port: int | None = field(default=None, metadata=_DETAIL_FILTERABLE)
    num_paused_threads: int | None = field(default=None, metadata=_DETAIL_FILTERABLE)


@dataclass(kw_only=True)
class ClusterEventState(StateSchema):
    """Something that happened: a warning, a death, a restart. Its severity is INFO, WARNING or ERROR."""

    severity: str = field(metadata=_BASE)
    time: str = field(metadata=_SHOWN)
    source_type: str = field(metadata=_BASE)
    message: str = field(metadata=_SHOWN)
    event_id: str = field(metadata=_BASE)
    custom_fields: dict[str, Any] | None = field(default=None, metadata=_DETAIL)


@dataclass(kw_only=True)
class TaskState(StateSchema):
    """An attempt of a call: of a function, an actor's constructor or method.

    Its state is PENDING_ARGS_AVAIL, PENDING_NODE_ASSIGNMENT, SUBMITTED_TO_WORKER, RUNNING, RUNNING_IN_RAY_GET,
    RUNNING_IN_RAY_WAIT, FINISHED or FAILED; its type NORMAL_TASK, ACTOR_CREATION_TASK or ACTOR_TASK.
    """

    task_id: str = field(metadata=_BASE)
    attempt_number: int = field(metadata=_BASE)
    name: str = field(metadata=_BASE)
    state: str = field(metadata=_BASE)
    job_id: str = field(metadata=_BASE)
    actor_id: str | None = field(default=None, metadata=_BASE)
    type: str = field(metadata=_BASE)
    func_or_class_name: str = field(metadata=_BASE)
    parent_task_id: str = field(metadata=_BASE)
    node_id: str | None = field(default=None, metadata=_BASE)
    worker_id: str | None = field(default=None, metadata=_BASE)
    worker_pid: int | None = field(default=None, metadata=_BASE)
    error_type: str | None = field(default=None, metadata=_BASE)
    language: str | None = field(default=None, metadata=_DETAIL_FILTERABLE)
    required_resources: dict[str, float] | None = field(default=None, metadata=_DETAIL)
    runtime_env_info: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    placement_group_id: str | None = field(default=None, metadata=_DETAIL_FILTERABLE)
    events: list[dict[str, Any]] | None = field(default=None, metadata=_DETAIL)
    profiling_data: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    creation_time_ms: int | None = field(default=None, metadata=_DETAIL)
    start_time_ms: int | None = field(default=None, metadata=_DETAIL)
    end_time_ms: int | None = field(default=None, metadata=_DETAIL)
    task_log_info: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    error_message: str | None = field(default=None, metadata=_DETAIL)
    is_debugger_paused: bool | None = field(default=None, metadata=_DETAIL_FILTERABLE)
    call_site: str | None = field(default=None, metadata=_DETAIL)
    label_selector: dict[str, str] | None = field(default=None, metadata=_DETAIL)
    fallback_strategy: dict[str, Any] | None = field(default=None, metadata=_DETAIL)


@dataclass(kw_only=True)
class ObjectState(StateSchema):
    """An object, as one process refers to it.

    `reference_type` is ACTOR_HANDLE, PINNED_IN_MEMORY, LOCAL_REFERENCE, USED_BY_PENDING_TASK or CAPTURED_IN_OBJECT;
    `object_size` is in bytes, -1 when there is no value yet; `call_site` is ``"disabled"`` unless lines are recorded.
    """

    object_id: str = field(metadata=_BASE)
    object_size: int = field(metadata=_BASE)
    task_status: str = field(metadata=_BASE)
    attempt_number: int = field(metadata=_BASE)
    reference_type: str = field(metadata=_BASE)
    call_site: str = field(metadata=_BASE)
    type: str = field(metadata=_BASE)
    pid: int = field(metadata=_BASE)
    ip: str = field(metadata=_BASE)


@dataclass(kw_only=True)
class RuntimeEnvState(StateSchema):
    """A runtime environment that was built, or could not be."""

    runtime_env: dict[str, Any] = field(metadata=_BASE)
    success: bool = field(metadata=_BASE)
    creation_time_ms: float | None = field(default=None, metadata=_SHOWN)
    node_id: str = field(metadata=_BASE)
    ref_cnt: int | None = field(default=None, metadata=_DETAIL)
    error: str | None = field(default=None, metadata=_DETAIL_FILTERABLE)


SCHEMAS: dict[StateResource, type[StateSchema]] = {
    StateResource.ACTORS: ActorState,
    StateResource.JOBS: JobState,
    StateResource.PLACEMENT_GROUPS: PlacementGroupState,
    StateResource.NODES: NodeState,
    StateResource.WORKERS: WorkerState,
    StateResource.TASKS: TaskState,
    StateResource.OBJECTS: ObjectState,
    StateResource.RUNTIME_ENVS: RuntimeEnvState,
    StateResource.CLUSTER_EVENTS: ClusterEventState,
}
