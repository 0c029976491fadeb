"""What `skate serve build` writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import skate
from skate.serve.build import build_app
from skate.serve.config_file import DeploymentSchema, ServeDeploySchema, to_yaml
from skate.serve.declared import plain_config
from skate.serve.deployments import Deployment
from skate.serve.importing import application_of, import_target


def text_of(import_paths: Sequence[str], servicers: Sequence[str], reflection: bool = True) -> str:
    """A configuration with the applications, as YAML. Raises BuildError."""
    apps = []
    for number, path in enumerate(import_paths, 1):
        name = f"app{number}"
        prefix = "/" if len(import_paths) == 1 else f"/{name}"
        apps.append({"name": name, "route_prefix": prefix, "import_path": path, "runtime_env": {},
                     "deployments": deployments_of(path, name)})  # fmt: skip
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "grpc_options": {"port": 9000, "grpc_servicer_functions": list(servicers), "enable_reflection": reflection},
        "logging_config": {"log_level": "INFO", "logs_dir": None, "encoding": "TEXT", "enable_access_log": True},
        "applications": apps,
    }
    ServeDeploySchema.model_validate(config)
    head = f"# Written by `skate serve build` of Skate {skate.__version__}.\n# Rename the applications as you like.\n\n"
    return head + to_yaml(config)


def deployments_of(path: str, app_name: str) -> list[dict[str, Any]]:
    """The deployments of an application, each with the options that its code gives it."""
    found: list[dict[str, Any]] = []

    def note(name: str, deployment: Deployment) -> Deployment:
        options = plain_config(deployment._config)
        if deployment._config.autoscaling_config is not None:
            options["num_replicas"] = "auto"
        known = {key: value for key, value in options.items() if key in deployment._given and value is not None}
        known.setdefault("num_replicas", options["num_replicas"])
        found.append(DeploymentSchema(name=name, **known).model_dump(exclude_unset=True))
        return deployment

    build_app(application_of(import_target(path), {}, path), app_name, None, adjust=note)
    return found
