"""How a deployment scales: the fields, defaults and limits of `autoscaling_config`, which are Ray Serve's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from typing import Any, NamedTuple

from skate.serve.context import DeploymentID, ReplicaID
from skate.serve.settings import Settings, check_json, number, set_field

DEFAULT_POLICY = "skate.serve.autoscaling_policy:default_autoscaling_policy"


class AggregationFunction(StrEnum):
    """What is made of the requests of the look-back period."""

    MEAN = "mean"
    MAX = "max"
    MIN = "min"


def found_at(path: str) -> Any:
    """What an import path ``module:name`` or ``module.name`` names; those of Ray Serve's own name ours.

    Raises ImportError, AttributeError, or ValueError for what is no path.
    """
    if path.startswith("ray.serve."):
        path = path.removeprefix("ray.serve._private.").removeprefix("ray.serve.")
        path = f"skate.serve.{path}"
    module, _, name = path.replace(":", ".").rpartition(".")
    if not module:
        raise ValueError(f"{path!r} is no import path: module:name is wanted")
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class AutoscalingPolicy(Settings):
    """Who decides how many replicas there should be.

    Args:
        policy_function: a callable, a class that is made with `policy_kwargs`, or the import path of either. Called
            with an `AutoscalingContext`, it gives ``(replicas, state)``.
        policy_kwargs: for a class.
    """

    policy_function: str | Callable[..., Any] = DEFAULT_POLICY
    policy_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_json("autoscaling_config.policy.policy_kwargs", self.policy_kwargs)
        given = self.policy_function
        if isinstance(given, str):
            if not self.is_default_policy_function():
                try:
                    found_at(given)
                except AttributeError as error:
                    raise ImportError(f"autoscaling_config.policy.policy_function: {error}") from None
        elif not callable(given):
            raise TypeError(f"autoscaling_config.policy must be callable, not {given!r}")

    def is_default_policy_function(self) -> bool:
        """Whether it is the usual one, which goes by requests."""
        given = self.policy_function
        return isinstance(given, str) and given.replace(":", ".").endswith("default_autoscaling_policy")

    def get_policy(self) -> Callable[..., Any]:
        """The callable itself."""
        given = self.policy_function
        found: Any = found_at(given) if isinstance(given, str) else given
        made: Callable[..., Any] = found(**self.policy_kwargs) if isinstance(found, type) else found
        return made


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
        policy: an `AutoscalingPolicy`, or what one is made of, that decides in place of all this.
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
    aggregation_function: str = AggregationFunction.MEAN
    policy: Any = field(default_factory=AutoscalingPolicy)

    def __post_init__(self) -> None:
        self._read_numbers()
        if self.target_ongoing_requests is None:
            set_field(self, "target_ongoing_requests", AutoscalingConfig.target_ongoing_requests)
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
        try:
            set_field(self, "aggregation_function", AggregationFunction(str(self.aggregation_function).lower()))
        except ValueError:
            raise ValueError(
                f"autoscaling_config.aggregation_function must be 'mean', 'max' or 'min', "
                f"not {self.aggregation_function!r}"
            ) from None
        set_field(self, "policy", _policy(self.policy))

    @classmethod
    def default(cls) -> AutoscalingConfig:
        """What ``num_replicas="auto"`` stands for."""
        return cls(**AUTO)

    def first(self) -> int:
        """How many replicas at first."""
        return self.min_replicas if self.initial_replicas is None else self.initial_replicas

    def get_upscaling_factor(self) -> float:
        """How much of a lack is made up for at once."""
        return self.upscaling_factor or self.upscale_smoothing_factor or self.smoothing_factor

    def get_downscaling_factor(self) -> float:
        """How much of a surplus goes at once."""
        return self.downscaling_factor or self.downscale_smoothing_factor or self.smoothing_factor

    def get_target_ongoing_requests(self) -> float:
        """Requests for each replica that are aimed at."""
        return self.target_ongoing_requests


class TimeStampedValue(NamedTuple):
    """One sample of a figure."""

    timestamp: float
    value: float


@dataclass
class AutoscalingContext:
    """What a policy of the program's own is called with; it returns ``(replicas, state)``, or the number alone.

    Args:
        config: the deployment's settings.
        current_num_replicas: those that run.
        target_num_replicas: those that are wanted now.
        total_num_requests: running and queued, over the look-back period.
        total_queued_requests: those that wait in handles now.
        total_running_requests: those that replicas have in hand now.
        capacity_adjusted_min_replicas, capacity_adjusted_max_replicas: the bounds.
        policy_state: what the policy returned as its state the last time.
        app_name, deployment_name: whose it is.
        current_time: in seconds.
        running_replicas: who they are.
        aggregated_metrics: of the figures that replicas give by ``record_autoscaling_stats``, by name and replica,
            what the config's `aggregation_function` makes of the look-back period.
        raw_metrics: the same, sample by sample.
        last_scale_up_time, last_scale_down_time: in seconds; None: not yet.
    """

    config: AutoscalingConfig
    current_num_replicas: int
    target_num_replicas: int
    total_num_requests: float
    total_queued_requests: float
    total_running_requests: float
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    policy_state: dict[str, Any] = field(default_factory=dict)
    app_name: str = ""
    deployment_name: str = ""
    current_time: float = 0.0
    running_replicas: list[ReplicaID] = field(default_factory=list)
    aggregated_metrics: dict[str, dict[ReplicaID, float]] = field(default_factory=dict)
    raw_metrics: dict[str, dict[ReplicaID, list[TimeStampedValue]]] = field(default_factory=dict)
    last_scale_up_time: float | None = None
    last_scale_down_time: float | None = None

    @property
    def deployment_id(self) -> DeploymentID:
        """Deployment and application."""
        return DeploymentID(self.deployment_name, self.app_name)


def _policy(given: Any) -> AutoscalingPolicy:
    if given is None:
        return AutoscalingPolicy()
    if isinstance(given, AutoscalingPolicy | Mapping):
        return AutoscalingPolicy.read(given, "autoscaling_config.policy")
    return AutoscalingPolicy(given)


AUTO: dict[str, Any] = {"min_replicas": 1, "max_replicas": 100, "target_ongoing_requests": 2}
"""What ``num_replicas="auto"`` stands for."""
