"""`global_worker`, which libraries ask where they run, and the verbs under the names that old programs use."""

from __future__ import annotations

from typing import Any

import skate
from skate.api import (
    available_resources,
    cancel,
    cluster_resources,
    get,
    get_actor,
    get_gpu_ids,
    init,
    is_initialized,
    kill,
    nodes,
    put,
    remote,
    shutdown,
    wait,
)
from skate.core import engine as engines
from skate.core.refs import ActorID, JobID, NodeID, PlacementGroupID, TaskID
from skate.session import RayContext

__all__ = [
    "RESTORE_WORKER_MODE",
    "SCRIPT_MODE",
    "SPILL_WORKER_MODE",
    "WORKER_MODE",
    "BaseContext",
    "RayContext",
    "Worker",
    "available_resources",
    "blocking_get_inside_async_warned",
    "cancel",
    "cluster_resources",
    "get",
    "get_actor",
    "get_gpu_ids",
    "global_worker",
    "init",
    "is_initialized",
    "kill",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "wait",
]

SCRIPT_MODE, WORKER_MODE, SPILL_WORKER_MODE, RESTORE_WORKER_MODE = 0, 1, 2, 3
BaseContext = RayContext
blocking_get_inside_async_warned = False
"""Libraries set it to True to silence a warning that Skate does not have."""


class Worker:
    """The calling process as part of a session: read at the moment each attribute is asked for."""

    @property
    def connected(self) -> bool:
        """Whether a session runs in this process."""
        return engines.running() is not None

    def check_connected(self) -> None:
        """RaySystemError when no session runs."""
        if not self.connected:
            raise skate.exceptions.RaySystemError("No session runs in this process: call init() first.")

    @property
    def mode(self) -> int | None:
        """`SCRIPT_MODE` in a driver, `WORKER_MODE` in a task or an actor, None without a session."""
        engine = engines.running()
        if engine is None:
            return None
        return SCRIPT_MODE if engine.context().driver else WORKER_MODE

    @property
    def namespace(self) -> str:
        """Where the names of actors made here live."""
        return engines.current().context().namespace

    @property
    def current_job_id(self) -> JobID:
        """The job's id; the nil one without a session."""
        return skate.get_runtime_context().job_id if self.connected else JobID.nil()

    @property
    def current_node_id(self) -> NodeID:
        """The node's id; the nil one without a session."""
        return skate.get_runtime_context().node_id if self.connected else NodeID.nil()

    @property
    def current_task_id(self) -> TaskID:
        """The calling task's id; the nil one in a driver."""
        text = skate.get_runtime_context().get_task_id() if self.connected else None
        return TaskID.nil() if text is None else TaskID.from_hex(text)

    @property
    def actor_id(self) -> ActorID:
        """The calling actor's id; the nil one outside of an actor."""
        text = skate.get_runtime_context().get_actor_id() if self.connected else None
        return ActorID.nil() if text is None else ActorID.from_hex(text)

    @property
    def actor_name(self) -> str | None:
        """The calling actor's name, "" when it has none; None outside of an actor."""
        return skate.get_runtime_context().get_actor_name() if self.connected else None

    @property
    def placement_group_id(self) -> PlacementGroupID:
        """The placement group that the caller is in; the nil id outside of one."""
        text = skate.get_runtime_context().get_placement_group_id() if self.connected else None
        return PlacementGroupID.nil() if text is None else PlacementGroupID.from_hex(text)

    @property
    def worker_id(self) -> bytes:
        """The id of this process."""
        return bytes.fromhex(skate.get_runtime_context().get_worker_id()) if self.connected else b"\xff" * 28

    @property
    def runtime_env(self) -> Any:
        """The runtime environment of the calling code; a dict."""
        return skate.get_runtime_context().runtime_env if self.connected else {}

    @property
    def node_ip_address(self) -> str:
        """The address of the node."""
        return str(skate.util.get_node_ip_address())


global_worker = Worker()
