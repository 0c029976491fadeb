"""Serve as configurations, the command line and the REST interface see it: one place to put, look and end."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import skate
from skate.exceptions import RayError
from skate.serve import api, context
from skate.serve.config_file import DEFAULT_APP, HTTPOptionsSchema, ServeDeploySchema, gRPCOptionsSchema

NO_INSTANCE: dict[str, Any] = {"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": None}
ANSWER_S = 2.0
"""Seconds for which proxies are waited for."""
PROXY = "SERVE_PROXY"


def put(config: Mapping[str, Any] | ServeDeploySchema) -> list[str]:
    """Have the applications of a configuration deployed, and no others that configurations brought; their names.

    Starts serve if it does not run; it goes on in the background, and `settled` waits for it. Raises SchemaError.
    """
    schema = ServeDeploySchema.model_validate(config)
    start(schema)
    api.ask("apply", schema.model_dump(exclude_unset=True))
    return [app.name for app in schema.applications]


def start(config: Mapping[str, Any] | ServeDeploySchema) -> None:
    """Start serve as a configuration has it; nothing happens when it runs already. Raises SchemaError."""
    schema = ServeDeploySchema.model_validate(config)
    grpc = schema.grpc_options if schema.grpc_options.grpc_servicer_functions else None
    api.start(
        proxy_location=schema.proxy_location,
        http_options=schema.http_options.model_dump(),
        grpc_options=grpc.model_dump() if grpc is not None else None,
        logging_config=schema.logging_config.model_dump() if schema.logging_config is not None else None,
    )


def settled(names: list[str], timeout_s: float | None = None) -> dict[str, tuple[str, str]]:
    """Wait until these applications are not being deployed any more: status and message of each."""
    found: dict[str, tuple[str, str]] = api.ask("until_settled", names, timeout_s)[0]
    return found


def scale(app: str, deployment: str, replicas: int) -> None:
    """Have so many replicas, where an external scaler says how many.

    Raises KeyError when there is no such deployment, RuntimeError when the application has no external scaler.
    """
    api.ask("scale", app, deployment, replicas)


def details() -> dict[str, Any]:
    """All that there is to know, as Ray's ``GET /api/serve/applications/`` has it; `NO_INSTANCE` without serve."""
    try:
        rows, settings = api.ask("status"), api.ask("get_settings")
    except RuntimeError:
        return dict(NO_INSTANCE)
    nodes = {row["NodeID"]: row["NodeManagerAddress"] for row in skate.nodes()}
    http = {name: value for name, value in (settings.get("http") or {}).items() if name in _HTTP}
    return {
        "controller_info": _actor(rows["controller"], context.CONTROLLER, nodes),
        "proxy_location": settings.get("location") or "EveryNode",
        "http_options": HTTPOptionsSchema(**http).model_dump(),
        "grpc_options": gRPCOptionsSchema(**(settings.get("grpc") or {})).model_dump(),
        "proxies": {
            where["node_id"]: {**_actor(where, name, nodes), "status": "HEALTHY"} for name, where in _proxies().items()
        },
        "applications": {name: _application(name, row, nodes) for name, row in rows["applications"].items()},
        "target_capacity": None,
        "target_groups": [],
        "restores_unset_config_options": True,
    }


def url(app: str) -> str | None:
    """Where an application is found by HTTP; None when it is not."""
    try:
        rows = api.ask("status")
        host, port = skate.get(skate.get_actor(PROXY, namespace=context.NAMESPACE).address.remote())
    except (RuntimeError, ValueError):  # there is no controller, or no proxy
        return None
    prefix = rows["applications"].get(app, {}).get("route_prefix")
    return f"http://{host}:{port}{prefix}" if prefix else None


_HTTP = frozenset(HTTPOptionsSchema._fields())


def _proxies() -> dict[str, dict[str, Any]]:
    """Where the proxies are, by name: those that say so soon."""
    asked = {}
    for name in context.proxies():
        with contextlib.suppress(ValueError):  # it has just ended
            asked[name] = skate.get_actor(name, namespace=context.NAMESPACE).whereabouts.remote()
    ready, _ = skate.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
    found = {}
    for name, ref in asked.items():
        if ref in ready:
            with contextlib.suppress(RayError):  # it has just ended
                found[name] = skate.get(ref)
    return found


def _actor(where: Mapping[str, Any], name: str, nodes: Mapping[str, str]) -> dict[str, Any]:
    """What Ray tells of any actor of serve's."""
    return {
        "node_id": where.get("node_id"),
        "node_ip": nodes.get(where.get("node_id", "")),
        "node_instance_id": "",
        "actor_id": where.get("actor_id"),
        "actor_name": name,
        "worker_id": None,
        "log_file_path": None,
    }


def _application(name: str, row: Mapping[str, Any], nodes: Mapping[str, str]) -> dict[str, Any]:
    declared = row.get("declared")
    return {
        "name": name,
        "route_prefix": row["route_prefix"],
        "docs_path": row.get("docs_path"),
        "status": row["status"],
        "message": row["message"],
        "last_deployed_time_s": row["last_deployed_time_s"],
        "deployed_app_config": {"name": DEFAULT_APP, **declared} if declared else None,
        "source": "declarative" if declared else "imperative",
        "deployments": {each: _deployment(name, each, found, nodes) for each, found in row["deployments"].items()},
        "external_scaler_enabled": row.get("external_scaler") or bool((declared or {}).get("external_scaler_enabled")),
        "deployment_topology": None,
    }


def _deployment(app: str, name: str, row: Mapping[str, Any], nodes: Mapping[str, str]) -> dict[str, Any]:
    config = {key: value for key, value in row["config"].items() if value is not None}
    options = dict(config.pop("ray_actor_options", {}))
    if "autoscaling_config" in config:
        del config["num_replicas"]
    return {
        "name": name,
        "status": row["status"],
        "status_trigger": row["status_trigger"],
        "message": row["message"],
        "deployment_config": {"name": name, **config, "ray_actor_options": options},
        "target_num_replicas": row["target_num_replicas"],
        "required_resources": {"CPU": options.get("num_cpus", 0), **(options.get("resources") or {})},
        "replicas": [_replica(app, name, replica, nodes) for replica in row["replicas"]],
        "recent_dead_replicas": [],
        "autoscaling_detail": {
            "scaling_status": row["status"] if row["status"] in ("UPSCALING", "DOWNSCALING") else "STABLE",
            "decisions": [],
            "metrics": {
                "ongoing_requests": sum(replica["ongoing"] for replica in row["replicas"]),
                "queued_requests": row["queued"],
            },
            "metrics_health": "healthy",
            "errors": [],
        },
    }


def _replica(app: str, deployment: str, row: Mapping[str, Any], nodes: Mapping[str, str]) -> dict[str, Any]:
    name = context.ReplicaID(row["replica_id"], context.DeploymentID(deployment, app)).to_full_id_str()
    return {
        **_actor(row["where"], name, nodes),
        "replica_id": row["replica_id"],
        "state": row["state"],
        "pid": row["where"].get("pid"),
        "start_time_s": row["since_s"],
        "ongoing": row["ongoing"],
    }


def initialized(address: str | None) -> bool:
    """Become a driver of the session at `address`, unless this process has a session; whether it was made so."""
    if skate.is_initialized():
        return False
    skate.init(address=address or "auto", namespace=context.NAMESPACE, log_to_driver=False)
    return True
