"""Runtime environments: checked where written, carried as JSON, merged where a call starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import msgspec

WORKING = ("env_vars", "working_dir", "py_modules", "excludes", "config")
JOB = "_job"
"""The field that tells the calls of one attached driver from those of another; nobody writes it by hand."""
LATER = frozenset(
    {
        "pip",
        "uv",
        "conda",
        "container",
        "image_uri",
        "py_executable",
        "java_jars",
        "worker_process_setup_hook",
        "nsight",
        "_nsight",
        "rocprof_sys",
        "mpi",
    }
)


def pack_environment(value: Any, *, job: bool) -> str:
    """Check a ``runtime_env`` and give it as JSON ("" for none).

    Local directories belong to the whole job (`job`): a task or an actor that names one gets
    ValueError, as in Ray.
    """
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env must be a dict or a RuntimeEnv, not {_kind(value)}: {value!r}")
    checked: dict[str, Any] = {}
    for key, part in value.items():
        if key not in WORKING:
            raise _refused(key)
        if part is not None:
            checked[key] = part
    if "env_vars" in checked:
        checked["env_vars"] = check_variables(checked["env_vars"])
    if "working_dir" in checked:
        checked["working_dir"] = _directory("working_dir", checked["working_dir"], job)
    if "py_modules" in checked:
        checked["py_modules"] = _modules(checked["py_modules"], job)
    if "excludes" in checked and not _is_texts(checked["excludes"]):
        raise TypeError(f"runtime_env['excludes'] must be a list of patterns: {checked['excludes']!r}")
    if not checked:
        return ""
    return msgspec.json.encode(checked, order="deterministic").decode()


def unpack_environment(text: str) -> dict[str, Any]:
    """The ``runtime_env`` that `pack_environment` or `merge_environments` made."""
    return msgspec.json.decode(text, type=dict[str, Any]) if text else {}


def merge_environments(parent: str, child: str) -> str:
    """What a call runs in: its own fields over its parent's, the variables of both."""
    if not child or not parent or child == parent:
        return child or parent
    outer, inner = unpack_environment(parent), unpack_environment(child)
    variables = {**outer.get("env_vars", {}), **inner.get("env_vars", {})}
    merged = {**outer, **inner}
    if variables:
        merged["env_vars"] = variables
    return msgspec.json.encode(merged, order="deterministic").decode()


def with_job(environment: str, job: int) -> str:
    """The environment of the calls of one of several drivers: workers of another never run them."""
    return merge_environments(environment, f'{{"{JOB}":{job}}}')


def job_of(environment: str) -> int:
    """What `with_job` has added; 0: nothing."""
    return int(unpack_environment(environment).get(JOB, 0)) if JOB in environment else 0


def without_job(environment: str) -> str:
    """The environment as its user gave it."""
    if JOB not in environment:
        return environment
    fields = unpack_environment(environment)
    fields.pop(JOB, None)
    return msgspec.json.encode(fields, order="deterministic").decode() if fields else ""


def _refused(key: object) -> Exception:
    works = ", ".join(WORKING)
    if key in LATER:
        return NotImplementedError(f"runtime_env[{key!r}] is not built yet in Skate. What works: {works}.")
    return ValueError(f"runtime_env has no field {key!r}. What works: {works}.")


def check_variables(value: Any) -> dict[str, str]:
    """A copy of ``env_vars``; TypeError unless it maps strings to strings."""
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['env_vars'] must be a dict of strings, not {_kind(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"runtime_env['env_vars'] must map strings to strings; {name!r}: {text!r} does not")
    return dict(value)


def _directory(field: str, value: Any, job: bool) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"runtime_env[{field!r}] must be a path, not {_kind(value)}: {value!r}")
    path = os.fspath(value)
    if "://" in path:
        raise NotImplementedError(
            f"runtime_env[{field!r}]={path!r}: remote packages are not built yet; give a local directory to init."
        )
    if not job:
        raise ValueError(
            f"runtime_env[{field!r}]={path!r}: a local path works for the whole job only. Give it "
            "to init(runtime_env=...)."
        )
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(path):
        raise ValueError(f"runtime_env[{field!r}]: there is nothing at {path}")
    return path


def _modules(value: Any, job: bool) -> list[str]:
    if not isinstance(value, list):
        raise TypeError(f"runtime_env['py_modules'] must be a list of paths or modules, not {_kind(value)}")
    return [_directory("py_modules", _place(module), job) for module in value]


def _place(module: Any) -> Any:
    """The path of an imported module; anything else as it is."""
    if not isinstance(module, ModuleType):
        return module
    paths = list(getattr(module, "__path__", ())) or [module.__file__]
    if len(paths) != 1 or paths[0] is None:
        raise ValueError(f"runtime_env['py_modules']: {module!r} does not lie in one place")
    return paths[0]


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _kind(value: Any) -> str:
    return type(value).__name__
