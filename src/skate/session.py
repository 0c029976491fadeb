"""The session of this process: `init`, `shutdown`, the automatic start, and what a fork means."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from skate._version import __version__
from skate.core import clusters, gpus, refs
from skate.core import engine as engines
from skate.core.config import load as load_config
from skate.core.environment import logs_of, merge_environments, pack_environment, with_logs
from skate.core.folder import SessionFolder
from skate.core.init_arguments import (
    address_of,
    capacity,
    job_environment,
    lives_apart,
    logging_config_of,
    namespace_of,
    refuse_capacity,
)
from skate.core.keeping import keeping
from skate.core.memory_rules import memory_rules
from skate.core.settings import Settings, most_workers, spilling

_lock = threading.RLock()
_folder: SessionFolder | None = None

# Ray's private arguments that programs pass to init. Most tune Ray's daemons, of which there are none here, and have no
# effect; _system_config and _temp_dir have. Ours are _looks_in: it attaches as somebody who only looks, and who counts
# as no job; and _hub, where the hub is to live.
_PRIVATE = frozenset(
    {
        "_driver_object_store_memory",
        "_enable_object_reconstruction",
        "_hub",
        "_memory",
        "_metrics_export_port",
        "_node_ip_address",
        "_looks_in",
        "_node_name",
        "_plasma_directory",
        "_redis_password",
        "_redis_username",
        "_skip_env_hook",
        "_system_config",
        "_temp_dir",
        "_tracing_startup_hook",
    }
)


class RayContext(Mapping[str, Any]):
    """What `init` returns: facts about the session, and a context manager that ends it."""

    def __init__(self, address_info: dict[str, Any]) -> None:
        self.address_info = address_info
        self.dashboard_url = ""
        self.python_version = "{}.{}.{}".format(*sys.version_info)
        self.ray_version = __version__
        self.ray_commit = ""

    def disconnect(self) -> None:
        """End the session."""
        shutdown()

    def __enter__(self) -> RayContext:
        return self

    def __exit__(self, *error: object) -> None:
        shutdown()

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    def __repr__(self) -> str:
        return (
            f"RayContext(dashboard_url={self.dashboard_url!r}, python_version="
            f"{self.python_version!r}, ray_version={self.ray_version!r})"
        )


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    dashboard_host: str = "127.0.0.1",
    dashboard_port: int | None = None,
    job_config: Any = None,
    configure_logging: bool = True,
    logging_level: int | str = "info",
    logging_format: str | None = None,
    logging_config: Any = None,
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    storage: str | None = None,
    enable_resource_isolation: bool = False,
    cgroup_path: str | None = None,
    system_reserved_cpu: float | None = None,
    system_reserved_memory: int | None = None,
    proxy_server_url: str | None = None,
    engine: str | None = None,
    nodes: Sequence[Mapping[str, Any]] | None = None,
    max_workers: int | None = None,
    **kwargs: Any,
) -> RayContext:
    """Start a session; the first remote call does it by itself when this was not called.

    Args:
        address: None or ``"local"``: a session of our own. Anything else: become a driver of a session that runs
            already on this machine, a standing hub above all (docs/standing.md). ``"auto"``: that of ``skate start``,
            or else the newest other session of this user; a path of a session's folder or socket; the name of a
            standing hub. With None or ``"auto"``, the environment variable SKATE_ADDRESS or RAY_ADDRESS says where.
            Or the ``address`` of a `skate.cluster_utils.Cluster`; while there is one, None and ``"auto"`` mean it.
        num_cpus: CPUs to share out, a whole number; those that this process may use when None.
        num_gpus: GPUs to share out, a whole number; when None as many as NVIDIA's driver knows, or as
            CUDA_VISIBLE_DEVICES shows if it is set.
        resources: amounts of further resources, by name.
        labels: labels of the node.
        object_store_memory: bytes that objects may take in shared memory, at least 78,643,200; 30 %
            of memory when None.
        ignore_reinit_error: return instead of raising when a session runs already.
        log_to_driver: whether what workers print shows here; True when None.
        namespace: where actors' names live; a fresh one when None.
        runtime_env: variables, files, packages and interpreter of all workers (docs/environments.md); this program's
            own when None.
        logging_config: a `skate.LoggingConfig`: how log records are written, here and in all workers; when None as
            the environment variable RAY_LOGGING_CONFIG_ENCODING says, or as the program has it.
        engine: ``"local"``, ``"inline"`` or ``"ray"``; when None: the environment variable SKATE_ENGINE, then
            what is configured (`skate.core.config`: ``use_ray = true`` in ``config.toml``), then ``"local"``.
        nodes: virtual nodes, each a dict of ``num_cpus`` (1), ``num_gpus``, ``resources``, ``labels``, ``memory``,
            ``object_store_memory`` and ``name``. The first is this program's own, so `num_cpus` and the like are
            not given as well. None: one node, the whole machine.
        max_workers: the most worker processes that there may be at a time, of all nodes together; the environment
            variable SKATE_MAX_WORKERS, then as many as the calls under way need, when None. The engine ``"inline"``
            has none anyway.

    Objects past `object_store_memory` go to files in the system's place for temporary files, or in the
    directory that ``_system_config={"object_spilling_config": ...}`` (as Ray has it), `_temp_dir` or the
    environment variable SKATE_SPILL_DIRECTORY names. SKATE_SPILL_LIMIT is the most bytes that they may
    take; ``_system_config={"local_fs_capacity_threshold": 0.95}`` is how full that disk may become.

    ``_system_config`` and the environment also say when memory counts as short and whether ``memory=`` is
    enforced: `skate.core.memory_rules` has the names.

    ``_hub="process"``, or SKATE_HUB=process in the environment, gives the session's hub a process of its own, which
    ends with this one: for a program that computes without letting other threads of Python run (docs/standing.md).

    The remaining arguments are Ray's; they configure what an embedded engine does not have
    (dashboard, daemons' logs, cgroups) and have no effect.

    Raises:
        RuntimeError: a session runs already; an unknown argument; ``local_mode=True``.
        ConnectionError: there is no session at `address`, or it lets this program not in.
        TypeError, ValueError: an argument of the wrong type or out of its range, or one that only who starts a
            session can give (`num_cpus`, `num_gpus`, `resources`, `labels`, `object_store_memory`) with an `address`.
        ImportError: ``engine="ray"`` without Ray.
        ConfigError: an unknown setting, or a wrong one, in a file or in the environment (a ValueError).
        NotImplementedError: a field of `runtime_env` that is not built yet.
    """
    _check_names(kwargs, local_mode)
    config = load_config()
    engine = engine or os.environ.get("SKATE_ENGINE") or config.chosen_engine
    address = config.engine.address if address is None else address
    own = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": resources,
        "labels": labels,
        "object_store_memory": object_store_memory,
    }
    cluster = None if nodes is not None else clusters.find(address)
    others = {
        "include_dashboard": include_dashboard,
        "dashboard_host": dashboard_host,
        "dashboard_port": dashboard_port,
        "job_config": job_config,
        "configure_logging": configure_logging,
        "logging_level": logging_level,
        "logging_format": logging_format,
        "enable_resource_isolation": enable_resource_isolation,
        "cgroup_path": cgroup_path,
        "system_reserved_cpu": system_reserved_cpu,
        "system_reserved_memory": system_reserved_memory,
        **{name: value for name, value in kwargs.items() if name != "_looks_in"},
    }
    where = address_of(address) if cluster is None else ""
    if where:
        refuse_capacity(
            {**own, "nodes": nodes, "max_workers": max_workers, "_system_config": kwargs.get("_system_config") or None}
        )
    logs = logging_config_of(logging_config)
    settings = Settings(
        **capacity(own, nodes, cluster),
        namespace=namespace_of(namespace, job_config),
        environment=merge_environments(
            os.environ.get("SKATE_JOB_ENV", "") if where else "",  # a submitted job hands its own to its drivers
            with_logs(pack_environment(job_environment(runtime_env, job_config), job=True), logs),
        ),
        log_to_driver=log_to_driver is None or bool(log_to_driver),
        memory=memory_rules(kwargs.get("_system_config"), os.environ),
        keeping=keeping(kwargs.get("_system_config"), os.environ),
        max_workers=most_workers(max_workers, os.environ),
        address=where,
        looks_in=bool(kwargs.get("_looks_in")),
        others={name: value for name, value in others.items() if value is not None},
        apart=lives_apart(kwargs.get("_hub")),
        **spilling(kwargs.get("_system_config"), kwargs.get("_temp_dir"), os.environ),
    )
    with _lock:
        running = engines._current
        if running is None:
            running = _start(engine, settings)
        elif not ignore_reinit_error:
            raise RuntimeError(
                "A session runs already: init was called twice, or after a first remote call, "
                "which starts one by itself. Pass ignore_reinit_error=True to go on with it, or "
                "call shutdown() first."
            )
        if cluster is not None:
            cluster.engine = running
    return _describe(running)


def _check_names(kwargs: Mapping[str, Any], local_mode: bool) -> None:
    """RuntimeError for arguments that `init` does not know, or no longer."""
    unknown = sorted(kwargs.keys() - _PRIVATE)
    if unknown:
        raise RuntimeError(f"init has no argument called {', '.join(unknown)}.")
    if local_mode:
        raise RuntimeError(
            "local_mode is gone, here as in Ray: use init(engine='inline'), which runs everything "
            "in this process under the contract of the other engines."
        )


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """End the session: its processes, its objects, its names. Harmless when there is none.

    Returns when its processes are gone, so `wait_for_processes` has no effect. Arrays that were read
    stay readable. Raises RuntimeError in a task or an actor.
    """
    with _lock:
        running = engines.running()
        if running is None:
            return
        if not running.context().driver:
            raise RuntimeError("shutdown() belongs to the driver: a task or an actor cannot call it.")
        engines.use(None)
        try:
            running.close()
        finally:
            _remove_folder()


def _remove_folder() -> None:
    global _folder
    if _folder is not None:
        _folder.remove()
        _folder = None


def is_initialized() -> bool:
    """Whether a session runs in this process."""
    return engines.running() is not None


def _start(name: str | None, settings: Settings) -> engines.Engine:
    from skate.engines import DEFAULT, chosen, start

    global _folder
    name = chosen(name)
    if name == "ray":
        _make_room()
    if settings.address or name == "ray" or (settings.apart and name == DEFAULT):
        engine = start(name, settings)  # the session has its folder
    else:
        folder = SessionFolder()
        try:
            settings = gpus.complete(replace(settings, folder=folder.path))
            engine = start(name, settings)
        except BaseException:
            folder.remove()
            raise
        _folder = folder
    engines.use(engine)
    logs = logs_of(settings.environment)
    if logs and name != "ray":  # Ray has done it already
        from skate.core.logging_config import apply_packed

        apply_packed(logs)
    engines.start_with(_start_by_itself)
    return engine


def _make_room() -> None:
    from skate.compat.hook import make_room

    make_room()


def cluster_of_machines(*args: Any, **kwargs: Any) -> Any:
    """Ray's own cluster of several nodes here, where the engine `ray` is chosen from outside; None elsewhere."""
    if (os.environ.get("SKATE_ENGINE") or load_config().chosen_engine) != "ray":
        return None
    _make_room()
    from skate.engines.ray.cluster import Cluster

    return Cluster(init, *args, **kwargs)


def _start_by_itself() -> engines.Engine:
    with _lock:
        running = engines._current
        if running is None:
            init()
            running = engines.running()
        assert running is not None
        return running


def _host() -> engines.Engine | None:
    """The engine of a worker process of Ray's; None in any other."""
    from skate.engines import hosted

    return _start_by_itself() if hosted() else None


def _refuse_in_child() -> engines.Engine:
    raise RuntimeError(
        f"This process (pid {os.getpid()}) was forked from one that uses Skate, and has no "
        "session: references and handles made before the fork belong to the parent. Call "
        "skate.init() here to start a session of its own."
    )


def _after_fork_in_child() -> None:
    global _folder, _lock
    _folder = None  # it is the parent's
    _lock = threading.RLock()  # another thread of the parent may have held it
    refs.released.clear()
    refs.closed_streams.clear()
    if engines.running() is not None:
        engines.use(None)
        engines.start_with(_refuse_in_child)


def _at_exit() -> None:
    running = engines.running()
    if running is not None and running.context().driver:  # a worker's end is its engine's affair
        shutdown()


def _describe(running: engines.Engine) -> RayContext:
    context = running.context()
    return RayContext(
        {
            "node_ip_address": "127.0.0.1",
            "node_id": context.node,
            "namespace": context.namespace,
            "address": running.address,
            "gcs_address": "" if running.address == "local" else running.address,
            "redis_address": None,
            "object_store_address": None,
            "raylet_socket_name": None,
            "session_dir": running.folder or None,
            "metrics_export_port": None,
            "dashboard_agent_listen_port": None,
            "webui_url": "",
            "dashboard_url": "",
            **getattr(running, "address_info", {}),
        }
    )


_register: Callable[..., None] = os.register_at_fork
_register(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
engines.start_with(_start_by_itself)
engines.find_with(_host)
