"""The controller's part for configurations: applications that are built from import paths.

Building goes on beside everything else. While it does, and when it fails, what is deployed stays as it is. What reads
configurations is imported when there is one: every application's first answer would wait for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields
from enum import StrEnum
from typing import Any

import skate
from skate import exceptions
from skate.serve import context
from skate.serve.config import DeploymentConfig
from skate.serve.settings import Settings
from skate.serve.specs import AppSpec
from skate.serve.target import ApplicationStatus

PREFIX = "declared:"
"""Of names in the vault."""


class Declared:
    """The applications that configurations have declared.

    Args:
        deploy: has built applications run.
        delete: ends applications by their names.
        keep, forget: put something into the vault, take it out; `keep` gives what can be awaited.
        tell: says that statuses may have changed.
    """

    def __init__(
        self,
        deploy: Callable[[list[AppSpec]], Awaitable[None]],
        delete: Callable[[list[str]], Awaitable[Any]],
        keep: Callable[[str, Any], Awaitable[Any]],
        forget: Callable[[str], object],
        tell: Callable[[], None],
    ) -> None:
        self._deploy = deploy
        self._delete = delete
        self._keep = keep
        self._forget = forget
        self._tell = tell
        self.configs: dict[str, dict[str, Any]] = {}
        """What was declared last, by application."""
        self.building: dict[str, asyncio.Task[None]] = {}
        self.failures: dict[str, str] = {}
        """Why an application could not be built."""

    async def apply(self, config: dict[str, Any]) -> None:
        """Have the applications of a configuration, and of those that were declared before no others; answers when
        that is on record.

        Raises SchemaError for what is wrong in it, before anything is done.
        """
        from skate.serve.config_file import ServeDeploySchema

        schema = ServeDeploySchema.model_validate(config)
        wanted = {app.name: app for app in schema.applications}
        gone = [name for name in self.configs if name not in wanted]
        for name in gone:
            self.drop(name)
        kept = [self._declare(name, app.model_dump(exclude_unset=True)) for name, app in wanted.items()]
        self._tell()
        for record in kept:
            await record
        if gone:
            await self._delete(gone)

    def recover(self, kept: dict[str, Any]) -> None:
        """Take up what was declared; what was not built yet is built now."""
        for key, value in kept.items():
            if not key.startswith(PREFIX):
                continue
            name, (config, built) = key.removeprefix(PREFIX), value
            if built:
                self.configs[name] = config
            else:
                self._declare(name, config)

    def status(self, name: str) -> tuple[ApplicationStatus, str] | None:
        """Status and message of an application that is being built, or could not be; None for others."""
        if name in self.building:
            return ApplicationStatus.DEPLOYING, "The application is being built."
        if name in self.failures:
            return ApplicationStatus.DEPLOY_FAILED, self.failures[name]
        return None

    def drop(self, name: str) -> None:
        """An application is deleted, or deployed in another way: what was declared of it does not count any more."""
        task = self.building.pop(name, None)
        if task is not None:
            task.cancel()
        self.failures.pop(name, None)
        if self.configs.pop(name, None) is not None:
            self._forget(PREFIX + name)

    def _declare(self, name: str, config: dict[str, Any]) -> Awaitable[Any]:
        self.drop(name)
        self.configs[name] = config
        kept = self._keep(PREFIX + name, (config, False))
        task = self.building[name] = asyncio.get_running_loop().create_task(self._build(name, config))
        task.add_done_callback(lambda done: self._built(name, done))
        return kept

    def _built(self, name: str, task: asyncio.Task[None]) -> None:
        if self.building.get(name) is task:
            del self.building[name]
            if (error := task.exception()) is not None:
                self.failures[name] = str(error)
        self._tell()

    async def _build(self, name: str, config: dict[str, Any]) -> None:
        from skate.serve.config_file import ServeApplicationSchema
        from skate.serve.importing import Builder, split_environment

        environment, _ = split_environment(ServeApplicationSchema.model_validate(config).runtime_env)
        options: dict[str, Any] = {"runtime_env": environment} if environment else {}
        try:
            builder: Any = skate.remote(Builder).options(num_cpus=0, **context.at_home(soft=True), **options).remote()
            try:
                spec = await builder.build.remote(config, os.getpid())
            finally:
                skate.kill(builder)
            await self._deploy([spec])
        except exceptions.RayTaskError as error:
            self.failures[name] = str(error.cause)
        except (exceptions.RayError, ValueError) as error:
            self.failures[name] = str(error)
        else:
            await self._keep(PREFIX + name, (config, True))


def plain_config(config: DeploymentConfig) -> dict[str, Any]:
    """Options as JSON can have them."""
    found = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    for name, value in found.items():
        if isinstance(value, Settings):
            found[name] = _plain(value)
    if config.deployment_actors is not None:
        found["deployment_actors"] = [_plain(actor) for actor in config.deployment_actors]
    return found


def _plain(settings: Settings) -> dict[str, Any]:
    hidden = ("policy", "pickled", "init_args", "init_kwargs")
    found = {name: value for name, value in asdict(settings).items() if name not in hidden}
    return {name: str(value) if isinstance(value, StrEnum) else value for name, value in found.items()}
