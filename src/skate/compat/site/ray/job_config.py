"""`JobConfig`: what `init(job_config=...)` takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["JobConfig"]


class JobConfig:
    """Settings of a job: its runtime environment and the namespace of its actors' names.

    The others are kept as they are given: `metadata` for whoever asks, `code_search_path`, `jvm_options` and
    `default_actor_lifetime` without effect.
    """

    def __init__(
        self,
        jvm_options: list[str] | None = None,
        code_search_path: list[str] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        _client_job: bool = False,
        metadata: dict[str, str] | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = "non_detached",
        **rest: Any,
    ) -> None:
        if unknown := [name for name in rest if not name.startswith("_")]:
            raise TypeError(f"JobConfig has no argument called {', '.join(unknown)}.")
        self.jvm_options = jvm_options or []
        self.code_search_path = code_search_path or []
        self.runtime_env = runtime_env
        self.metadata = metadata or {}
        self.ray_namespace = ray_namespace
        self.set_default_actor_lifetime(default_actor_lifetime)

    def set_ray_namespace(self, ray_namespace: str) -> None:
        """Set the namespace of actors' names."""
        self.ray_namespace = ray_namespace

    def set_runtime_env(self, runtime_env: Mapping[str, Any] | None, validate: bool = False) -> None:
        """Set the runtime environment; `init` checks it."""
        self.runtime_env = runtime_env

    def set_metadata(self, key: str, value: str) -> None:
        """Note a fact about the job."""
        self.metadata[key] = value

    def set_default_actor_lifetime(self, default_actor_lifetime: str) -> None:
        """``"detached"`` or ``"non_detached"``; AssertionError for anything else."""
        if default_actor_lifetime not in ("detached", "non_detached"):
            raise AssertionError(
                f"default_actor_lifetime: 'detached' or 'non_detached', not {default_actor_lifetime!r}"
            )
        self.default_actor_lifetime = default_actor_lifetime
