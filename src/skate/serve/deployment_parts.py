"""Options of deployments that have fields of their own: routing, answers to too many requests, gangs, actors."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import skate
from skate.serve.scaling_config import found_at
from skate.serve.settings import Settings, WrongTypeError, check_json, number, set_field

DEFAULT_ROUTER = "skate.serve.request_router:PowerOfTwoChoicesRequestRouter"


@dataclass(frozen=True)
class BackpressureConfig(Settings):
    """What an HTTP client is answered whose request is turned away because too many wait.

    Args:
        status_code: 503 or 429.
        retry_after_s: what the header Retry-After says, in seconds, rounded up; None: there is none.
    """

    status_code: int = 503
    retry_after_s: float | None = None

    def __post_init__(self) -> None:
        self._read_numbers()
        if self.status_code not in (503, 429):
            raise ValueError(f"backpressure_config.status_code must be 503 or 429, not {self.status_code!r}")
        if self.retry_after_s is not None:
            number("backpressure_config.retry_after_s", self.retry_after_s, 0)


@dataclass(frozen=True)
class RequestRouterConfig(Settings):
    """Which replica a request goes to, decided by a class of the program's own.

    Args:
        request_router_class: a subclass of `skate.serve.request_router.RequestRouter`, or its import path.
        request_router_kwargs: for its ``initialize_state``; what JSON can have.
        request_routing_stats_period_s: seconds between two calls of the deployment's ``record_routing_stats``.
        request_routing_stats_timeout_s: seconds after which one counts as failed.
        initial_backoff_s, backoff_multiplier, max_backoff_s: the longest a request waits before the router is asked
            again, when nothing that it chose has room: seconds at first, what they are multiplied by each time, and
            the most. When a request of the same process ends, it is asked sooner.
    """

    request_router_class: str | Callable[..., Any] = DEFAULT_ROUTER
    request_router_kwargs: dict[str, Any] = field(default_factory=dict)
    request_routing_stats_period_s: float = 10.0
    request_routing_stats_timeout_s: float = 30.0
    initial_backoff_s: float = 0.025
    backoff_multiplier: float = 2.0
    max_backoff_s: float = 0.5
    pickled: bytes = field(default=b"", repr=False)
    """The class itself, as it travels."""

    def __post_init__(self) -> None:
        self._read_numbers()
        check_json("request_router_config.request_router_kwargs", self.request_router_kwargs)
        for name in (
            *("request_routing_stats_period_s", "request_routing_stats_timeout_s", "initial_backoff_s"),
            *("backoff_multiplier", "max_backoff_s"),
        ):
            number(f"request_router_config.{name}", getattr(self, name), 0, open_end=True)
        given = self.request_router_class
        if isinstance(given, str):
            if self.pickled or self.is_default_request_router():
                return
            try:
                made = found_at(given)
            except AttributeError as error:
                raise ImportError(f"request_router_config.request_router_class: {error}") from None
        elif isinstance(given, type):
            made = given
            set_field(self, "request_router_class", f"{given.__module__}.{given.__qualname__}")
        else:
            raise WrongTypeError(f"request_router_config.request_router_class must be a class, not {given!r}")
        set_field(self, "pickled", skate.cloudpickle.dumps(made))

    def is_default_request_router(self) -> bool:
        """Whether it is the usual one, the less busy of two."""
        given = self.request_router_class
        return isinstance(given, str) and given.endswith("PowerOfTwoChoicesRequestRouter")

    def get_request_router_class(self) -> Any:
        """The class itself. Raises ImportError where it cannot be had."""
        return pickle.loads(self.pickled) if self.pickled else found_at(str(self.request_router_class))


class GangPlacementStrategy(StrEnum):
    """Where the replicas of a gang go: on few nodes, or on many."""

    PACK = "PACK"
    SPREAD = "SPREAD"


class GangRuntimeFailurePolicy(StrEnum):
    """What becomes of a gang when one of its replicas fails."""

    RESTART_GANG = "RESTART_GANG"
    RESTART_REPLICA = "RESTART_REPLICA"


@dataclass(frozen=True)
class GangSchedulingConfig(Settings):
    """Replicas that begin and end together, a *gang*: all of it has room, or none of it is started.

    Args:
        gang_size: replicas in each; the number of replicas must be a multiple of it.
        gang_placement_strategy: "PACK" or "SPREAD".
        runtime_failure_policy: "RESTART_GANG": when one replica fails, its gang is replaced.
    """

    gang_size: int
    gang_placement_strategy: GangPlacementStrategy = GangPlacementStrategy.PACK
    runtime_failure_policy: GangRuntimeFailurePolicy = GangRuntimeFailurePolicy.RESTART_GANG

    def __post_init__(self) -> None:
        self._read_numbers()
        number("gang_scheduling_config.gang_size", self.gang_size, 1, whole=True)
        for name, kind in (
            ("gang_placement_strategy", GangPlacementStrategy),
            ("runtime_failure_policy", GangRuntimeFailurePolicy),
        ):
            try:
                set_field(self, name, kind(getattr(self, name)))
            except ValueError as error:
                raise ValueError(f"gang_scheduling_config.{name}: {error}") from None
        if self.runtime_failure_policy is GangRuntimeFailurePolicy.RESTART_REPLICA:
            raise NotImplementedError(
                "gang_scheduling_config.runtime_failure_policy: only RESTART_GANG is there, as in Ray 2.60"
            )


@dataclass(frozen=True)
class DeploymentActorConfig(Settings):
    """An actor that all replicas of a deployment share, and that outlives each of them.

    Args:
        name: by which `serve.get_deployment_actor` finds it.
        actor_class: what ``@skate.remote`` made of a class, or the import path of such a thing.
        init_args, init_kwargs: for its constructor.
        actor_options: options of the actor; its ``runtime_env`` is the deployment's where it has none.
    """

    name: str
    actor_class: Any
    init_args: tuple[Any, ...] = ()
    init_kwargs: dict[str, Any] = field(default_factory=dict)
    actor_options: dict[str, Any] = field(default_factory=dict)
    pickled: bytes = field(default=b"", repr=False, compare=False)
    """The class itself, as it travels."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise WrongTypeError(f"deployment_actors: name must be a string that is not empty, not {self.name!r}")
        where = f"deployment_actors[{self.name!r}]"
        for name, kind in (("init_kwargs", dict), ("actor_options", dict)):
            if not isinstance(getattr(self, name), kind):
                raise WrongTypeError(f"{where}.{name} must be a dict, not {getattr(self, name)!r}")
        set_field(self, "init_args", tuple(self.init_args or ()))
        for option in ("name", "namespace", "lifetime", "max_restarts"):
            if option in self.actor_options:
                raise ValueError(f"{where}.actor_options may not have {option!r}: the controller sets it")
        if self.pickled:
            return
        given = self.actor_class
        try:
            made = found_at(given) if isinstance(given, str) else given
        except AttributeError as error:
            raise ImportError(f"{where}.actor_class: {error}") from None
        if not hasattr(made, "remote") or not hasattr(made, "options"):
            raise WrongTypeError(f"{where}.actor_class must be a class with @ray.remote, not {given!r}")
        set_field(self, "pickled", skate.cloudpickle.dumps(made))
        if not isinstance(given, str):
            plain = getattr(made, "__ray_actor_class__", made)
            set_field(self, "actor_class", f"{plain.__module__}:{getattr(plain, '__qualname__', 'actor')}")

    def get_actor_class(self) -> Any:
        """The class itself."""
        return pickle.loads(self.pickled)


def actors_of(given: Any) -> tuple[DeploymentActorConfig, ...] | None:
    """``deployment_actors`` as they were given, checked."""
    if given is None:
        return None
    if not isinstance(given, list | tuple):
        raise WrongTypeError(f"deployment_actors must be a list, not {given!r} ({type(given).__name__})")
    found = tuple(DeploymentActorConfig.read(one, f"deployment_actors[{place}]") for place, one in enumerate(given))
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"deployment_actors: there are several of the name {name!r}")
    return found
