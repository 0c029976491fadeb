"""A scheduler for Dask: each task of a graph is a task here, with the results that it needs as its arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dask
from dask._task_spec import Alias, DataNode, convert_legacy_graph
from dask.core import flatten

from skate.api import get, put, remote

_enabled: Any = None


def enable_dask_on_ray(shuffle: str | None = "tasks", use_shuffle_optimization: bool = True) -> Any:
    """Have Dask run its graphs as tasks, also as a context: ``with enable_dask_on_ray(): ...``.

    Args:
        shuffle: how Dask moves rows between partitions; "tasks", for "disk" needs files that all workers see.
        use_shuffle_optimization: has no effect.
    """
    global _enabled
    settings: dict[str, Any] = {"scheduler": ray_dask_get}
    if shuffle is not None:
        settings["dataframe.shuffle.method"] = shuffle
    _enabled = dask.config.set(settings)
    return _enabled


def disable_dask_on_ray() -> Any:
    """Have Dask choose its own scheduler again."""
    global _enabled
    _enabled = None
    return dask.config.set(scheduler=None)


def ray_dask_get(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """Run a graph of Dask, and return the results for `keys`, in lists nested as those of `keys` are.

    Args:
        dsk: the graph, or an expression that has one.
        keys: a key, or lists of keys.
        ray_remote_args: options of the tasks.
        ray_persist: return references in place of results.

    ``dask.compute(..., scheduler=ray_dask_get)``; tasks may have options of their own by
    ``dask.annotate(ray_remote_args={...})``. Raises what a task raised.
    """
    shared = {**kwargs.get("ray_remote_args", {}), **dask.config.get("annotations", {}).get("ray_remote_args", {})}
    if not isinstance(dsk, Mapping):
        dsk = dsk.__dask_graph__()  # an expression
    own = _options_by_key(dsk)
    graph = convert_legacy_graph(dict(dsk))
    made: dict[Any, Any] = {}
    runner: Any = remote(run_task)
    for key in _ordered(graph, list(flatten([keys]))):
        node = graph[key]
        if isinstance(node, Alias):
            made[key] = made[node.target]
        elif isinstance(node, DataNode):
            made[key] = put(node.value)
        else:
            needs = sorted(node.dependencies, key=str)
            options = {**shared, **own.get(key, {})}
            run = runner.options(name=f"dask:{key!s}"[:200], **options)
            made[key] = run.remote(node, needs, *(made[need] for need in needs))
    return _results(keys, made, kwargs.get("ray_persist", False))


def ray_dask_get_sync(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """The same in this process, one task after another; for debugging."""
    return dask.get(dsk, keys)


def run_task(node: Any, needs: list[Any], *values: Any) -> Any:
    """What the tasks run."""
    return node(dict(zip(needs, values, strict=True)))


def _ordered(graph: Mapping[Any, Any], wanted: Iterable[Any]) -> list[Any]:
    """The keys that are wanted, and those that they need, each after what it needs."""
    order: list[Any] = []
    seen: set[Any] = set()
    stack = [(key, False) for key in wanted]
    while stack:
        key, entered = stack.pop()
        if entered:
            order.append(key)
        elif key not in seen:
            seen.add(key)
            stack.append((key, True))
            stack.extend((need, False) for need in graph[key].dependencies)
    return order


def _options_by_key(dsk: Mapping[Any, Any]) -> dict[Any, dict[str, Any]]:
    """The options that annotations of the graph's layers give."""
    options: dict[Any, dict[str, Any]] = {}
    for layer in getattr(dsk, "layers", {}).values():
        given = (layer.annotations or {}).get("ray_remote_args")
        if given:
            options.update(dict.fromkeys(layer.keys(), given))
    return options


def _results(keys: Any, made: Mapping[Any, Any], persist: bool) -> Any:
    if isinstance(keys, list):
        if persist:
            return [_results(key, made, persist) for key in keys]
        wanted = list(flatten(keys))
        values = dict(zip(wanted, get([made[key] for key in wanted]), strict=True))
        return _nested(keys, values)
    return made[keys] if persist else get(made[keys])


def _nested(keys: Any, values: Mapping[Any, Any]) -> Any:
    return [_nested(key, values) for key in keys] if isinstance(keys, list) else values[keys]
