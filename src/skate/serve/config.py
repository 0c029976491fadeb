"""Options of deployments: their names, types, defaults and limits, which are Ray Serve's.

Every wrong value raises at once and names its field: ValueError, or for a wrong type an error that is TypeError and
ValueError. Replicas and the controller read these classes, so they need nothing that is slow to import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from skate.serve.deployment_parts import BackpressureConfig as BackpressureConfig
from skate.serve.deployment_parts import DeploymentActorConfig as DeploymentActorConfig
from skate.serve.deployment_parts import GangPlacementStrategy as GangPlacementStrategy
from skate.serve.deployment_parts import GangRuntimeFailurePolicy as GangRuntimeFailurePolicy
from skate.serve.deployment_parts import GangSchedulingConfig as GangSchedulingConfig
from skate.serve.deployment_parts import RequestRouterConfig as RequestRouterConfig
from skate.serve.deployment_parts import actors_of
from skate.serve.scaling_config import AUTO as AUTO
from skate.serve.scaling_config import AggregationFunction as AggregationFunction
from skate.serve.scaling_config import AutoscalingConfig as AutoscalingConfig
from skate.serve.scaling_config import AutoscalingContext as AutoscalingContext
from skate.serve.scaling_config import AutoscalingPolicy as AutoscalingPolicy
from skate.serve.scaling_config import TimeStampedValue as TimeStampedValue
from skate.serve.settings import Settings, WrongTypeError, number, set_field

PLACEMENT_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


@dataclass(frozen=True)
class DeploymentConfig(Settings):
    """The options of a deployment that replicas and routers go by.

    Args:
        num_replicas: how many replicas, 0 or more; set by autoscaling where that is on.
        max_ongoing_requests: requests that a replica runs at once.
        max_queued_requests: requests that wait in one caller's handle; -1: no limit.
        user_config: given to the class's ``reconfigure``; may change without new replicas.
        graceful_shutdown_wait_loop_s: seconds for which a replica that is to go still turns requests away, where there
            are several machines: callers there must hear of it.
        graceful_shutdown_timeout_s: seconds after which it is ended all the same.
        health_check_period_s: seconds between two health checks.
        health_check_timeout_s: seconds after which one counts as failed.
        autoscaling_config: see `AutoscalingConfig`; None: none.
        ray_actor_options: options of the replicas' actors.
        placement_group_bundles, placement_group_strategy: each replica gets a placement group of its own.
        placement_group_bundle_label_selector: labels that the nodes of each bundle must have; one selector is for all.
        max_replicas_per_node: the most on one node; None: any number.
        backpressure_config: see `BackpressureConfig`; None: 503 without a hint when to try again.
        request_router_config: see `RequestRouterConfig`; None: the less busy of two replicas.
        gang_scheduling_config: see `GangSchedulingConfig`; None: every replica by itself.
        deployment_actors: see `DeploymentActorConfig`; actors that the replicas share.
        logging_config: how replicas log.
        max_constructor_retry_count: the most tries of a constructor before deploying counts as failed.
        max_surge_percent: while a version is replaced, so many replicas more than wanted, 0 to 100, rounded up. An old
            replica goes when a new one serves. 0: old ones go first, which needs no more room than there is.
        rolling_update_percentage: with ``max_surge_percent=0``, the part of the replicas that goes at once.
    """

    num_replicas: int = 1
    max_ongoing_requests: int = 5
    max_queued_requests: int = -1
    user_config: Any = None
    graceful_shutdown_wait_loop_s: float = 2.0
    graceful_shutdown_timeout_s: float = 20.0
    health_check_period_s: float = 10.0
    health_check_timeout_s: float = 30.0
    autoscaling_config: AutoscalingConfig | None = None
    ray_actor_options: dict[str, Any] = field(default_factory=dict)
    placement_group_bundles: list[dict[str, float]] | None = None
    placement_group_strategy: str | None = None
    placement_group_bundle_label_selector: list[dict[str, str]] | None = None
    backpressure_config: BackpressureConfig | None = None
    request_router_config: RequestRouterConfig | None = None
    gang_scheduling_config: GangSchedulingConfig | None = None
    deployment_actors: tuple[DeploymentActorConfig, ...] | None = None
    max_replicas_per_node: int | None = None
    logging_config: dict[str, Any] | None = None
    max_constructor_retry_count: int = 20
    rolling_update_percentage: float = 0.2
    max_surge_percent: int = 20

    def __post_init__(self) -> None:
        self._read_numbers()
        number("num_replicas", self.num_replicas, 0, whole=True)
        number("max_ongoing_requests", self.max_ongoing_requests, 1, whole=True)
        number("max_queued_requests", self.max_queued_requests, -1, whole=True)
        number("graceful_shutdown_wait_loop_s", self.graceful_shutdown_wait_loop_s, 0)
        number("graceful_shutdown_timeout_s", self.graceful_shutdown_timeout_s, 0)
        number("health_check_period_s", self.health_check_period_s, 0, open_end=True)
        number("health_check_timeout_s", self.health_check_timeout_s, 0, open_end=True)
        number("max_constructor_retry_count", self.max_constructor_retry_count, 1, whole=True)
        number("max_surge_percent", self.max_surge_percent, 0, whole=True)
        if self.max_surge_percent > 100:
            raise ValueError(f"max_surge_percent must be at most 100, not {self.max_surge_percent}")
        number("rolling_update_percentage", self.rolling_update_percentage, 0, open_end=True)
        if self.rolling_update_percentage > 1:
            raise ValueError(f"rolling_update_percentage must be at most 1, not {self.rolling_update_percentage}")
        for name, kind in _PARTS.items():
            if getattr(self, name) is not None:
                set_field(self, name, kind.read(getattr(self, name), name))
        set_field(self, "deployment_actors", actors_of(self.deployment_actors))
        _check_actor_options(self.ray_actor_options)
        _check_placement(self)
        set_field(self, "logging_config", logging_of(self.logging_config))

    def heavy(self) -> tuple[Any, ...]:
        """What cannot change without new replicas."""
        return (
            _frozen(self.ray_actor_options),
            _frozen(self.placement_group_bundles),
            self.placement_group_strategy,
            self.max_replicas_per_node,
            _frozen(self.placement_group_bundle_label_selector),
            self.gang_scheduling_config,
            self.deployment_actors and [(one, one.pickled) for one in self.deployment_actors],
        )


_PARTS: dict[str, type[Settings]] = {
    "autoscaling_config": AutoscalingConfig,
    "backpressure_config": BackpressureConfig,
    "request_router_config": RequestRouterConfig,
    "gang_scheduling_config": GangSchedulingConfig,
}


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), _frozen(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return value if isinstance(value, int | float | str | None) else repr(value)


ACTOR_OPTIONS = frozenset(
    {
        *("accelerator_type", "memory", "num_cpus", "num_gpus", "object_store_memory", "resources", "runtime_env"),
        *("label_selector", "fallback_strategy", "scheduling_strategy"),
    }
)


def _check_actor_options(options: Any) -> None:
    if not isinstance(options, dict):
        raise WrongTypeError(f"ray_actor_options must be a dict, not {options!r} ({type(options).__name__})")
    for name in options:
        if name not in ACTOR_OPTIONS:
            raise ValueError(
                f"ray_actor_options has no option {name!r} that a deployment may set; "
                f"there are: {', '.join(sorted(ACTOR_OPTIONS))}"
            )
    for name in ("num_cpus", "num_gpus", "memory"):
        if options.get(name) is not None:
            number(f"ray_actor_options.{name}", options[name], 0)


def _check_gang(config: DeploymentConfig) -> None:
    gang = config.gang_scheduling_config
    if gang is None:
        return
    if config.max_replicas_per_node is not None:
        raise ValueError("max_replicas_per_node and gang_scheduling_config exclude each other")
    if config.placement_group_strategy is not None:
        raise ValueError(
            "placement_group_strategy and gang_scheduling_config exclude each other: "
            "gang_scheduling_config.gang_placement_strategy says where replicas go"
        )
    size, scaling = gang.gang_size, config.autoscaling_config
    counts = {"num_replicas": config.num_replicas}
    if scaling is not None:
        counts = {f"autoscaling_config.{name}": getattr(scaling, name) for name in ("min_replicas", "max_replicas")}
        if scaling.initial_replicas is not None:
            counts["autoscaling_config.initial_replicas"] = scaling.initial_replicas
    for name, count in counts.items():
        if count % size:
            raise ValueError(f"{name} ({count}) must be a multiple of gang_scheduling_config.gang_size ({size})")


def _check_selectors(config: DeploymentConfig) -> None:
    selectors, bundles = config.placement_group_bundle_label_selector, config.placement_group_bundles
    if selectors is None:
        return
    if not isinstance(selectors, list) or not all(isinstance(one, Mapping) for one in selectors):
        raise WrongTypeError(f"placement_group_bundle_label_selector must be a list of dicts, not {selectors!r}")
    if bundles is None:
        raise ValueError("placement_group_bundle_label_selector needs placement_group_bundles")
    if len(selectors) not in (1, len(bundles)):
        raise ValueError(
            f"placement_group_bundle_label_selector has {len(selectors)} entries: there must be one, or as many as "
            f"placement_group_bundles has ({len(bundles)})"
        )


def _check_room(bundle: Mapping[str, float], options: Mapping[str, Any]) -> None:
    """Whether a replica has room in the bundle where it runs."""
    need = {"CPU": options.get("num_cpus"), "GPU": options.get("num_gpus")}
    for name, amount in {**need, **(options.get("resources") or {})}.items():
        if amount and amount > bundle.get(name, 0):
            raise ValueError(
                f"placement_group_bundles[0] must hold what ray_actor_options asks for, for the replica runs "
                f"there: it has {bundle.get(name, 0)} of {name}, and {amount} are asked for"
            )


def _check_placement(config: DeploymentConfig) -> None:
    _check_gang(config)
    _check_selectors(config)
    bundles, strategy, most = (
        config.placement_group_bundles,
        config.placement_group_strategy,
        config.max_replicas_per_node,
    )
    if bundles is not None:
        if not isinstance(bundles, list) or not bundles or not all(isinstance(entry, Mapping) for entry in bundles):
            raise ValueError(f"placement_group_bundles must be a list of dicts with at least one, not {bundles!r}")
        for place, bundle in enumerate(bundles):
            for name, amount in bundle.items():
                number(f"placement_group_bundles[{place}][{name!r}]", amount, 0)
        _check_room(bundles[0], config.ray_actor_options)
    if strategy is not None:
        if strategy not in PLACEMENT_STRATEGIES:
            raise ValueError(
                f"placement_group_strategy must be one of {', '.join(PLACEMENT_STRATEGIES)}, not {strategy!r}"
            )
        if bundles is None:
            raise ValueError("placement_group_strategy needs placement_group_bundles")
    if most is not None:
        number("max_replicas_per_node", most, 1, whole=True)
        if most > 100:
            raise ValueError(f"max_replicas_per_node must be at most 100, not {most}")
        if bundles is not None:
            raise ValueError("max_replicas_per_node and placement_group_bundles exclude each other")


LEVELS: tuple[str, ...] = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET")
LOGGING_FIELDS: dict[str, Callable[[Any], bool]] = {
    "encoding": lambda value: value in ("TEXT", "JSON"),
    "log_level": lambda value: isinstance(value, int) or str(value).upper() in LEVELS,
    "logs_dir": lambda value: value is None or isinstance(value, str),
    "enable_access_log": lambda value: isinstance(value, bool),
    "additional_log_standard_attrs": lambda value: isinstance(value, list),
}


def logging_of(given: Any) -> Any:
    """A ``logging_config`` as a dict, from one or from a `LoggingConfig`. Raises ValueError and TypeError."""
    dump = getattr(given, "model_dump", None)
    config = given if dump is None else dump(exclude_unset=True)
    if config is not None:
        check_logging(config)
    return config


def check_logging(given: Any) -> None:
    """Check a ``logging_config``."""
    if not isinstance(given, dict):
        raise WrongTypeError(f"logging_config must be a dict, not {given!r} ({type(given).__name__})")
    for name, value in given.items():
        if name not in LOGGING_FIELDS:
            raise ValueError(f"logging_config has no field {name!r}; there are: {', '.join(sorted(LOGGING_FIELDS))}")
        if not LOGGING_FIELDS[name](value):
            raise ValueError(f"logging_config.{name} may not be {value!r}")


class ProxyLocation(StrEnum):
    """Where HTTP is served: nowhere, on the first machine, on every one that has replicas."""

    Disabled = "Disabled"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"


def location_of(given: Any, where: str) -> ProxyLocation:
    """A `ProxyLocation` from one, or from its name. Raises ValueError."""
    try:
        return ProxyLocation("Disabled" if given == "NoServer" else given)
    except ValueError:
        names = ", ".join(repr(str(one)) for one in ProxyLocation)
        raise WrongTypeError(f"{where} must be one of {names}, not {given!r}") from None


@dataclass(frozen=True)
class ControllerOptions(Settings):
    """Options of the controller's process.

    Args:
        runtime_env: ``{"env_vars": {...}}``, or nothing; replicas have their own, in ``ray_actor_options``.
    """

    runtime_env: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        given = self.runtime_env
        if given is None:
            return
        if not isinstance(given, dict) or given.keys() - {"env_vars"}:
            raise ValueError(f"controller_options.runtime_env may have env_vars, and nothing else: {given!r}")
        for name, value in given.get("env_vars", {}).items():
            if not isinstance(name, str) or not name or not isinstance(value, str):
                raise WrongTypeError(f"controller_options.runtime_env.env_vars[{name!r}] must be text, not {value!r}")


@dataclass(frozen=True)
class HTTPOptions(Settings):
    """Where and how HTTP is served.

    Args:
        host: address to listen on; None: HTTP is not served.
        port: port to listen on; 0: any that is free.
        root_path: a path that a proxy in front takes off before it passes requests on.
        request_timeout_s: seconds after which a request is answered 408; None: none.
        keep_alive_timeout_s: seconds for which an idle connection is kept.
        max_body_bytes: the largest body of a request; a larger one is answered 413. None: any. Not in Ray.
        location: a `ProxyLocation`, None: as `proxy_location` says; ``"NoServer"``, its old name, is ``"Disabled"``.
        middlewares, num_cpus: must stay empty, as in Ray 2.60: an application adds its own middlewares.
        root_url: not used, as in Ray 2.60.
        ssl_keyfile, ssl_certfile, ssl_keyfile_password, ssl_ca_certs: files for HTTPS.
    """

    host: str | None = "127.0.0.1"
    port: int = 8000
    root_path: str = ""
    request_timeout_s: float | None = None
    keep_alive_timeout_s: float = 90
    max_body_bytes: int | None = None
    location: str | None = None
    middlewares: list[Any] = field(default_factory=list)
    num_cpus: int = 0
    root_url: str = ""
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None

    def __post_init__(self) -> None:
        self._read_numbers()
        number("http_options.port", self.port, 0, whole=True)
        if self.port > 65535:
            raise ValueError(f"http_options.port must be at most 65535, not {self.port}")
        _check_location(self)
        if not isinstance(self.host, str) or not self.host:
            raise ValueError(f"http_options.host must be an address, not {self.host!r}")
        if self.root_path and not self.root_path.startswith("/"):
            raise ValueError(f"http_options.root_path must begin with '/', not {self.root_path!r}")
        if self.request_timeout_s is not None:
            number("http_options.request_timeout_s", self.request_timeout_s, 0, open_end=True)
        number("http_options.keep_alive_timeout_s", self.keep_alive_timeout_s, 0)
        if self.middlewares:
            raise ValueError(
                "http_options.middlewares is gone: add middlewares to the FastAPI or Starlette application"
            )
        if self.num_cpus:
            raise ValueError("http_options.num_cpus is gone: the proxy asks for no CPUs")
        if self.max_body_bytes is not None:
            number("http_options.max_body_bytes", self.max_body_bytes, 0, whole=True)
        if bool(self.ssl_keyfile) != bool(self.ssl_certfile):
            raise ValueError("http_options.ssl_keyfile and http_options.ssl_certfile go together")


def _check_location(options: HTTPOptions) -> None:
    location = location_of(options.location, "http_options.location") if options.location is not None else None
    if options.host is None:
        set_field(options, "host", HTTPOptions.host)
        location = ProxyLocation.Disabled
    set_field(options, "location", location)


@dataclass(frozen=True)
class gRPCOptions(Settings):
    """Where and how gRPC is served.

    Args:
        port: port to listen on.
        grpc_servicer_functions: import paths of generated ``add_..._to_server`` functions.
        request_timeout_s: seconds after which a request fails; None: none.
        enable_reflection: tell clients such as grpcurl which services there are, where grpcio-reflection is
            installed.
    """

    port: int = 9000
    grpc_servicer_functions: list[Any] = field(default_factory=list)
    request_timeout_s: float | None = None
    enable_reflection: bool = True

    def __post_init__(self) -> None:
        self._read_numbers()
        number("grpc_options.port", self.port, 0, whole=True)
        if self.request_timeout_s is not None:
            number("grpc_options.request_timeout_s", self.request_timeout_s, 0, open_end=True)
        if not isinstance(self.enable_reflection, bool):
            raise TypeError(f"grpc_options.enable_reflection must be a bool, not {self.enable_reflection!r}")
