"""Where the calling code runs: `get_runtime_context`."""

from __future__ import annotations

import os
from typing import Any

from skate.actor_handle import ActorHandle, make_handle
from skate.core import engine as engines
from skate.core import ids
from skate.core.refs import ActorID, BaseID, JobID, NodeID, PlacementGroupID, TaskID
from skate.runtime_env import RuntimeEnv

_OTHER_ACCELERATORS = ("TPU", "NPU", "HPU", "neuron_cores", "RBLN", "FURIOSA", "MBLT", "TTNPU")
"""Kinds that Ray lists beside GPU; none is assigned here."""


class RuntimeContext:
    """Facts about the calling task, actor or driver, read at the moment each is asked for."""

    def get(self) -> dict[str, Any]:
        """The ids of the surroundings, by name."""
        found: dict[str, Any] = {"job_id": self.job_id, "node_id": self.node_id}
        found["namespace"] = self.namespace
        if _context().task:
            found["task_id"] = self.task_id
        if _context().actor is not None:
            found["actor_id"] = self.actor_id
        return found

    @property
    def job_id(self) -> JobID:
        """The job's id, as an object."""
        return JobID(_context().job.to_bytes(len(ids.JOB_ID), "little"))

    def get_job_id(self) -> str:
        """The job's id in hexadecimal."""
        return self.job_id.hex()

    @property
    def node_id(self) -> NodeID:
        """The node's id, as an object."""
        return NodeID(bytes.fromhex(_context().node))

    def get_node_id(self) -> str:
        """The node's id in hexadecimal."""
        return _context().node

    def get_worker_id(self) -> str:
        """The id of the calling process in hexadecimal."""
        return _context().worker

    @property
    def task_id(self) -> TaskID:
        """The calling task's id, as an object; AssertionError in a driver outside of a task."""
        text = self.get_task_id()
        if text is None:
            raise AssertionError("The driver runs no task, so there is no task id here.")
        return TaskID(bytes.fromhex(text))

    def get_task_id(self) -> str | None:
        """The calling task's id in hexadecimal; None in a driver."""
        task = _context().task
        return ids.task_binary(task).hex() if task else None

    def get_task_name(self) -> str | None:
        """The calling task's name: ``name=``, or else its function's; None in a driver."""
        context = _context()
        return (context.task_name or context.function_name) if context.task else None

    def get_task_function_name(self) -> str | None:
        """The function or method that runs, with its module: ``module.function``, ``module.Class.method``; None in a
        driver."""
        context = _context()
        return context.function_name if context.task else None

    def get_attempt_number(self) -> int:
        """How many times the calling task was tried before; 0 at its first try and in a driver."""
        return _context().attempt

    @property
    def actor_id(self) -> ActorID | None:
        """The calling actor's id, as an object; None in a task, AssertionError in a driver."""
        context = _context()
        if context.actor is not None:
            return ActorID(ids.actor_binary(context.actor.actor))
        if context.driver:
            raise AssertionError("The driver runs no actor, so there is no actor id here.")
        return None

    def get_actor_id(self) -> str | None:
        """The calling actor's id in hexadecimal; None outside of an actor."""
        actor = _context().actor
        return None if actor is None else ids.actor_binary(actor.actor).hex()

    def get_actor_name(self) -> str | None:
        """The calling actor's name, "" when it has none; None outside of an actor."""
        actor = _context().actor
        return None if actor is None else actor.options.name

    @property
    def current_actor(self) -> ActorHandle[Any]:
        """A handle of the calling actor; RuntimeError outside of one."""
        actor = _context().actor
        if actor is None:
            raise RuntimeError("This code does not run in an actor, so there is no current actor.")
        engines.current().borrow(actor.actor)
        return make_handle(actor)

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the calling actor was restarted after its process died; AssertionError outside of one."""
        context = _context()
        if context.actor is None:
            raise AssertionError("This code does not run in an actor, so it was not restarted.")
        return context.reconstructed

    @property
    def namespace(self) -> str:
        """Where the names of actors made here live."""
        return _context().namespace

    @property
    def runtime_env(self) -> RuntimeEnv:
        """The runtime environment that the calling code runs in; a dict."""
        return RuntimeEnv.deserialize(_context().environment or "{}")

    def get_runtime_env_string(self) -> str:
        """The runtime environment as JSON."""
        return _context().environment or "{}"

    def get_assigned_resources(self) -> dict[str, float]:
        """What the calling task or actor holds, by name; memory in bytes. AssertionError in a driver."""
        context = _context()
        if context.driver:
            raise AssertionError("Resources are assigned to tasks and actors, not to the driver.")
        return dict(context.resources)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Numbers of the accelerators assigned to the calling task or actor, by kind; an empty list if none."""
        return {"GPU": [str(gpu) for gpu in _context().gpus], **{kind: [] for kind in _OTHER_ACCELERATORS}}

    def get_resource_ids(self) -> dict[str, list[str]]:
        """The same as `get_accelerator_ids`."""
        return self.get_accelerator_ids()

    def get_node_labels(self) -> dict[str, str]:
        """Labels of the node."""
        here = _context().node
        for row in engines.current().state("nodes"):
            if row["NodeID"] == here:
                return dict(row.get("Labels", {}))
        return {}

    @property
    def gcs_address(self) -> str:
        """The address of the cluster's control store; empty: an embedded engine has none."""
        return ""

    def get_session_name(self) -> str:
        """The session's name, the same in all of its processes; RuntimeError when none runs."""
        return os.path.basename(_session_folder())

    def get_temp_dir(self) -> str:
        """The directory in which sessions have their folders; RuntimeError when none runs."""
        return os.path.dirname(_session_folder())

    def get_placement_group_id(self) -> str | None:
        """The id of the placement group that the calling task or actor runs in, in hexadecimal; None: in none."""
        group = _context().group
        return ids.group_binary(group).hex() if group else None

    @property
    def current_placement_group_id(self) -> BaseID:
        """The same as an object; outside of a placement group the id that names none."""
        return PlacementGroupID(ids.group_binary(_context().group))

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether tasks started here go into the caller's placement group."""
        return _context().capture

    def is_canceled(self) -> bool:
        """Whether `cancel` was called for the running actor call, which may then return early.

        Raises RuntimeError in a driver.
        """
        if _context().driver:
            raise RuntimeError("is_canceled works in tasks and actors only, not in the driver.")
        return engines.current().is_cancelled()


def get_runtime_context() -> RuntimeContext:
    """The context of the calling code; starts a session when none runs."""
    engines.current()
    return _CONTEXT


def _session_folder() -> str:
    engine = engines.running()
    if engine is None:
        raise RuntimeError("No session runs in this process: call skate.init().")
    folder: str = engine.state("session")[0]["folder"]
    return folder


def _context() -> engines.Context:
    return engines.current().context()


_CONTEXT = RuntimeContext()
