"""`RuntimeEnv`: a runtime environment as an object rather than a dict."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from skate.core.env_cache import Entry

__all__ = ["RuntimeEnv", "RuntimeEnvConfig", "cached_environments", "clear_environments"]


def cached_environments() -> list[Entry]:
    """Environments with packages that were built on this machine for this user, the longest unused first.

    They lie in the directory that SKATE_ENV_CACHE names, else in ``skate/environments`` of the user's cache. Not in
    Ray.
    """
    from skate.core.env_cache import entries

    return entries()


def clear_environments() -> list[str]:
    """Delete those that no session uses now; returns the names of what went. Not in Ray."""
    from skate.core.env_cache import clear

    return clear()


class RuntimeEnvConfig(dict[str, Any]):
    """How an environment is made.

    Args:
        setup_timeout_seconds: seconds that making it may take; -1: any time. Default: 600.
        eager_install: whether `init` begins to make the job's environment, before a task needs it. Default: True.
        log_files: accepted as in Ray, without effect.

    Raises TypeError or ValueError for anything else.
    """

    def __init__(
        self, setup_timeout_seconds: int = 600, eager_install: bool = True, log_files: list[str] | None = None
    ) -> None:
        from skate.core.environment_fields import check_config

        given = {"setup_timeout_seconds": setup_timeout_seconds, "eager_install": eager_install, "log_files": log_files}
        super().__init__(check_config(given))

    @classmethod
    def default_config(cls) -> RuntimeEnvConfig:
        """The defaults."""
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """The settings as a plain dict."""
        return dict(self)


class RuntimeEnv(dict[str, Any]):
    """What `init` and ``options`` take as ``runtime_env``: a dict whose fields are keyword arguments.

    Args:
        py_modules: directories, files, archives or URIs that workers can import from.
        py_executable: the interpreter that workers run, a path or a command.
        working_dir: the directory that workers run in: a directory, an archive or a URI.
        pip: packages, a list; a file of requirements, by its path; or a dict of ``packages``, ``pip_check``,
            ``pip_version``, ``pip_install_options``.
        uv: the same with ``uv_check``, ``uv_version``, ``uv_pip_install_options``.
        conda: the name or directory of an environment, or what an ``environment.yml`` says: its path, or a dict.
        container: a dict of ``image`` and ``run_options``.
        env_vars: environment variables.
        worker_process_setup_hook: called in each worker before its first call; a function, or the path by which one
            is imported.
        config: a `RuntimeEnvConfig`, or a dict of its arguments.
        image_uri: an image, for podman or docker.

    The fields are checked here, but for those that name places, which are checked where the environment is used.

    Raises:
        TypeError, ValueError: a field of the wrong type or form, or fields that exclude each other.
    """

    known_fields: ClassVar[frozenset[str]] = frozenset(
        {
            *("py_modules", "py_executable", "java_jars", "working_dir", "conda", "pip", "uv", "container", "excludes"),
            *("env_vars", "_ray_release", "_ray_commit", "_inject_current_ray", "config", "worker_process_setup_hook"),
            *("_nsight", "_rocprof_sys", "mpi", "image_uri"),
        }
    )
    extensions_fields: ClassVar[frozenset[str]] = frozenset({"_ray_release", "_ray_commit", "_inject_current_ray"})

    def __init__(
        self,
        *,
        py_modules: list[Any] | None = None,
        py_executable: str | None = None,
        working_dir: str | None = None,
        pip: str | list[str] | dict[str, Any] | None = None,
        conda: str | dict[str, Any] | None = None,
        container: dict[str, Any] | None = None,
        env_vars: dict[str, str] | None = None,
        worker_process_setup_hook: str | Callable[[], Any] | None = None,
        nsight: str | dict[str, str] | None = None,
        rocprof_sys: str | dict[str, Any] | None = None,
        config: dict[str, Any] | RuntimeEnvConfig | None = None,
        _validate: bool = True,
        image_uri: str | None = None,
        uv: str | list[str] | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        given = {
            "py_modules": py_modules,
            "py_executable": py_executable,
            "working_dir": working_dir,
            "pip": pip,
            "uv": uv,
            "conda": conda,
            "_nsight": nsight,
            "_rocprof_sys": rocprof_sys,
            "container": container,
            "env_vars": env_vars,
            "config": config,
            "worker_process_setup_hook": worker_process_setup_hook,
            "image_uri": image_uri,
            **kwargs,
        }
        from skate.core.environment_fields import check_fields

        given = {name: value for name, value in given.items() if value is not None}
        super().__init__(check_fields(given) if _validate else given)

    def __setitem__(self, name: str, value: Any) -> None:
        from skate.core.environment_fields import CHECKS

        checked = CHECKS[name](value) if name in CHECKS and value is not None else value
        if checked is not None:
            super().__setitem__(name, checked)

    def set(self, name: str, value: Any) -> None:
        """Set a field, checked."""
        self[name] = value

    def env_vars(self) -> dict[str, str]:
        """The environment variables."""
        return dict(self.get("env_vars", {}))

    def working_dir(self) -> str:
        """The working directory, "" when there is none."""
        return str(self.get("working_dir", ""))

    def has_working_dir(self) -> bool:
        """Whether there is a working directory."""
        return "working_dir" in self

    def py_modules(self) -> list[Any]:
        """The modules and packages that workers can import."""
        return list(self.get("py_modules", []))

    def py_executable(self) -> str | None:
        """The interpreter of the workers; None: the driver's."""
        return self.get("py_executable")

    def has_pip(self) -> bool:
        """Whether pip installs packages."""
        return bool(self.get("pip"))

    def pip_config(self) -> dict[str, Any]:
        """The fields of ``pip``; {} without it."""
        return dict(self.get("pip", {}))

    def has_uv(self) -> bool:
        """Whether uv installs packages."""
        return bool(self.get("uv"))

    def uv_config(self) -> dict[str, Any]:
        """The fields of ``uv``; {} without it."""
        return dict(self.get("uv", {}))

    def has_conda(self) -> bool:
        """Whether there is an environment of conda."""
        return bool(self.get("conda"))

    def conda_env_name(self) -> str | None:
        """The name of an environment of conda that is there already."""
        value = self.get("conda")
        return value if isinstance(value, str) and value else None

    def conda_config(self) -> str | None:
        """The environment that conda is to make, as JSON."""
        value = self.get("conda")
        return json.dumps(value, sort_keys=True) if isinstance(value, Mapping) and value else None

    def has_py_container(self) -> bool:
        """Whether workers run in a container."""
        return bool(self.get("container"))

    def py_container_image(self) -> str | None:
        """The image of ``container``."""
        return self["container"].get("image", "") if self.has_py_container() else None

    def py_container_run_options(self) -> list[str] | None:
        """More options of the container."""
        return self["container"].get("run_options", []) if self.has_py_container() else None

    def image_uri(self) -> str | None:
        """The image that workers run in."""
        return self.get("image_uri")

    def py_container_worker_path(self) -> str | None:
        """Where ``container`` has the program of workers."""
        return self["container"].get("worker_path", "") if self.has_py_container() else None

    def virtualenv_name(self) -> str | None:
        """The file of requirements that ``pip`` names, where it is no more than a name."""
        value = self.get("pip")
        return value if isinstance(value, str) and value else None

    def working_dir_uri(self) -> str | None:
        """The working directory; None: none."""
        return self.get("working_dir")

    def py_modules_uris(self) -> list[Any]:
        """The same as `py_modules`."""
        return self.py_modules()

    def plugins(self) -> list[tuple[str, Any]]:
        """Fields that are none of Ray's own, with their values."""
        return [(name, value) for name, value in self.items() if name not in self.known_fields]

    def plugin_uris(self) -> list[str]:
        """Always empty, as in Ray."""
        return []

    def java_jars(self) -> list[str]:
        """Archives of Java code, which Skate does not run."""
        return list(self.get("java_jars", []))

    def nsight(self) -> str | dict[str, str] | None:
        """What NVIDIA's profiler is to do; no engine of Skate's own starts it."""
        return self.get("_nsight")

    def rocprof_sys(self) -> str | dict[str, Any] | None:
        """What AMD's profiler is to do; no engine of Skate's own starts it."""
        return self.get("_rocprof_sys")

    def get_extension(self, key: str) -> str | None:
        """A field of those that go beyond what all engines have; ValueError for any other."""
        if key not in self.extensions_fields:
            raise ValueError(f"{key!r} is no extension. Valid: {', '.join(sorted(self.extensions_fields))}.")
        return self.get(key)

    def serialize(self) -> str:
        """The fields as JSON; TypeError when a setup hook is a function, which JSON cannot hold."""
        return json.dumps(self, sort_keys=True)

    @classmethod
    def deserialize(cls, text: str) -> RuntimeEnv:
        """What `serialize` gave, as an object again."""
        return cls(_validate=False, **json.loads(text))

    def to_dict(self) -> dict[str, Any]:
        """The fields as a plain dict."""
        return {name: dict(value) if name == "config" else value for name, value in self.items()}
