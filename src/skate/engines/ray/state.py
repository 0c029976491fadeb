"""Where code runs in a Ray cluster, and what the cluster holds."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import msgspec
import ray

from skate.core import ids
from skate.core.engine import Context
from skate.core.spec import ActorInfo, ActorOptions
from skate.engines.ray import groups

if TYPE_CHECKING:
    from skate.engines.ray.engine import RayEngine


def context(engine: RayEngine) -> Context:
    """Where the calling code runs."""
    if not ray.is_initialized():  # the connection is gone: to ask for more would start another Ray
        return Context(namespace="", node="", worker="", driver=engine.driver)
    here = ray.get_runtime_context()
    works = here.worker.mode == ray.WORKER_MODE
    task = here.get_task_id() if works else None
    environment = dict(here.runtime_env)
    group = here.get_placement_group_id() if works else None
    return Context(
        namespace=here.namespace,
        node=here.get_node_id(),
        worker=here.get_worker_id() if hasattr(here.worker, "worker_id") else "",  # Ray Client 2.53 has none
        task=ids.foreign(bytes.fromhex(task)) if task else 0,
        task_name=(here.get_task_name() or "") if task else "",
        function_name=(here.get_task_function_name() or "") if task else "",
        actor=_actor(engine, here) if works else None,
        reconstructed=works and _reconstructed(here),
        resources=here.get_assigned_resources() if works else {},
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
    if not here.get_actor_id():
        return False
    with warnings.catch_warnings():  # Ray's own code warns of Ray's own names
        warnings.simplefilter("ignore")
        return bool(here.was_current_actor_reconstructed)


def own_folder() -> str:
    """The folder of Ray's session on this machine; empty through Ray Client, which may be on another one."""
    node = ray._private.worker._global_node
    return str(node.get_session_dir_path()) if node is not None else ""


def session_folder() -> str:
    """The folder of Ray's session."""
    # through Ray Client a worker knows
    return own_folder() or str(ray.get(ray.remote(num_cpus=0)(session_folder).remote()))


def locations(natives: list[Any], timeout: float | None, ask: bool) -> list[dict[str, Any] | None]:
    """Where objects lie, of Ray's references; NotImplementedError through Ray Client, which cannot tell."""
    if ray.util.client.ray.is_connected():
        raise NotImplementedError("Ray Client does not tell where objects lie: join the cluster as HOST:PORT for that.")
    if ask:
        found = ray.experimental.get_object_locations(natives, -1 if timeout is None else int(timeout * 1000))
    else:
        found = ray.experimental.get_local_object_locations(natives)
    return [found.get(native) for native in natives]


def rows(kind: str, address: str) -> list[dict[str, Any]]:
    """Rows of ``nodes``, ``names``, ``actors``, ``tasks``, ``workers``, ``objects``, ``placement_groups``, ``jobs``,
    ``session``.

    Most come from the dashboard of the cluster at `address`; there may be other clusters on this machine.
    """
    if kind == "nodes":
        return list(ray.nodes())
    if kind == "names":
        return list(ray.util.list_named_actors(all_namespaces=True))
    if kind == "placement_groups":
        return groups.rows()
    if kind == "session":
        return [{"folder": session_folder(), "now_ms": time.time() * 1e3}]
    from ray.util import state

    try:
        listing = getattr(state, f"list_{kind}")
    except AttributeError:
        raise ValueError(f"There is no table {kind!r}.") from None
    asked = None if "://" in address else address or None  # through Ray Client Ray finds its cluster itself
    found = listing(address=asked, limit=10_000, detail=True)
    return [msgspec.to_builtins(vars(row), enc_hook=vars) for row in found]
