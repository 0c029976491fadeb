"""What is wanted of a deployment, what its replicas are, and the commands that lead from one to the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Any, NamedTuple

from skate.serve.config import DeploymentConfig
from skate.serve.gang import GangContext


class Phase(Enum):
    """Where a replica is in its life."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"


class DeploymentStatus(StrEnum):
    """How a deployment is doing; Ray's words."""

    UPDATING = "UPDATING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    UPSCALING = "UPSCALING"
    DOWNSCALING = "DOWNSCALING"


class ApplicationStatus(StrEnum):
    """How an application is doing; Ray's words."""

    NOT_STARTED = "NOT_STARTED"
    DEPLOYING = "DEPLOYING"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    RUNNING = "RUNNING"
    UNHEALTHY = "UNHEALTHY"
    DELETING = "DELETING"


@dataclass(frozen=True)
class Target:
    """What is wanted of a deployment."""

    config: DeploymentConfig
    version: str
    """Replicas of another version are replaced."""
    light: int = 0
    """Changes with what running replicas can take over (`user_config` and the like)."""
    replicas: int = 1
    code: str = ""
    """Names the pickled class or function with its arguments."""
    ingress: bool = False
    """Whether the application is reached through it."""

    def with_replicas(self, replicas: int) -> Target:
        """The same with another number of replicas."""
        return replace(self, replicas=replicas)


class Start(NamedTuple):
    """Start a replica."""

    replica: str
    target: Target
    rank: int
    gang: GangContext | None = None


class Reconfigure(NamedTuple):
    """Give a running replica its new options."""

    replica: str
    target: Target


class Drain(NamedTuple):
    """Have a replica finish what it has, then end; no router may send to it any more."""

    replica: str


class Kill(NamedTuple):
    """End a replica at once."""

    replica: str


Command = Start | Reconfigure | Drain | Kill


@dataclass
class Replica:
    """One replica."""

    name: str
    target: Target
    phase: Phase
    since: float
    """When it came into its phase."""
    placed: bool = False
    """Whether its process is there."""
    light: int = 0
    """The options that it was last given."""
    sick: int = 0
    """Health checks failed in a row."""
    rank: int = 0
    """The lowest number that no other replica had when it began."""
    told: bool = True
    """Whether what was decided of it was also commanded."""
    gang: GangContext | None = None
    hasty: bool = False
    """Whether it is to be ended at once, for it has not served yet."""


class Introduction(NamedTuple):
    """What a replica tells of itself to a controller that was restarted."""

    target: Target | None
    """What it was started with; None: it was never told."""
    rank: int
    slot: int
    """Its place on the board."""
    where: dict[str, Any]
    info: dict[str, Any] | None
    """What callers have to know of it; None: its constructor runs yet, or has failed."""
    gang: GangContext | None
    leaving: bool
    """Whether it was told to end."""


def first_target(config: DeploymentConfig) -> int:
    """How many replicas a deployment begins with."""
    scaling = config.autoscaling_config
    return config.num_replicas if scaling is None else scaling.first()


def gang_size(target: Target) -> int:
    """How many replicas begin and end together."""
    gang = target.config.gang_scheduling_config
    return gang.gang_size if gang is not None else 1
