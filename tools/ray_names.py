"""List the public names of the Ray that is installed, as JSON; run by `compatibility.py` with that Ray's Python.

    .venv-ray/bin/python tools/ray_names.py

A name is public when its module's ``__all__`` has it; where there is none, when it has no underscore before it and is
defined in that module or below it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import types
import warnings

MODULES = (
    "ray",
    "ray.actor",
    "ray.cluster_utils",
    "ray.cloudpickle",
    "ray.dag",
    "ray.exceptions",
    "ray.experimental",
    "ray.experimental.tqdm_ray",
    "ray.job_config",
    "ray.job_submission",
    "ray.remote_function",
    "ray.runtime_context",
    "ray.runtime_env",
    "ray.types",
    "ray.util",
    "ray.util.actor_pool",
    "ray.util.annotations",
    "ray.util.check_serialize",
    "ray.util.collective",
    "ray.util.dask",
    "ray.util.debug",
    "ray.util.joblib",
    "ray.util.metrics",
    "ray.util.multiprocessing",
    "ray.util.placement_group",
    "ray.util.queue",
    "ray.util.scheduling_strategies",
    "ray.util.serialization",
    "ray.util.state",
)
CLASSES = (
    "ray.ObjectRef",
    "ray.ObjectRefGenerator",
    "ray.actor.ActorHandle",
    "ray.cluster_utils.Cluster",
    "ray.job_submission.JobSubmissionClient",
    "ray.runtime_context.RuntimeContext",
    "ray.runtime_env.RuntimeEnv",
    "ray.util.ActorPool",
    "ray.util.metrics.Counter",
    "ray.util.multiprocessing.Pool",
    "ray.util.placement_group.PlacementGroup",
    "ray.util.queue.Queue",
)


def names_of(module: types.ModuleType) -> list[str]:
    listed = getattr(module, "__all__", None)
    if listed:
        return sorted(name for name in listed if there(module, name))
    found = []
    for name, value in vars(module).items():
        home = getattr(value, "__module__", None) or ""
        if not name.startswith("_") and f"{home}.".startswith(f"{module.__name__}."):
            found.append(name)
    return sorted(found)


def there(module: types.ModuleType, name: str) -> bool:
    """Whether the module has the name; a library whose dependencies are missing here is there, too."""
    try:
        return hasattr(module, name)
    except ImportError:
        return True
    except RuntimeError:  # what Ray says of a library that is gone
        return False


def members_of(name: str) -> list[str]:
    module, _, attribute = name.rpartition(".")
    owner = getattr(importlib.import_module(module), attribute)
    return sorted(member for member in dir(owner) if not member.startswith("_") and not hasattr(dict, member))


def options() -> dict[str, list[str]]:
    """Arguments of `init`, options of tasks and actors, fields of a runtime environment."""
    import ray
    from ray._common import ray_option_utils

    init = [name for name in inspect.signature(ray.init).parameters if name != "kwargs"]
    fields = sorted(ray.runtime_env.RuntimeEnv.known_fields)
    return {
        "init": init,
        "tasks": sorted(ray_option_utils.task_options),
        "actors": sorted(ray_option_utils.actor_options),
        "runtime_env": [field for field in fields if not field.startswith("_")],
    }


def main() -> None:
    warnings.simplefilter("ignore")
    import ray

    found: dict[str, list[str]] = {}
    for name in MODULES:
        try:
            found[name] = names_of(importlib.import_module(name))
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    for name in CLASSES:
        module, _, attribute = name.rpartition(".")
        if hasattr(sys.modules.get(module), attribute):
            found[name] = members_of(name)
    print(json.dumps({"version": ray.__version__, "names": found, "options": options()}))


if __name__ == "__main__":
    main()
