"""The arguments of `init`: checked, and turned into what `skate.core.settings` holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from skate.core import clusters
from skate.core.nodes import custom_resources, node_labels, node_spec, whole_number

AUTO = "auto"
_SMALLEST_STORE = 75 * 1024 * 1024


def capacity(own: dict[str, Any], given: Any, cluster: clusters.Declared | None) -> dict[str, Any]:
    """The `Settings` of the driver's node and the others, from the arguments of `init` for one node, or for several."""
    if given is None and cluster is None:
        return {
            "num_cpus": whole_number("init(num_cpus=...)", own["num_cpus"]),
            "num_gpus": whole_number("init(num_gpus=...)", own["num_gpus"]),
            "resources": custom_resources("init", own["resources"]),
            "labels": node_labels("init", own["labels"]),
            "object_store_memory": _store_size(own["object_store_memory"]),
        }
    twice = ", ".join(name for name, value in own.items() if value is not None)
    if twice:
        what = "the cluster has its nodes already" if cluster is not None else "nodes= says what each node has"
        raise ValueError(f"init: {what}, so {twice} cannot be given as well.")
    if cluster is not None:
        specs = cluster.specs()
    elif isinstance(given, Sequence) and not isinstance(given, str) and given:
        specs = [node_spec(entry, f"init(nodes[{place}])") for place, entry in enumerate(given)]
    else:
        raise TypeError(f"init(nodes=...) must be a list of one dict or more, not {given!r}")
    head = specs[0]
    return {
        "num_cpus": head.num_cpus,
        "num_gpus": head.num_gpus,
        "resources": head.resources,
        "labels": head.labels,
        "node_memory": head.memory,
        "object_store_memory": _store_size(head.object_store_memory),
        "nodes": tuple(specs[1:]),
    }


def _store_size(given: Any) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(f"init(object_store_memory=...) is in bytes, not {type(given).__name__}")
    if given < _SMALLEST_STORE:
        raise ValueError(f"init(object_store_memory={given!r}): must be at least {_SMALLEST_STORE} (75 MB)")
    return int(given)


def check_namespace(given: Any) -> None:
    """TypeError or ValueError unless `given` is None or can be a namespace."""
    if given is not None and not isinstance(given, str):
        raise TypeError(f"namespace must be a string or None, not {type(given).__name__}")
    if given == "":
        raise ValueError("namespace must not be empty: leave it out for the default one")


def namespace_of(given: Any, job_config: Any) -> str:
    """The session's namespace: what was given, what the job is configured with, or a fresh one."""
    check_namespace(given)
    return given or getattr(job_config, "ray_namespace", None) or _anonymous()


def _anonymous() -> str:
    """A namespace that nobody else has, in the form of a UUID, as Ray's."""
    text = os.urandom(16).hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def job_environment(given: Any, job_config: Any) -> Any:
    """The runtime environment of the job, as it was given."""
    return given if given is not None else getattr(job_config, "runtime_env", None)


def lives_apart(given: Any) -> bool:
    """Whether the hub is to have a process of its own."""
    where = given or os.environ.get("SKATE_HUB") or "driver"
    if where not in ("driver", "process"):
        raise ValueError(f"The hub can live in the 'driver' or in a 'process' of its own, not in {where!r}.")
    return bool(where == "process")


def address_of(given: Any) -> str:
    """Where the session runs that is to be joined; an empty text for one of our own."""
    if given is not None and not isinstance(given, str):
        raise TypeError(f"address must be a string or None, not {type(given).__name__}: {given!r}")
    if given in (None, AUTO):
        given = os.environ.get("SKATE_ADDRESS") or os.environ.get("RAY_ADDRESS") or given
    return "" if given in (None, "", "local") else given


def refuse_capacity(given: dict[str, Any]) -> None:
    """ValueError for arguments that only who starts a session can give."""
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise ValueError(
            f"init: {', '.join(wrong)} must not be given with an address (or SKATE_ADDRESS, RAY_ADDRESS): the session "
            "that runs there has its resources already."
        )


def logging_config_of(given: Any) -> str:
    """The ``logging_config`` of `init` as it travels; empty: none."""
    encoding = os.environ.get("RAY_LOGGING_CONFIG_ENCODING", "")
    if given is None and not encoding:
        return ""
    from skate.core.logging_config import LoggingConfig, packed

    if given is None:
        return packed(LoggingConfig(encoding))
    try:  # one of Ray's own, or one that was changed since, says the same
        return packed(LoggingConfig(given.encoding, given.log_level, list(given.additional_log_standard_attrs)))
    except AttributeError:
        raise TypeError(
            f"init(logging_config=...) must be a LoggingConfig, not {type(given).__name__}: {given!r}"
        ) from None
