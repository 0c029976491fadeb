"""From a bound application to what is deployed: names, handles in place of applications, pickled code."""

from __future__ import annotations

import hashlib
import inspect
import os
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import skate
from skate.serve.config import DeploymentConfig
from skate.serve.deployments import Application, Deployment
from skate.serve.handle import DeploymentHandle
from skate.serve.specs import AppSpec
from skate.serve.target import Target, first_target

_ATOMS = (int, float, str, bytes, bool, type(None), complex)


Adjust = Callable[[str, Deployment], Deployment]


def build_app(app: Application, name: str, route_prefix: str | None, adjust: Adjust | None = None) -> AppSpec:
    """Everything of an application, ready for the controller; `adjust` may give its deployments other options.

    Raises TypeError for what cannot be pickled.
    """
    builder = _Builder(name, adjust)
    ingress = builder.add(app)
    if route_prefix is not None and http_is_installed():
        builder.targets[ingress] = replace(builder.targets[ingress], ingress=True)
    top = app._bound_deployment
    options = {} if inspect.isfunction(top.func_or_class) else dict(getattr(top.func_or_class, "__serve_ingress__", {}))
    return AppSpec(name, route_prefix, ingress, builder.targets, builder.codes, options, time.time())


def http_is_installed() -> bool:
    """Whether there is what serves HTTP, the extra ``serve``. Handles work without it."""
    return all(find_spec(name) is not None for name in ("starlette", "uvicorn"))


class _Builder:
    def __init__(self, app: str, adjust: Adjust | None) -> None:
        self.app = app
        self.adjust = adjust
        self.names: dict[int, str] = {}
        self.keep: list[Application] = []
        self.targets: dict[str, Target] = {}
        self.codes: dict[str, Any] = {}

    def add(self, node: Application) -> str:
        """Add an application's deployment and those that it holds; its name."""
        known = self.names.get(id(node))
        if known is not None:
            return known
        deployment = node._bound_deployment
        args = tuple(self._resolve(value) for value in node._args)
        kwargs = {key: self._resolve(value) for key, value in node._kwargs.items()}
        name, number = deployment.name, 0
        while name in self.targets:
            number += 1
            name = f"{deployment.name}_{number}"
        self.names[id(node)] = name
        self.keep.append(node)
        if self.adjust is not None:
            deployment = self.adjust(name, deployment)
        self.targets[name] = self._target(deployment, args, kwargs, ingress=False)
        return name

    def _target(self, deployment: Deployment, args: Any, kwargs: Any, *, ingress: bool) -> Target:
        code = skate.cloudpickle.dumps((deployment.func_or_class, args, kwargs))
        key = hashlib.blake2b(code, digest_size=12).hexdigest()
        self.codes[key] = code
        config = deployment._config
        return Target(
            config=config,
            version=_digest((deployment.version or os.urandom(8).hex(), config.heavy())),
            light=int(_digest(skate.cloudpickle.dumps(_light(config)))[:12], 16),
            replicas=first_target(config),
            code=key,
            ingress=ingress,
        )

    def _resolve(self, value: Any) -> Any:
        """`value` with handles in place of applications, in whatever holds them."""
        if isinstance(value, Application):
            return DeploymentHandle(self.add(value), self.app)
        if isinstance(value, Deployment):
            raise TypeError(f"{value!r} is not bound: pass {value.name}.bind(...) instead")
        if isinstance(value, _ATOMS):
            return value
        kind = type(value)
        if kind in (list, set, frozenset):
            return kind(self._resolve(item) for item in value)
        if isinstance(value, tuple):
            items = [self._resolve(item) for item in value]
            return tuple(items) if kind is tuple else kind(*items)
        if kind is dict:
            return {self._resolve(key): self._resolve(item) for key, item in value.items()}
        return value


def _light(config: DeploymentConfig) -> DeploymentConfig:
    """What running replicas can take over: everything but what is heavy, or only the controller's."""
    return replace(
        config, num_replicas=1, autoscaling_config=None, ray_actor_options={}, placement_group_bundles=None,
        placement_group_strategy=None, placement_group_bundle_label_selector=None, max_replicas_per_node=None,
        gang_scheduling_config=None, deployment_actors=None,
    )  # fmt: skip


def _digest(value: Any) -> str:
    data = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.blake2b(data, digest_size=12).hexdigest()
