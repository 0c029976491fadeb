"""The fields of a runtime environment, each checked and in the form in which it is carried."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

TIMEOUT = 600
"""Seconds that making an environment may take, unless its ``config`` says otherwise."""
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.xz")
INSTALLERS = ("pip", "uv", "conda")
IMAGES = ("container", "image_uri")


def check_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a runtime environment in one form; what says nothing is left out.

    Raises TypeError or ValueError for a field of a wrong type or form, and for fields that exclude each other.
    Places of files (``working_dir``, ``py_modules``) are not looked at: what they may be depends on who is asked.
    """
    given = {name: value for name, value in given.items() if value is not None}
    _check_company(given)
    checked = {name: CHECKS[name](value) if name in CHECKS else value for name, value in given.items()}
    return {name: value for name, value in checked.items() if value is not None}


def _check_company(given: Mapping[str, Any]) -> None:
    """Some fields stand alone."""
    installers = [name for name in INSTALLERS if name in given]
    if len(installers) > 1:
        raise ValueError(
            f"runtime_env: {' and '.join(installers)} exclude each other. With conda, name packages for pip in its "
            "'dependencies'."
        )
    for name in IMAGES:
        others = sorted(given.keys() - {name, "config", "env_vars"})
        if given.get(name) and others:
            raise ValueError(f"runtime_env: beside {name} only env_vars and config may stand, not {', '.join(others)}")


def check_variables(value: Any) -> dict[str, str]:
    """A copy of ``env_vars``; TypeError unless it maps strings to strings."""
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['env_vars'] must be a dict of strings, not {_kind(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"runtime_env['env_vars'] must map strings to strings; {name!r}: {text!r} does not")
    return dict(value)


def _pip(value: Any) -> dict[str, Any] | None:
    allowed = {"packages": None, "pip_check": bool, "pip_version": str, "pip_install_options": list}
    fields = _installer("pip", value, allowed)
    fields.setdefault("pip_check", False)
    return fields if fields["packages"] else None


def _uv(value: Any) -> dict[str, Any] | None:
    allowed = {"packages": None, "uv_check": bool, "uv_version": str, "uv_pip_install_options": list}
    fields = _installer("uv", value, allowed)
    fields.setdefault("uv_check", False)
    if isinstance(value, Mapping):
        fields.setdefault("uv_pip_install_options", ["--no-cache"])
    return fields if fields["packages"] else None


def _installer(name: str, value: Any, allowed: Mapping[str, type | None]) -> dict[str, Any]:
    """``pip`` or ``uv``: a list, the path of a file of requirements, or a dict of these fields."""
    if isinstance(value, str | list | os.PathLike):
        value = {"packages": value}
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env[{name!r}] must be a list, the path of a file, or a dict, not {_kind(value)}")
    unknown = sorted(value.keys() - allowed.keys(), key=str)
    if unknown or "packages" not in value:
        wrong = f"has no field {unknown[0]!r}" if unknown else "needs the field 'packages'"
        raise ValueError(f"runtime_env[{name!r}] {wrong}. Its fields: {', '.join(allowed)}.")
    for field, kind in allowed.items():
        if kind is not None and field in value and not _is(value[field], kind):
            wanted = "list of strings" if kind is list else kind.__name__
            raise TypeError(f"runtime_env[{name!r}][{field!r}] must be a {wanted}: {value[field]!r}")
    return {**value, "packages": _packages(name, value["packages"])}


def _packages(name: str, value: Any) -> list[str]:
    if isinstance(value, str | os.PathLike):
        path = os.path.expanduser(os.fspath(value))
        if not os.path.isfile(path):
            raise ValueError(f"runtime_env[{name!r}]: there is no file of requirements at {path}")
        with open(path, encoding="utf-8") as file:
            value = file.read().strip().split("\n")
    if not isinstance(value, list):
        raise ValueError(f"runtime_env[{name!r}]['packages'] must be a list of strings, not {_kind(value)}")
    if not is_texts(value):
        raise TypeError(f"runtime_env[{name!r}]['packages'] must be a list of strings: {value!r}")
    return list(dict.fromkeys(value))


def _conda(value: Any) -> str | dict[str, Any] | None:
    if isinstance(value, Mapping):
        return dict(value) or None
    if not isinstance(value, str):
        raise TypeError(f"runtime_env['conda'] must be a name, a path or a dict, not {_kind(value)}: {value!r}")
    if value.endswith((".yml", ".yaml")):
        path = os.path.abspath(os.path.expanduser(value))
        if not os.path.isfile(path):
            raise ValueError(f"runtime_env['conda']: there is no file at {path}")
        return _described(path)
    if os.path.isabs(value) and not os.path.isdir(value):
        raise ValueError(f"runtime_env['conda']: there is no environment at {value}")
    return value or None


def _described(path: str) -> str | dict[str, Any]:
    """An environment.yml as a dict, where something here reads YAML; else its path: conda reads it itself."""
    try:
        import yaml
    except ImportError:
        return path
    try:
        with open(path, encoding="utf-8") as file:
            fields = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"runtime_env['conda']: {path} is no YAML: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"runtime_env['conda']: {path} does not describe an environment")
    return fields


def _container(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['container'] must be a dict, not {_kind(value)}: {value!r}")
    unknown = sorted(value.keys() - {"image", "worker_path", "run_options"}, key=str)
    if unknown:
        raise ValueError(f"runtime_env['container'] has no field {unknown[0]!r}. Its fields: image, run_options.")
    if not value:
        return None
    if not isinstance(value.get("image"), str) or not value["image"]:
        raise TypeError(f"runtime_env['container']['image'] must name an image: {value.get('image')!r}")
    if not is_texts(value.get("run_options", [])):
        raise TypeError(f"runtime_env['container']['run_options'] must be a list of strings: {value['run_options']!r}")
    return dict(value)


def _text(name: str) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            raise TypeError(f"runtime_env[{name!r}] must be a string, not {_kind(value)}: {value!r}")
        return value or None

    return check


def _hook(value: Any) -> Any:
    if not callable(value) and not isinstance(value, str):
        raise TypeError(
            "runtime_env['worker_process_setup_hook'] must be a function, or the path by which one is imported, not "
            f"{_kind(value)}: {value!r}"
        )
    return value or None


def _excludes(value: Any) -> list[str] | None:
    if not is_texts(value):
        raise TypeError(f"runtime_env['excludes'] must be a list of patterns: {value!r}")
    return list(value) or None


def check_config(value: Any) -> dict[str, Any]:
    """``config`` with its defaults; unknown fields are left out, as in Ray."""
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['config'] must be a dict or a RuntimeEnvConfig, not {_kind(value)}: {value!r}")
    seconds, eager = value.get("setup_timeout_seconds", TIMEOUT), value.get("eager_install", True)
    logs = value.get("log_files")
    if not isinstance(seconds, int):
        raise TypeError(f"runtime_env['config']['setup_timeout_seconds'] must be a whole number: {seconds!r}")
    if seconds <= 0 and seconds != -1:
        raise ValueError(f"runtime_env['config']['setup_timeout_seconds'] must be positive, or -1 for none: {seconds}")
    if not isinstance(eager, bool):
        raise TypeError(f"runtime_env['config']['eager_install'] must be a bool: {eager!r}")
    if logs is not None and not is_texts(logs):
        raise TypeError(f"runtime_env['config']['log_files'] must be a list of strings: {logs!r}")
    return {"setup_timeout_seconds": seconds, "eager_install": eager, "log_files": list(logs or ())}


def is_texts(value: Any) -> bool:
    """Whether it is a list of strings."""
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _is(value: Any, kind: type) -> bool:
    return is_texts(value) if kind is list else isinstance(value, kind)


def _kind(value: Any) -> str:
    return type(value).__name__


CHECKS: dict[str, Callable[[Any], Any]] = {
    "env_vars": lambda value: check_variables(value) or None,
    "pip": _pip,
    "uv": _uv,
    "conda": _conda,
    "container": _container,
    "image_uri": _text("image_uri"),
    "py_executable": _text("py_executable"),
    "worker_process_setup_hook": _hook,
    "excludes": _excludes,
    "config": check_config,
}
"""What each field's value must be; gives the form in which it is carried, None for nothing."""
