"""Statuses as `serve.status` gives them; the classes of configurations under the names that Ray has."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from skate.serve.config_file import DeploymentSchema as DeploymentSchema
from skate.serve.config_file import HTTPOptionsSchema as HTTPOptionsSchema
from skate.serve.config_file import LoggingConfig as LoggingConfig
from skate.serve.config_file import RayActorOptionsSchema as RayActorOptionsSchema
from skate.serve.config_file import ScaleDeploymentRequest as ScaleDeploymentRequest
from skate.serve.config_file import ServeApplicationSchema as ServeApplicationSchema
from skate.serve.config_file import ServeDeploySchema as ServeDeploySchema
from skate.serve.config_file import gRPCOptionsSchema as gRPCOptionsSchema
from skate.serve.context import ReplicaRank as ReplicaRank
from skate.serve.target import ApplicationStatus, DeploymentStatus


class ProxyStatus(StrEnum):
    """How a proxy is doing."""

    STARTING = "STARTING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"
    DRAINED = "DRAINED"


class EncodingType(StrEnum):
    """How logs are written."""

    TEXT = "TEXT"
    JSON = "JSON"


@dataclass
class DeploymentStatusOverview:
    """How a deployment is."""

    status: DeploymentStatus
    status_trigger: str
    replica_states: dict[str, int]
    message: str
    queued: int = 0
    replicas: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class ApplicationStatusOverview:
    """How an application is."""

    status: ApplicationStatus
    message: str
    last_deployed_time_s: float
    deployments: dict[str, DeploymentStatusOverview]
    route_prefix: str | None = None


@dataclass
class ServeStatus:
    """How serve is."""

    proxies: dict[str, Any] = field(default_factory=dict)
    applications: dict[str, ApplicationStatusOverview] = field(default_factory=dict)
    target_capacity: float | None = None


def read_status(rows: dict[str, Any]) -> ServeStatus:
    """The controller's plain values as classes."""
    applications = {}
    for name, row in rows["applications"].items():
        deployments = {
            key: DeploymentStatusOverview(
                DeploymentStatus(each["status"]),
                each["status_trigger"],
                each["replica_states"],
                each["message"],
                each["queued"],
                each["replicas"],
            )
            for key, each in row["deployments"].items()
        }
        applications[name] = ApplicationStatusOverview(
            ApplicationStatus(row["status"]),
            row["message"],
            row["last_deployed_time_s"],
            deployments,
            row["route_prefix"],
        )
    return ServeStatus(applications=applications)
