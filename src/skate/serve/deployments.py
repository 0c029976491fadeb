"""Deployments and applications as programs write them: ``@serve.deployment``, ``.bind``, ``.options``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, NoReturn

from skate.serve.config import (
    AUTO,
    AutoscalingConfig,
    BackpressureConfig,
    DeploymentActorConfig,
    DeploymentConfig,
    GangSchedulingConfig,
    RequestRouterConfig,
)


class Unset:
    """Stands for an option that was not given."""

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT = Unset()
_CONFIG = tuple(entry.name for entry in fields(DeploymentConfig))
OPTIONS = (*_CONFIG, "name", "version", "route_prefix")


class Deployment:
    """A function or class that becomes replicas when an application that it is bound into runs.

    Made by `deployment`. `bind` gives an `Application`, `options` a copy with other options.
    """

    def __init__(
        self,
        func_or_class: Callable[..., Any],
        name: str,
        config: DeploymentConfig,
        version: str | None = None,
        *,
        given: frozenset[str] = frozenset(),
    ) -> None:
        self.func_or_class = func_or_class
        self._name = name
        self._config = config
        self._version = version
        self._given = given
        """The options that were given rather than left as they are."""

    @property
    def name(self) -> str:
        """The deployment's name."""
        return self._name

    @property
    def version(self) -> str | None:
        """Its version; None: each deploy is a new one."""
        return self._version

    @property
    def num_replicas(self) -> int:
        """How many replicas."""
        return self._config.num_replicas

    @property
    def max_ongoing_requests(self) -> int:
        """Requests that a replica runs at once."""
        return self._config.max_ongoing_requests

    @property
    def max_queued_requests(self) -> int:
        """Requests that wait in one handle; -1: no limit."""
        return self._config.max_queued_requests

    @property
    def user_config(self) -> Any:
        """What ``reconfigure`` gets."""
        return self._config.user_config

    @property
    def ray_actor_options(self) -> dict[str, Any]:
        """Options of the replicas' actors."""
        return self._config.ray_actor_options

    @property
    def autoscaling_config(self) -> AutoscalingConfig | None:
        """How it scales, if it does."""
        return self._config.autoscaling_config

    @property
    def backpressure_config(self) -> BackpressureConfig:
        """What HTTP clients are answered that are turned away."""
        return self._config.backpressure_config or BackpressureConfig()

    @property
    def logging_config(self) -> Any:
        """How its replicas log."""
        return self._config.logging_config

    @property
    def init_args(self) -> tuple[Any, ...]:
        """Empty: `bind` takes the arguments of the constructor, and the application has them."""
        return ()

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """Empty, too."""
        return {}

    def set_logging_config(self, logging_config: Any) -> None:
        """Have the replicas log so; of a deployment that is bound already, too."""
        self._config = replace(self._config, logging_config=logging_config)

    def bind(self, /, *args: Any, **kwargs: Any) -> Application:
        """An application of this deployment with these arguments of its constructor.

        Applications among the arguments become `DeploymentHandle` in the replicas. Raises ValueError for arguments of a
        function: it is called with those of each request.
        """
        if (args or kwargs) and not isinstance(self.func_or_class, type):
            raise ValueError(f"{self._name} is a function: bind() takes no arguments for it")
        return Application(self, args, kwargs)

    def options(
        self, func_or_class: Callable[..., Any] | None = None, _internal: bool = False, **options: Any
    ) -> Deployment:
        """A copy with other options; see `deployment`."""
        changed = {name: value for name, value in options.items() if value is not DEFAULT}
        return _configured(func_or_class or self.func_or_class, changed, self)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(
            f"A deployment is not called: {self._name}.bind(...) makes an application, serve.run(...) runs it."
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Deployment)
            and (self._name, self._config, self._version) == (other._name, other._config, other._version)
            and self.func_or_class == other.func_or_class
        )

    def __hash__(self) -> int:
        return hash((self._name, self._version))

    def __repr__(self) -> str:
        return f"Deployment(name={self._name})"


class Application:
    """A deployment with the arguments of its constructor; `serve.run` runs it with all that it holds."""

    def __init__(self, deployment: Deployment, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._bound_deployment = deployment
        self._args = args
        self._kwargs = kwargs

    def __repr__(self) -> str:
        return f"Application({self._bound_deployment.name})"


def deployment(
    _func_or_class: Callable[..., Any] | None = None,
    name: str | Unset = DEFAULT,
    version: str | Unset | None = DEFAULT,
    num_replicas: int | str | Unset | None = DEFAULT,
    route_prefix: str | Unset | None = DEFAULT,
    ray_actor_options: dict[str, Any] | Unset | None = DEFAULT,
    placement_group_bundles: list[dict[str, float]] | Unset | None = DEFAULT,
    placement_group_strategy: str | Unset | None = DEFAULT,
    placement_group_bundle_label_selector: list[dict[str, str]] | Unset | None = DEFAULT,
    max_replicas_per_node: int | Unset | None = DEFAULT,
    user_config: Any = DEFAULT,
    max_ongoing_requests: int | Unset = DEFAULT,
    max_queued_requests: int | Unset = DEFAULT,
    backpressure_config: dict[str, Any] | BackpressureConfig | Unset | None = DEFAULT,
    autoscaling_config: dict[str, Any] | AutoscalingConfig | Unset | None = DEFAULT,
    graceful_shutdown_wait_loop_s: float | Unset = DEFAULT,
    graceful_shutdown_timeout_s: float | Unset = DEFAULT,
    health_check_period_s: float | Unset = DEFAULT,
    health_check_timeout_s: float | Unset = DEFAULT,
    logging_config: dict[str, Any] | Unset | None = DEFAULT,
    request_router_config: dict[str, Any] | RequestRouterConfig | Unset | None = DEFAULT,
    max_constructor_retry_count: int | Unset = DEFAULT,
    gang_scheduling_config: dict[str, Any] | GangSchedulingConfig | Unset | None = DEFAULT,
    deployment_actors: list[dict[str, Any] | DeploymentActorConfig] | Unset | None = DEFAULT,
    rolling_update_percentage: float | Unset = DEFAULT,
    max_surge_percent: int | Unset = DEFAULT,
    **others: Any,
) -> Any:
    """Make a deployment of a class or function: ``@serve.deployment``, or with options ``@serve.deployment(...)``.

    Args:
        name: default: the class's or function's.
        version: while it stays the same, a new deploy with another `user_config` or number of replicas keeps the
            replicas that run. None: every deploy replaces them.
        num_replicas: 1 or more, or ``"auto"``: 1 to 100 by autoscaling.

    The others are told at `skate.serve.config.DeploymentConfig`.

    Raises ValueError for a wrong value, TypeError for a wrong type; both name the option.
    """
    given = {key: value for key, value in locals().items() if not key.startswith("_") and value is not DEFAULT}
    given.update(given.pop("others"))

    def decorate(target: Callable[..., Any]) -> Deployment:
        return _configured(target, given, None)

    return decorate(_func_or_class) if _func_or_class is not None else decorate


def _configured(target: Callable[..., Any], given: Mapping[str, Any], old: Deployment | None) -> Deployment:
    """The deployment of `target` with the options of `old` where `given` has none."""
    if isinstance(target, Deployment):
        raise TypeError(f"{target!r} is a deployment already: .options(...) gives a copy with other options")
    if not callable(target):
        raise TypeError(f"@serve.deployment takes a class or a function, not {target!r} ({type(target).__name__})")
    for option in given:
        if option not in OPTIONS:
            raise TypeError(f"There is no option {option!r} of deployments; there are: {', '.join(sorted(OPTIONS))}")
    if given.get("route_prefix") is not None:
        raise ValueError("route_prefix is not an option of deployments: give it to serve.run")
    name = given.get("name", old.name if old else target.__name__)
    if not isinstance(name, str) or not name:
        raise TypeError(f"name must be a string that is not empty, not {name!r}")
    if "#" in name:
        raise ValueError(f"name may not hold '#', as {name!r} does: it parts the names of replicas")
    version = given.get("version", old.version if old else None)
    if version is not None and not isinstance(version, str):
        raise TypeError(f"version must be a string, not {version!r}")
    values = {key: getattr(old._config, key) for key in _CONFIG} if old else {}
    changed = {key: value for key, value in given.items() if key in _CONFIG}
    config = DeploymentConfig(**_resolved(values, changed))
    return Deployment(target, name, config, version, given=(old._given if old else frozenset()) | frozenset(given))


def _resolved(values: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """Options as they hold together: what num_replicas and autoscaling_config mean for each other."""
    auto = changed.get("num_replicas") == "auto"
    if isinstance(changed.get("num_replicas"), str) and not auto:
        raise ValueError(f"num_replicas must be an integer or 'auto', not {changed['num_replicas']!r}")
    if auto:
        del changed["num_replicas"]
        scaling = changed.get("autoscaling_config") or {}
        changed["autoscaling_config"] = {**AUTO, **scaling} if isinstance(scaling, Mapping) else scaling
    elif changed.get("num_replicas") is not None:
        if changed.get("autoscaling_config") is not None:
            raise ValueError(
                'num_replicas and autoscaling_config exclude each other: leave num_replicas out, or make it "auto"'
            )
        if changed["num_replicas"] == 0:
            raise ValueError("num_replicas must be at least 1, not 0")
        changed["autoscaling_config"] = None
    else:
        changed.pop("num_replicas", None)
    if changed.get("ray_actor_options", 0) is None:
        changed["ray_actor_options"] = {}
    if changed.get("max_ongoing_requests", 0) is None:
        raise ValueError("max_ongoing_requests must be an integer, not None")
    merged = {**values, **changed}
    if merged.get("autoscaling_config") is not None:
        scaling = AutoscalingConfig.read(merged["autoscaling_config"], "autoscaling_config")
        merged["autoscaling_config"] = scaling
        merged["num_replicas"] = scaling.first()
    return merged
