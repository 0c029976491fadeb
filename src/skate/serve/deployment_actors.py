"""Actors that the replicas of a deployment share: for programs, the way to them; for the controller, keeping them up.

There is one set for each version of a deployment. An actor has ended or does not answer: another takes its place.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import skate
from skate import exceptions
from skate.serve import context
from skate.serve.context import NAMESPACE, DeploymentID
from skate.serve.deployment_parts import DeploymentActorConfig
from skate.serve.exceptions import RayServeException
from skate.serve.target import Target

_PREFIX = "SERVE_DEPLOYMENT_ACTOR::"
LOOK_S = 1.0
"""Seconds between two looks at an actor, at most."""
AGAIN_S = 0.2
"""Seconds before an actor that could not be started is tried again."""
Key = tuple[str, str, str, str]
"""Application, deployment, version, name."""


@dataclass(frozen=True)
class DeploymentActorContext:
    """What `get_deployment_actor_context` gives."""

    deployment_id: DeploymentID
    actor_name: str
    code_version: str | None = None

    @property
    def app_name(self) -> str:
        """The application's name."""
        return self.deployment_id.app_name

    @property
    def deployment(self) -> str:
        """The deployment's name."""
        return self.deployment_id.name


def get_deployment_actor(actor_name: str) -> Any:
    """The handle of one of the actors that the calling replica's deployment has.

    It is good until the actor is replaced; then its calls raise RayActorError, and this gives another.

    Raises RayServeException outside of a replica, ValueError when there is no such actor, or not yet.
    """
    here = context.replica_context()
    if here is None:
        raise RayServeException("get_deployment_actor works inside a replica only")
    full = _full((here.app_name, here.deployment, here.code_version or "", actor_name))
    try:
        return skate.get_actor(full, namespace=NAMESPACE)
    except ValueError:
        raise ValueError(f"Deployment {here.deployment!r} has no actor {actor_name!r}, or not yet") from None


def get_deployment_actor_context() -> DeploymentActorContext:
    """Of whose deployment the calling actor is. Raises RayServeException outside of such an actor."""
    here = skate.get_runtime_context()
    name = here.get_actor_name() if skate.is_initialized() and here.get_actor_id() else None
    if not name or not name.startswith(_PREFIX):
        raise RayServeException("get_deployment_actor_context works inside an actor of `deployment_actors` only")
    app, deployment, version, own = name.removeprefix(_PREFIX).rsplit("#", 3)
    return DeploymentActorContext(DeploymentID(deployment, app), own, version)


def _full(key: Key) -> str:
    return _PREFIX + "#".join(key)


class SharedActors:
    """The controller's part: starts the actors that targets name, looks after them, ends them."""

    def __init__(self) -> None:
        self._up: dict[Key, asyncio.Future[Any]] = {}
        """Actors that answer, or are being started."""
        self._watches: dict[Key, asyncio.Task[None]] = {}

    async def ensure(self, app: str, deployment: str, target: Target) -> None:
        """Return when the actors of a target answer. Raises what one of their constructors raised."""
        for config in target.config.deployment_actors or ():
            key = (app, deployment, target.version, config.name)
            found = self._up.get(key)
            if found is None:
                found = self._up[key] = asyncio.ensure_future(_begun(key, config, target))
            try:
                actor = await asyncio.shield(found)
            except (exceptions.RayError, ValueError, TypeError, ImportError):
                if self._up.get(key) is found:
                    del self._up[key]
                raise
            if key not in self._watches and key in self._up:
                self._watches[key] = asyncio.ensure_future(self._watch(key, config, target, actor))

    async def _watch(self, key: Key, config: DeploymentActorConfig, target: Target, actor: Any) -> None:
        """Have an actor replaced when it does not answer any more."""
        while True:
            await asyncio.sleep(min(LOOK_S, target.config.health_check_period_s))
            try:
                async with asyncio.timeout(target.config.health_check_timeout_s):
                    await actor.__ray_ready__.remote()
                continue
            except (exceptions.RayError, TimeoutError):
                skate.kill(actor)
            while True:
                try:
                    actor = await _begun(key, config, target)
                    break
                except (exceptions.RayError, ValueError):
                    await asyncio.sleep(AGAIN_S)

    def keep(self, app: str, deployment: str, versions: set[str]) -> None:
        """End the actors of this deployment's other versions."""
        for key in [key for key in self._up if key[:2] == (app, deployment) and key[2] not in versions]:
            self._end(key)

    def _end(self, key: Key) -> None:
        found, watch = self._up.pop(key), self._watches.pop(key, None)
        found.cancel()
        if watch is not None:
            watch.cancel()
        _kill(_full(key))

    def end_others(self, names: list[str], wanted: set[tuple[str, str, str]]) -> None:
        """Of all the actors of this name, end those that belong to no application, deployment and version of these."""
        for name in names:
            if name.startswith(_PREFIX):
                app, deployment, version, _ = name.removeprefix(_PREFIX).rsplit("#", 3)
                if (app, deployment, version) not in wanted:
                    _kill(name)


def _kill(name: str) -> None:
    try:
        skate.kill(skate.get_actor(name, namespace=NAMESPACE))
    except ValueError:
        return  # it is gone


async def _begun(key: Key, config: DeploymentActorConfig, target: Target) -> Any:
    """The actor, found or started, when it answers."""
    options = {**config.actor_options, "name": _full(key), "namespace": NAMESPACE, "lifetime": "detached"}
    environment = target.config.ray_actor_options.get("runtime_env")
    if environment and "runtime_env" not in options:
        options["runtime_env"] = environment
    made = config.get_actor_class().options(**options, get_if_exists=True)
    actor = made.remote(*config.init_args, **config.init_kwargs)
    await actor.__ray_ready__.remote()
    return actor
