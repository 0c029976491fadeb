"""Options of deployments: their names, types, defaults and limits, which are Ray Serve's.

Every wrong value raises at once and names its field: ValueError, or TypeError for a wrong type. Replicas and the
controller read these classes, so they need nothing that is slow to import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

PLACEMENT_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


def number(name: str, value: Any, least: float, *, open_end: bool = False, whole: bool = False) -> None:
    """Check that `value` is a number from `least` on (above it, with `open_end`)."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "an integer" if whole else "a number"
        raise TypeError(f"{name} must be {kind}, not {value!r} ({type(value).__name__})")
    if not math.isfinite(value) or value < least or (open_end and value == least):
        raise ValueError(f"{name} must be {'above' if open_end else 'at least'} {least}, not {value!r}")


@dataclass(frozen=True)
class Settings:
    """What the classes of settings have in common."""

    @classmethod
    def read(cls, given: Any, where: str) -> Self:
        """Settings from a mapping, or as they are. TypeError and ValueError name the field."""
        if isinstance(given, cls):
            return given
        dump = getattr(given, "model_dump", None)
        if dump is not None:
            given = dump(exclude_unset=True)
        if not isinstance(given, Mapping):
            raise TypeError(f"{where} must be a dict or {cls.__name__}, not {given!r} ({type(given).__name__})")
        known = {entry.name for entry in fields(cls)}
        for name in given:
            if name not in known:
                raise ValueError(f"{where} has no field {name!r}; there are: {', '.join(sorted(known))}")
        return cls(**given)

    def model_dump(self) -> dict[str, Any]:
        """The fields as a dict."""
        return asdict(self)

    dict = model_dump


@dataclass(frozen=True)
class AutoscalingConfig(Settings):
    """How many replicas a deployment has, by the requests that it holds.

    Args:
        min_replicas: the fewest; 0: none while there are no requests.
        initial_replicas: how many at first; `min_replicas` when None.
        max_replicas: the most.
        target_ongoing_requests: requests for each replica, running and queued, that are aimed at.
        metrics_interval_s: seconds between two reports of queue lengths.
        look_back_period_s: seconds over which requests are averaged.
        upscale_delay_s: seconds for which more replicas must have been wanted before they are started.
        downscale_delay_s: seconds for which fewer must have been wanted before some are ended.
        downscale_to_zero_delay_s: the same for the last one; `downscale_delay_s` when None.
        upscaling_factor: how much of a lack is made up for at once; 1.0: all of it.
        downscaling_factor: how much of a surplus goes at once.
        smoothing_factor, upscale_smoothing_factor, downscale_smoothing_factor: old names of these factors.
        aggregation_function: ``"mean"``, ``"max"`` or ``"min"`` over the look-back period.
        policy: a callable that decides in place of all this; see `skate.serve.autoscaling`.
    """

    min_replicas: int = 1
    initial_replicas: int | None = None
    max_replicas: int = 1
    target_ongoing_requests: float = 2
    metrics_interval_s: float = 10.0
    look_back_period_s: float = 30.0
    smoothing_factor: float = 1.0
    upscale_smoothing_factor: float | None = None
    downscale_smoothing_factor: float | None = None
    upscaling_factor: float | None = None
    downscaling_factor: float | None = None
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None
    upscale_delay_s: float = 30.0
    aggregation_function: str = "mean"
    policy: Any = None

    def __post_init__(self) -> None:
        number("autoscaling_config.min_replicas", self.min_replicas, 0, whole=True)
        number("autoscaling_config.max_replicas", self.max_replicas, 1, whole=True)
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"autoscaling_config.max_replicas ({self.max_replicas}) must be at least min_replicas "
                f"({self.min_replicas})"
            )
        if self.initial_replicas is not None:
            number("autoscaling_config.initial_replicas", self.initial_replicas, 0, whole=True)
            if not self.min_replicas <= self.initial_replicas <= self.max_replicas:
                raise ValueError(
                    f"autoscaling_config.initial_replicas ({self.initial_replicas}) must lie between min_replicas "
                    f"({self.min_replicas}) and max_replicas ({self.max_replicas})"
                )
        for name in ("target_ongoing_requests", "metrics_interval_s", "look_back_period_s", "smoothing_factor"):
            number(f"autoscaling_config.{name}", getattr(self, name), 0, open_end=True)
        for name in (
            "upscale_smoothing_factor", "downscale_smoothing_factor", "upscaling_factor", "downscaling_factor",
        ):  # fmt: skip
            if getattr(self, name) is not None:
                number(f"autoscaling_config.{name}", getattr(self, name), 0, open_end=True)
        for name in ("downscale_delay_s", "upscale_delay_s"):
            number(f"autoscaling_config.{name}", getattr(self, name), 0)
        if self.downscale_to_zero_delay_s is not None:
            number("autoscaling_config.downscale_to_zero_delay_s", self.downscale_to_zero_delay_s, 0)
        if self.aggregation_function not in ("mean", "max", "min"):
            raise ValueError(
                f"autoscaling_config.aggregation_function must be 'mean', 'max' or 'min', "
                f"not {self.aggregation_function!r}"
            )
        if self.policy is not None and not callable(self.policy) and not isinstance(self.policy, str | Mapping):
            raise TypeError(f"autoscaling_config.policy must be callable, not {self.policy!r}")

    def first(self) -> int:
        """How many replicas at first."""
        return self.min_replicas if self.initial_replicas is None else self.initial_replicas

    def factor_up(self) -> float:
        """How much of a lack is made up for at once."""
        return self.upscaling_factor or self.upscale_smoothing_factor or self.smoothing_factor

    def factor_down(self) -> float:
        """How much of a surplus goes at once."""
        return self.downscaling_factor or self.downscale_smoothing_factor or self.smoothing_factor


AUTO = {"min_replicas": 1, "max_replicas": 100, "target_ongoing_requests": 2}
"""What ``num_replicas="auto"`` stands for."""


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
        max_replicas_per_node: the most on one node; None: any number.
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
    max_replicas_per_node: int | None = None
    logging_config: dict[str, Any] | None = None
    max_constructor_retry_count: int = 20
    rolling_update_percentage: float = 0.2
    max_surge_percent: int = 20

    def __post_init__(self) -> None:
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
        if self.autoscaling_config is not None and not isinstance(self.autoscaling_config, AutoscalingConfig):
            set_field(self, "autoscaling_config", AutoscalingConfig.read(self.autoscaling_config, "autoscaling_config"))
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
        )


def set_field(settings: Any, name: str, value: Any) -> None:
    """Put a value that was checked into frozen settings."""
    object.__setattr__(settings, name, value)


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
        raise TypeError(f"ray_actor_options must be a dict, not {options!r} ({type(options).__name__})")
    for name in options:
        if name not in ACTOR_OPTIONS:
            raise ValueError(
                f"ray_actor_options has no option {name!r} that a deployment may set; "
                f"there are: {', '.join(sorted(ACTOR_OPTIONS))}"
            )
    for name in ("num_cpus", "num_gpus", "memory"):
        if options.get(name) is not None:
            number(f"ray_actor_options.{name}", options[name], 0)


def _check_placement(config: DeploymentConfig) -> None:
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
        raise TypeError(f"logging_config must be a dict, not {given!r} ({type(given).__name__})")
    for name, value in given.items():
        if name not in LOGGING_FIELDS:
            raise ValueError(f"logging_config has no field {name!r}; there are: {', '.join(sorted(LOGGING_FIELDS))}")
        if not LOGGING_FIELDS[name](value):
            raise ValueError(f"logging_config.{name} may not be {value!r}")


@dataclass(frozen=True)
class HTTPOptions(Settings):
    """Where and how HTTP is served.

    Args:
        host: address to listen on.
        port: port to listen on; 0: any that is free.
        root_path: a path that a proxy in front takes off before it passes requests on.
        request_timeout_s: seconds after which a request is answered 408; None: none.
        keep_alive_timeout_s: seconds for which an idle connection is kept.
        max_body_bytes: the largest body of a request; a larger one is answered 413. None: any. Not in Ray.
        location: ``"HeadOnly"``, ``"EveryNode"`` or ``"NoServer"``; None: as `proxy_location` says.
        middlewares: must stay empty, as in Ray 2.60: an application adds its own.
        ssl_keyfile, ssl_certfile, ssl_keyfile_password, ssl_ca_certs: files for HTTPS.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    root_path: str = ""
    request_timeout_s: float | None = None
    keep_alive_timeout_s: float = 90
    max_body_bytes: int | None = None
    location: str | None = None
    middlewares: list[Any] = field(default_factory=list)
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None

    def __post_init__(self) -> None:
        number("http_options.port", self.port, 0, whole=True)
        if self.port > 65535:
            raise ValueError(f"http_options.port must be at most 65535, not {self.port}")
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
        if self.max_body_bytes is not None:
            number("http_options.max_body_bytes", self.max_body_bytes, 0, whole=True)
        if self.location not in (None, "HeadOnly", "EveryNode", "NoServer"):
            raise ValueError(
                f"http_options.location must be 'HeadOnly', 'EveryNode' or 'NoServer', not {self.location!r}"
            )
        if bool(self.ssl_keyfile) != bool(self.ssl_certfile):
            raise ValueError("http_options.ssl_keyfile and http_options.ssl_certfile go together")


@dataclass(frozen=True)
class gRPCOptions(Settings):
    """Where and how gRPC is served.

    Args:
        port: port to listen on.
        grpc_servicer_functions: import paths of generated ``add_..._to_server`` functions.
        request_timeout_s: seconds after which a request fails; None: none.
    """

    port: int = 9000
    grpc_servicer_functions: list[Any] = field(default_factory=list)
    request_timeout_s: float | None = None

    def __post_init__(self) -> None:
        number("grpc_options.port", self.port, 0, whole=True)
        if self.request_timeout_s is not None:
            number("grpc_options.request_timeout_s", self.request_timeout_s, 0, open_end=True)
