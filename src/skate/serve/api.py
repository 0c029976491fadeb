"""The verbs: start, run, delete, status, shutdown, and finding handles."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import skate
from skate import exceptions
from skate.serve import context, router
from skate.serve.build import build_app, http_is_installed
from skate.serve.config import ControllerOptions, HTTPOptions, ProxyLocation, gRPCOptions, location_of, logging_of
from skate.serve.context import ReplicaContext
from skate.serve.deployments import DEFAULT, Application, Deployment, Unset
from skate.serve.exceptions import RayServeException, UnknownDeploymentError
from skate.serve.handle import DeploymentHandle
from skate.serve.schema import ServeStatus, read_status
from skate.serve.specs import AppSpec

DEFAULT_APP = "default"
PATIENCE_S = 30.0
"""Seconds for which a controller that is being restarted is waited for."""


class RunTarget(NamedTuple):
    """One of the applications of `run_many`."""

    target: Application
    name: str = DEFAULT_APP
    route_prefix: str | None = "/"
    logging_config: dict[str, Any] | None = None
    external_scaler_enabled: bool = False


def start(
    proxy_location: str | ProxyLocation | None = None,
    http_options: dict[str, Any] | HTTPOptions | None = None,
    grpc_options: dict[str, Any] | gRPCOptions | None = None,
    logging_config: dict[str, Any] | None = None,
    controller_options: dict[str, Any] | ControllerOptions | None = None,
    detached: bool = True,
) -> None:
    """Start serve in this session (`run` does so by itself); nothing happens when it runs already.

    Args:
        proxy_location: ``"HeadOnly"``, ``"EveryNode"`` (each machine that has replicas; the default) or ``"Disabled"``:
            where there is HTTP.
        http_options: see `HTTPOptions`.
        grpc_options: see `gRPCOptions`.
        logging_config: how replicas log that have none of their own: a dict or a `LoggingConfig`.
        controller_options: see `ControllerOptions`.
        detached: serve always is; an argument of Ray's past that programs still give.

    Raises ValueError and TypeError for wrong options, which they name.
    """
    http = HTTPOptions.read(http_options or {}, "http_options")
    grpc = gRPCOptions.read(grpc_options, "grpc_options") if grpc_options is not None else None
    location = location_of(proxy_location, "proxy_location") if proxy_location is not None else None
    controller = ControllerOptions.read(controller_options or {}, "controller_options")
    ran = _runs()
    _controller(
        http.model_dump(), grpc.model_dump() if grpc else None, location, logging_of(logging_config), controller
    )
    if "Disabled" not in (location, http.location):
        from skate.serve import proxy

        try:
            _ask_proxy(proxy.start_proxy(http, grpc), "address")
        except OSError:
            if not ran:
                shutdown()
            raise


def _runs() -> bool:
    """Does serve run in this session?"""
    if not skate.is_initialized():
        return False
    try:
        context.controller()
    except RuntimeError:
        return False
    return True


def _ask_proxy(front: Any, method: str, *args: Any) -> Any:
    """Ask the proxy. One that cannot listen is ended, so that the next may listen elsewhere."""
    try:
        return _ask(front, method, *args)
    except OSError:
        skate.kill(front)
        raise


def _controller(
    http: dict[str, Any] | None = None,
    grpc: dict[str, Any] | None = None,
    location: str | None = None,
    logging: dict[str, Any] | None = None,
    process: ControllerOptions | None = None,
) -> Any:
    """The controller, started where there is none."""
    skate.util.preload("skate.serve.controller", "skate.serve.vault")
    if not skate.is_initialized():
        skate.init()
    try:
        return context.controller()
    except RuntimeError:
        pass
    from skate.serve.controller import Controller
    from skate.serve.vault import Vault

    own = {"num_cpus": 0, "namespace": context.NAMESPACE, "lifetime": "detached", "max_restarts": -1}
    own |= context.at_home(soft=True)
    try:
        skate.remote(Vault).options(**own, name=context.VAULT).remote()
        fresh = True
    except ValueError:  # the controller was killed, what it wanted is still there
        fresh = False
    options = {**own, "name": context.CONTROLLER, "max_concurrency": 100_000, "max_task_retries": 0}
    if process is not None and process.runtime_env:
        options["runtime_env"] = process.runtime_env
    settings = {"http": http, "grpc": grpc, "location": location, "logging": logging, "pid": os.getpid()}
    return skate.remote(Controller).options(**options, get_if_exists=True).remote(fresh, settings)


def _proxy() -> Any:
    """The proxy, started if `start` did not: except where actors live in this process, and a test client is used."""
    try:
        return skate.get_actor(context.PROXY, namespace=context.NAMESPACE)
    except ValueError:
        pass
    if not http_is_installed():
        print("serve: HTTP is not served, handles work. For HTTP: pip install 'skate-ray[serve]'", file=sys.stderr)
        return None
    from skate.serve import proxy

    settings = ask("get_settings")
    options = HTTPOptions.read(settings.get("http") or {}, "http_options")
    if "Disabled" in (settings.get("location"), options.location):
        return None
    grpc = settings.get("grpc")
    return proxy.start_proxy(options, gRPCOptions.read(grpc, "grpc_options") if grpc else None)


def run(
    target: Application,
    *,
    blocking: bool = False,
    name: str = DEFAULT_APP,
    route_prefix: str | Unset | None = DEFAULT,
    logging_config: dict[str, Any] | None = None,
    _blocking: bool = True,
    wait_for_ingress_deployment_creation: bool = True,
    external_scaler_enabled: bool = False,
    _local_testing_mode: bool = False,
) -> DeploymentHandle[Any]:
    """Deploy an application in place of what had its name, and return the handle of its ingress once it runs.

    Args:
        target: what ``Deployment.bind`` gave.
        blocking: do not return, but print the status until Ctrl-C.
        name: the application's name.
        route_prefix: HTTP paths that begin so belong to it; "/" by default, None: it has no HTTP.
        external_scaler_enabled: whether the REST interface may say how many replicas deployments have; none of them may
            scale by itself then.
        _local_testing_mode: where no session runs yet, start one of the engine `inline`: all in this process.

    Raises:
        TypeError: `target` is not a bound deployment.
        RayServeException: the name is empty.
        ValueError: the route_prefix does not begin with "/" or is taken.
        RuntimeError: it could not be deployed; the message says which deployment failed of what.
    """
    if _local_testing_mode and not skate.is_initialized():
        skate.init(engine="inline")
    prefix = "/" if isinstance(route_prefix, Unset) else route_prefix
    (handle,) = run_many(
        [RunTarget(target, name, prefix, logging_config, external_scaler_enabled)],
        wait_for_applications_running=_blocking,
    )
    if blocking:
        _block()
    return handle


def run_many(
    targets: Sequence[RunTarget],
    *,
    blocking: bool = False,
    wait_for_ingress_deployment_creation: bool = True,
    wait_for_applications_running: bool = True,
) -> list[DeploymentHandle[Any]]:
    """Deploy several applications at once; see `run`."""
    if not targets:
        raise ValueError("run_many needs at least one application")
    for each in targets:
        _check(each)
    _check_names(targets)
    _controller()
    front = _proxy() if any(each.route_prefix is not None for each in targets) else None
    environment = _own_environment()
    specs = [_spec(each, environment) for each in targets]
    ask("deploy", specs)
    handles: list[DeploymentHandle[Any]] = [DeploymentHandle(spec.ingress, spec.name) for spec in specs]
    if wait_for_applications_running:
        found, told = ask("until_settled", [spec.name for spec in specs])
        for name, (status, message) in found.items():
            if status != "RUNNING":
                raise RuntimeError(f"Deploying application {name!r} failed ({status}):\n{message}")
        for handle in handles:
            handle._init(told)
        if front is not None:
            for each in targets:
                if each.route_prefix is not None:
                    _ask_proxy(front, "routed", each.name, each.route_prefix)
    if blocking:
        _block()
    return handles


def _spec(target: RunTarget, environment: dict[str, Any]) -> AppSpec:
    """An application for the controller; see `_adjusting` for the environment."""
    adjust = _adjusting(target.logging_config, environment)
    spec = build_app(target.target, target.name, target.route_prefix, adjust=adjust)
    if not target.external_scaler_enabled:
        return spec
    for name, wanted in spec.targets.items():
        if wanted.config.autoscaling_config is not None:
            raise ValueError(f"external_scaler_enabled and autoscaling exclude each other: {name} scales by itself")
    return replace(spec, external_scaler=True)


def ask(method: str, *args: Any, **kwargs: Any) -> Any:
    """Call the controller: what it gave, or raised. Made again when it is being restarted: a call may run twice."""
    return _ask(None, method, *args, **kwargs)


def _ask(actor: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    """The same for any actor; None: the controller, found anew for each try."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return skate.get(getattr(actor or context.controller(), method).remote(*args, **kwargs))
        except exceptions.RayTaskError as error:
            raise error.cause from None
        except exceptions.ActorUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _own_environment() -> dict[str, Any]:
    """The runtime environment of this program, where the controller is another's: replicas would have that one's."""
    here = skate.get_runtime_context()
    given = dict(here.runtime_env or {})
    return given if given and ask("get_settings").get("job") != here.get_job_id() else {}


def _adjusting(logging: Any, environment: dict[str, Any]) -> Any:
    """For `build_app`: gives deployments this ``logging_config`` and this environment, where they have none. To an
    environment of a deployment's own the ``working_dir`` is added, as in Ray.
    """
    config = logging_of(logging)

    def adjust(name: str, deployment: Deployment) -> Deployment:
        options: dict[str, Any] = {}
        if config is not None and not deployment._config.logging_config:
            options["logging_config"] = config
        actor = dict(deployment._config.ray_actor_options)
        own = actor.get("runtime_env")
        if environment and not own:
            options["ray_actor_options"] = {**actor, "runtime_env": environment}
        elif environment.get("working_dir") and own and "working_dir" not in own:
            merged = {**own, "working_dir": environment["working_dir"]}
            options["ray_actor_options"] = {**actor, "runtime_env": merged}
        return deployment.options(**options) if options else deployment

    return adjust if config is not None or environment else None


def _check_names(targets: Sequence[RunTarget]) -> None:
    names = [each.name for each in targets]
    for name in names:
        if names.count(name) > 1:
            raise RayServeException(f"run_many was given several applications of the name {name!r}")


def _check(target: RunTarget) -> None:
    if not isinstance(target.target, Application):
        raise TypeError(
            f"serve.run takes an application, which Deployment.bind makes, not {target.target!r} "
            f"({type(target.target).__name__})"
        )
    if not isinstance(target.name, str) or not target.name:
        raise RayServeException(f"An application needs a name that is not empty, not {target.name!r}")
    prefix = target.route_prefix
    if prefix is not None:
        if not isinstance(prefix, str) or not prefix.startswith("/"):
            raise ValueError(f"route_prefix must begin with '/', not {prefix!r}")
        if prefix != "/" and prefix.endswith("/"):
            raise ValueError(f"route_prefix must not end with '/': {prefix!r}")
        if "{" in prefix or "}" in prefix:
            raise ValueError(f"route_prefix may not hold wildcards: {prefix!r}")


def _block() -> None:
    try:
        while True:
            time.sleep(10)
    except KeyboardInterrupt:
        shutdown()


def delete(name: str, _blocking: bool = True) -> None:
    """End an application; returns when its replicas have gone. Does nothing when there is none of this name."""
    ask("delete", [name], wait=_blocking)


def status() -> ServeStatus:
    """What runs: applications, their deployments, how they are."""
    try:
        context.controller()
    except RuntimeError:
        return ServeStatus()
    return read_status(ask("status"))


def shutdown() -> None:
    """End all applications, and serve itself. Does nothing when it does not run."""
    router.forget_all()
    if not skate.is_initialized():
        return
    try:
        context.controller()
    except RuntimeError:
        return
    try:
        ask("shutdown")
    except exceptions.RayError as error:
        print(f"serve: the controller did not shut down cleanly: {error}")
    for name in (*context.proxies(), context.CONTROLLER, context.VAULT):
        try:
            skate.kill(skate.get_actor(name, namespace=context.NAMESPACE))
        except ValueError:
            continue
    router.forget_all()  # where replicas live in this process, they had some until now


async def shutdown_async() -> None:
    """`shutdown`, on an event loop."""
    import asyncio

    await asyncio.to_thread(shutdown)


def get_app_handle(name: str) -> DeploymentHandle[Any]:
    """The handle of an application's ingress. Raises RayServeException when there is no such application."""
    row = ask("status")["applications"].get(name)
    if row is None:
        raise RayServeException(f"Application {name!r} does not exist.")
    return DeploymentHandle(row["ingress"], name)


def get_deployment_handle(
    deployment_name: str, app_name: str | None = None, _check_exists: bool = True
) -> DeploymentHandle[Any]:
    """The handle of a deployment, of the calling replica's application when `app_name` is None.

    Raises UnknownDeploymentError when there is no such deployment, RayServeException when there is no `app_name`
    outside of a replica.
    """
    if app_name is None:
        replica = context.current_replica()
        if replica is None:
            raise RayServeException("get_deployment_handle needs an app_name outside of a replica")
        app_name = replica.id.app_name
    if _check_exists:
        row = ask("status")["applications"].get(app_name)
        if row is None or deployment_name not in row["deployments"]:
            raise UnknownDeploymentError(f"Deployment {deployment_name!r} of application {app_name!r} does not exist.")
    return DeploymentHandle(deployment_name, app_name)


def get_replica_context() -> ReplicaContext:
    """What the calling replica is. Raises RayServeException outside of one."""
    replica = context.current_replica()
    if replica is None:
        raise RayServeException("get_replica_context works inside a replica only")
    here: ReplicaContext = replica.context
    return here


def get_multiplexed_model_id() -> str:
    """The model that the request is for which runs here; empty: none was named."""
    return context.request_context.get().multiplexed_model_id
