"""Serve as configurations, the command line and the REST interface see it: one place to put, look and end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import skate
from skate.serve import api, context
from skate.serve.config_file import DEFAULT_APP, HTTPOptionsSchema, ServeDeploySchema, gRPCOptionsSchema
from skate.util.state import list_actors

NO_INSTANCE: dict[str, Any] = {"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": None}
MOST_ACTORS = 10_000
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
    actors = {
        row.name: row
        for row in list_actors(filters=[("state", "=", "ALIVE")], limit=MOST_ACTORS)
        if row.ray_namespace == context.NAMESPACE and row.name
    }
    http = {name: value for name, value in (settings.get("http") or {}).items() if name in _HTTP}
    return {
        "controller_info": _actor(actors.get(context.CONTROLLER), context.CONTROLLER),
        "proxy_location": settings.get("location") or "HeadOnly",
        "http_options": HTTPOptionsSchema(**http).model_dump(),
        "grpc_options": gRPCOptionsSchema(**(settings.get("grpc") or {})).model_dump(),
        "proxies": {
            str(row.node_id): {**_actor(row, name), "status": "HEALTHY"}
            for name, row in actors.items()
            if name.startswith(PROXY)
        },
        "applications": {name: _application(name, row, actors) for name, row in rows["applications"].items()},
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


def _actor(row: Any, name: str) -> dict[str, Any]:
    """What Ray tells of any actor of serve's."""
    return {
        "node_id": row.node_id if row else None,
        "node_ip": "127.0.0.1" if row else None,
        "node_instance_id": "",
        "actor_id": row.actor_id if row else None,
        "actor_name": name,
        "worker_id": None,
        "log_file_path": None,
    }


def _application(name: str, row: Mapping[str, Any], actors: Mapping[str, Any]) -> dict[str, Any]:
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
        "deployments": {each: _deployment(name, each, found, actors) for each, found in row["deployments"].items()},
        "external_scaler_enabled": row.get("external_scaler") or bool((declared or {}).get("external_scaler_enabled")),
        "deployment_topology": None,
    }


def _deployment(app: str, name: str, row: Mapping[str, Any], actors: Mapping[str, Any]) -> dict[str, Any]:
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
        "replicas": [_replica(app, name, replica, actors) for replica in row["replicas"]],
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


def _replica(app: str, deployment: str, row: Mapping[str, Any], actors: Mapping[str, Any]) -> dict[str, Any]:
    name = context.ReplicaID(row["replica_id"], context.DeploymentID(deployment, app)).to_full_id_str()
    actor = actors.get(name)
    return {
        **_actor(actor, name),
        "replica_id": row["replica_id"],
        "state": row["state"],
        "pid": actor.pid if actor else None,
        "start_time_s": row["since_s"],
        "ongoing": row["ongoing"],
    }


def initialized(address: str | None) -> bool:
    """Become a driver of the session at `address`, unless this process has a session; whether it was made so."""
    if skate.is_initialized():
        return False
    skate.init(address=address or "auto", namespace=context.NAMESPACE, log_to_driver=False)
    return True
