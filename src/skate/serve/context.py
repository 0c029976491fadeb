"""What serve knows in this process: the replica it is, the request it is in, and where the controller is found."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import skate
from skate.serve.exceptions import NotRunningError
from skate.serve.gang import GangContext

NAMESPACE = "serve"
CONTROLLER = "SKATE_SERVE_CONTROLLER"
VAULT = "SKATE_SERVE_VAULT"
PROXY = "SERVE_PROXY"
"""The proxy of the head; those of other machines have their node's id behind it."""
HEAD = "node:__internal_head__"
"""A resource that the head of a cluster has."""


class RequestContext(NamedTuple):
    """What travels with a request from hop to hop."""

    request_id: str = ""
    route: str = ""
    app_name: str = ""
    multiplexed_model_id: str = ""


NO_REQUEST = RequestContext()
request_context: ContextVar[RequestContext] = ContextVar("skate_serve_request", default=NO_REQUEST)
"""The request that runs here; `NO_REQUEST` outside of one."""


def _get_serve_request_context() -> RequestContext:
    """The request that runs here, under the name by which programs for Ray ask for it."""
    return request_context.get()


@dataclass(frozen=True)
class DeploymentID:
    """Names a deployment, of an application."""

    name: str
    app_name: str = "default"

    def __str__(self) -> str:
        return f"Deployment(name={self.name!r}, app={self.app_name!r})"

    __repr__ = __str__


@dataclass(frozen=True)
class ReplicaID:
    """Names a replica: a part that is unique, of a deployment."""

    unique_id: str
    deployment_id: DeploymentID

    @property
    def deployment(self) -> str:
        """The deployment's name."""
        return self.deployment_id.name

    @property
    def app_name(self) -> str:
        """The application's name."""
        return self.deployment_id.app_name

    def to_full_id_str(self) -> str:
        """As the replica's actor is called."""
        return f"{_REPLICA}{self.app_name}#{self.deployment}#{self.unique_id}"

    @staticmethod
    def is_full_id_str(text: str) -> bool:
        """Whether `text` is what a replica's actor may be called."""
        return is_replica(text)

    @classmethod
    def from_full_id_str(cls, text: str) -> ReplicaID:
        """The replica whose actor is called so. Raises ValueError."""
        app, deployment, name = parts_of(text)
        return cls(name, DeploymentID(deployment, app))

    def __str__(self) -> str:
        return f"Replica(id={self.unique_id!r}, deployment={self.deployment!r}, app={self.app_name!r})"

    __repr__ = __str__


_REPLICA = "SERVE_REPLICA::"


def is_replica(actor: str) -> bool:
    """Whether an actor of this name is a replica."""
    return actor.startswith(_REPLICA)


def parts_of(actor: str) -> tuple[str, str, str]:
    """Application, deployment and own name of a replica, of its actor's name."""
    app, deployment, name = actor.removeprefix(_REPLICA).rsplit("#", 2)
    return app, deployment, name


@dataclass(frozen=True)
class ReplicaRank:
    """A replica's number among those of its deployment; its node's number, and its own on that node."""

    rank: int = 0
    node_rank: int = 0
    local_rank: int = 0


@dataclass
class ReplicaContext:
    """What `serve.get_replica_context` gives."""

    replica_id: ReplicaID
    servable_object: Any
    deployment_config: Any
    rank: ReplicaRank = ReplicaRank()
    world_size: int = 1
    gang_context: GangContext | None = None
    code_version: str | None = None

    @property
    def app_name(self) -> str:
        """The application's name."""
        return self.replica_id.app_name

    @property
    def deployment(self) -> str:
        """The deployment's name."""
        return self.replica_id.deployment

    @property
    def replica_tag(self) -> str:
        """The part of the replica's id that is its own."""
        return self.replica_id.unique_id


replica: Any = None
"""The replica that this process is, a `skate.serve.replica.Replica`; None in any other process, and in one that holds
more than it."""
farewells: list[Callable[[Any], Awaitable[None]]] = []
"""Called with a replica when it has finished its last request."""
loop: Any = None
"""That replica's event loop."""
replica_here: ContextVar[Any] = ContextVar("skate_serve_replica", default=None)
"""The replica whose code runs here."""


def current_replica() -> Any:
    """The replica whose code calls, a `skate.serve.replica.Replica`; None outside of one."""
    return replica_here.get() or replica


def replica_context() -> ReplicaContext | None:
    """What the replica is whose code calls; None outside of one."""
    here = current_replica()
    return here.context if here is not None else None


def is_cancelled() -> bool:
    """Whether the call that runs here was cancelled; not in a driver."""
    return current_replica() is not None and skate.get_runtime_context().is_canceled()


_prefix = ""
_numbers = count(1)


def new_request_id() -> str:
    """An id that no other request has: 32 hexadecimal digits."""
    global _prefix
    if not _prefix:
        _prefix = os.urandom(10).hex()
    return f"{_prefix}{next(_numbers):012x}"


def forget_prefix() -> None:
    """A forked process must not go on counting where its parent does."""
    global _prefix
    _prefix = ""


os.register_at_fork(after_in_child=forget_prefix)


def names() -> list[str]:
    """The names of serve's actors."""
    rows: list[Any] = skate.util.list_named_actors(all_namespaces=True)
    return [row["name"] for row in rows if row["namespace"] == NAMESPACE]


def proxies() -> list[str]:
    """The names of the proxies."""
    return [name for name in names() if name.startswith(PROXY)]


def whereabouts() -> dict[str, Any]:
    """Which actor, process and node the calling code is in."""
    here = skate.get_runtime_context()
    return {"node_id": here.get_node_id(), "actor_id": here.get_actor_id(), "pid": os.getpid()}


def session_folder() -> str:
    """The folder that processes of this session and machine have in common, or an empty string where there is none."""
    return str(skate.init(ignore_reinit_error=True).address_info.get("session_dir") or "")


def at_home(*, soft: bool) -> dict[str, Any]:
    """Options that keep an actor at the head of a cluster, also when it is restarted.

    Args:
        soft: whether it may be elsewhere when there is no room.
    """
    heads = (row["NodeID"] for row in skate.nodes() if row["Alive"] and HEAD in row["Resources"])
    head = next(heads, None)
    if head is None:
        return {}
    place = skate.util.scheduling_strategies.NodeAffinitySchedulingStrategy(head, soft=soft)
    return {"scheduling_strategy": place}


def controller() -> skate.actor.ActorHandle[Any]:
    """The controller's handle. Raises NotRunningError when serve does not run here."""
    try:
        return skate.get_actor(CONTROLLER, namespace=NAMESPACE)
    except ValueError:
        raise NotRunningError("Serve does not run in this session: start it with serve.start or serve.run.") from None
