"""Runtime environments: checked where written, carried as JSON, merged where a call starts."""

from __future__ import annotations

import binascii
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import msgspec

JOB = "_job"
"""The field that tells the calls of one attached driver from those of another; nobody writes it by hand."""
LOGS = "_logs"
"""How the workers of a job write their logs (`skate.core.logging_config`); of jobs alone."""
HOOK = "_setup_hook"
"""The pickle of a setup hook that is a function; ``worker_process_setup_hook`` then has its name."""
WORKING = (
    *("env_vars", "working_dir", "py_modules", "excludes", "pip", "uv", "conda", "container", "image_uri"),
    *("py_executable", "worker_process_setup_hook", "config"),
)
LATER = frozenset({"java_jars", "nsight", "_nsight", "rocprof_sys", "_rocprof_sys", "mpi"})
SOURCES = ("pip", "uv", "conda", "container", "image_uri")
"""Fields that say where packages come from."""
FETCHED = ("file://", "http://", "https://")
"""Where archives can come from."""
FOREIGN = ("s3://", "gs://", "azure://", "abfss://")
CLUSTERS = "gcs://"
"""What a Ray cluster has been given already: what its programs ask for in their own environments looks like this."""


def pack_environment(value: Any, *, job: bool) -> str:
    """Check a ``runtime_env`` and give it as JSON ("" for none).

    Local directories belong to the whole job (`job`): a task or an actor that names one gets
    ValueError, as in Ray. TypeError and ValueError for other fields as in `check_fields`.
    """
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env must be a dict or a RuntimeEnv, not {type(value).__name__}: {value!r}")
    for key in value:
        if key not in WORKING and key != HOOK:
            raise _refused(key)
    from skate.core.environment_fields import check_fields  # most programs name no environment

    checked = check_fields(value)
    if "working_dir" in checked:
        checked["working_dir"] = _place("working_dir", checked["working_dir"], job)
    if "py_modules" in checked:
        checked["py_modules"] = _modules(checked["py_modules"], job)
    hook = checked.get("worker_process_setup_hook")
    if callable(hook):
        checked[HOOK], checked["worker_process_setup_hook"] = _pickled(hook)
    if not checked:
        return ""
    return _encode(checked)


def _encode(fields: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(fields, order="deterministic").decode()
    except TypeError as error:
        raise TypeError(f"runtime_env holds what JSON cannot: {error}") from error


def unpack_environment(text: str) -> dict[str, Any]:
    """The ``runtime_env`` that `pack_environment` or `merge_environments` made."""
    return msgspec.json.decode(text, type=dict[str, Any]) if text else {}


def given_environment(text: str) -> dict[str, Any]:
    """The environment as its user gave it, for another package: a setup hook that is a function is one again."""
    fields = unpack_environment(shown_environment(text))
    hook = fields.pop(HOOK, "")
    if hook:
        fields["worker_process_setup_hook"] = load_hook(hook)
    return fields


def load_hook(text: str) -> Any:
    """A setup hook out of the field `HOOK`."""
    import pickle

    return pickle.loads(binascii.a2b_base64(text))


def merge_environments(parent: str, child: str) -> str:
    """What a call runs in: its own fields over its parent's, the variables of both.

    What says where packages come from stands for the others that do: a child's ``uv`` takes the place of its
    parent's ``pip``.
    """
    if not child or not parent or child == parent:
        return child or parent
    outer, inner = unpack_environment(parent), unpack_environment(child)
    variables = {**outer.get("env_vars", {}), **inner.get("env_vars", {})}
    if any(name in inner for name in SOURCES):
        outer = {name: value for name, value in outer.items() if name not in SOURCES}
    if "worker_process_setup_hook" in inner:
        outer.pop(HOOK, None)
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


def with_logs(environment: str, config: str) -> str:
    """The environment of a job whose workers write their logs in this way; "": as they like."""
    if not config:
        return environment
    return merge_environments(environment, msgspec.json.encode({LOGS: config}).decode())


def logs_of(environment: str) -> str:
    """What `with_logs` has added; empty: nothing."""
    return str(unpack_environment(environment).get(LOGS, "")) if LOGS in environment else ""


def shown_environment(environment: str) -> str:
    """The environment as its user gave it, without what Skate has added."""
    if JOB not in environment and LOGS not in environment:
        return environment
    fields = unpack_environment(environment)
    fields.pop(JOB, None)
    fields.pop(LOGS, None)
    return msgspec.json.encode(fields, order="deterministic").decode() if fields else ""


def _refused(key: object) -> Exception:
    works = ", ".join(WORKING)
    if key in LATER:
        return NotImplementedError(f"runtime_env[{key!r}] is not built yet in Skate. What works: {works}.")
    return ValueError(f"runtime_env has no field {key!r}. What works: {works}.")


def _pickled(hook: Any) -> tuple[str, str]:
    import cloudpickle

    name = getattr(hook, "__name__", type(hook).__name__)
    return binascii.b2a_base64(cloudpickle.dumps(hook), newline=False).decode(), name


def _place(field: str, value: Any, job: bool) -> str:
    """A directory, an archive or a URI; paths come out absolute."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"runtime_env[{field!r}] must be a path, not {type(value).__name__}: {value!r}")
    path = os.fspath(value)
    if "://" in path:
        return _uri(field, path)
    if not job:
        raise ValueError(
            f"runtime_env[{field!r}]={path!r}: a local path works for the whole job only. Give it "
            "to init(runtime_env=...), or name an archive as file:///..."
        )
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(path):
        raise ValueError(f"runtime_env[{field!r}]: there is nothing at {path}")
    if os.path.isfile(path) and not path.endswith((*endings(field), *((".py",) if field == "py_modules" else ()))):
        raise ValueError(f"runtime_env[{field!r}]={path!r}: must be a directory or one of {', '.join(endings(field))}")
    return path


def _uri(field: str, uri: str) -> str:
    if uri.startswith("local://"):  # a directory that is there, as it is
        if not os.path.isabs(local_path(uri)):
            raise ValueError(f"runtime_env[{field!r}]={uri!r}: must be an absolute path, as in local:///data/code")
        return uri
    if not uri.startswith((*FETCHED, *FOREIGN, CLUSTERS)):
        raise ValueError(f"runtime_env[{field!r}]={uri!r}: archives come from {', '.join(FETCHED)}")
    if not uri.partition("?")[0].endswith(endings(field)):
        raise ValueError(f"runtime_env[{field!r}]={uri!r}: must end in one of {', '.join(endings(field))}")
    if uri.startswith(FOREIGN):
        raise NotImplementedError(
            f"runtime_env[{field!r}]={uri!r}: archives from there are not built yet; from {', '.join(FETCHED)} are."
        )
    return uri


def endings(field: str) -> tuple[str, ...]:
    """What the names of archives for a field may end in."""
    from skate.core.environment_fields import ARCHIVES

    return (*ARCHIVES, ".whl") if field == "py_modules" else ARCHIVES


def local_path(uri: str) -> str:
    """The path in a ``file://`` or ``local://`` URI; anything else as it is."""
    for scheme in ("file://", "local://"):
        if uri.startswith(scheme):
            from urllib.parse import unquote  # takes longer to import than a session to start

            return unquote(uri.removeprefix(scheme))
    return uri


def _modules(value: Any, job: bool) -> list[str]:
    if not isinstance(value, list):
        raise TypeError(f"runtime_env['py_modules'] must be a list of paths or modules, not {type(value).__name__}")
    return [_place("py_modules", _home(module), job) for module in value]


def _home(module: Any) -> Any:
    """The path of an imported module; anything else as it is."""
    if not isinstance(module, ModuleType):
        return module
    paths = list(getattr(module, "__path__", ())) or [module.__file__]
    if len(paths) != 1 or paths[0] is None:
        raise ValueError(f"runtime_env['py_modules']: {module!r} does not lie in one place")
    return paths[0]
