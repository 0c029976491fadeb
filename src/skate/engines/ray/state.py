"""Where code runs in a Ray cluster, and what the cluster holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import ray

from skate.core import ids
from skate.core.engine import Context
from skate.core.spec import ActorInfo, ActorOptions
from skate.engines.ray import groups

if TYPE_CHECKING:
    from skate.engines.ray.engine import RayEngine


def in_worker() -> bool:
    """Whether this process is one of Ray's workers."""
    return bool(ray._private.worker.global_worker.mode == ray.WORKER_MODE)


def context(engine: RayEngine) -> Context:
    """Where the calling code runs."""
    here = ray.get_runtime_context()
    task = None if engine.driver else here.get_task_id()
    environment = dict(here.runtime_env)
    group = here.get_placement_group_id()
    return Context(
        namespace=here.namespace,
        node=here.get_node_id(),
        worker=here.get_worker_id(),
        task=ids.foreign(bytes.fromhex(task)) if task else 0,
        task_name=(here.get_task_name() or "") if task else "",
        function_name=(here.get_task_function_name() or "") if task else "",
        actor=None if engine.driver else _actor(engine, here),
        reconstructed=_reconstructed(here),
        resources={} if engine.driver else here.get_assigned_resources(),
        gpus=ray.get_gpu_ids(),
        environment=msgspec.json.encode(environment).decode() if environment else "",
        driver=engine.driver,
        group=ids.foreign(bytes.fromhex(group)) if group else 0,
        capture=bool(group and here.should_capture_child_tasks_in_placement_group),
        job=int.from_bytes(bytes.fromhex(here.get_job_id()), "little"),
    )


def _actor(engine: RayEngine, here: Any) -> ActorInfo | None:
    identity = here.get_actor_id()
    if identity is None:
        return None
    handle = here.current_actor
    return engine.described(
        engine.hold(handle, 0), handle, ActorOptions(name=here.get_actor_name() or "", namespace=here.namespace)
    )


def _reconstructed(here: Any) -> bool:
    return bool(here.get_actor_id()) and bool(here.was_current_actor_reconstructed)


def rows(kind: str, address: str) -> list[dict[str, Any]]:
    """Rows of ``nodes``, ``names``, ``actors``, ``tasks``, ``workers``, ``objects``, ``placement_groups``, ``jobs``.

    Most come from the dashboard of the cluster at `address`; there may be other clusters on this machine.
    """
    if kind == "nodes":
        return list(ray.nodes())
    if kind == "names":
        return list(ray.util.list_named_actors(all_namespaces=True))
    if kind == "placement_groups":
        return groups.rows()
    from ray.util import state

    try:
        listing = getattr(state, f"list_{kind}")
    except AttributeError:
        raise ValueError(f"There is no table {kind!r}.") from None
    found = listing(address=address or None, limit=10_000, detail=True)
    return [msgspec.to_builtins(vars(row), enc_hook=vars) for row in found]
