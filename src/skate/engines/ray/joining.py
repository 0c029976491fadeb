"""Starting Ray, or joining a cluster: what can go wrong is told at once, in one error."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
from typing import Any

import msgspec
import ray

from skate.core.environment import given_environment, logs_of
from skate.core.logging_config import LoggingConfig
from skate.core.ray_cluster import CLIENT, KNOCK, knock
from skate.core.settings import Settings
from skate.engines.ray.shipping import OURS, check_cluster, ships, with_skate

_CLIENT_TAKES = ("address", "namespace", "runtime_env", "log_to_driver", "logging_config")
_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")
"""Of the cluster, in Ray's text about versions that differ."""


def connect(settings: Settings) -> dict[str, Any]:
    """Start Ray, or join the cluster at ``settings.address``; what Ray tells of it.

    Raises:
        ConnectionError: nobody listens at the address, or somebody else than Ray.
        RuntimeError: the cluster runs another Ray, Python or Skate.
        ImportError: the address is of Ray Client, which needs a package that is not installed.
        ValueError: virtual nodes, or what Ray refuses.
    """
    if settings.nodes:
        raise ValueError(
            "init(nodes=...) makes virtual nodes, of which the engine 'ray' has none: its nodes are machines. Start "
            "them with `skate start --engine ray`, or use engine='local'."
        )
    joins = settings.address not in ("", "local", *OURS)
    if joins:
        knock(settings.address)
        _compare(settings.address)
    if settings.address.startswith(CLIENT):
        _need_client(settings.address)
    made = _ray_init(settings.address, _arguments(settings, joins))
    if joins and not ships():
        try:
            check_cluster()
        except BaseException:
            ray.shutdown()
            raise
    info: dict[str, Any] = getattr(made, "address_info", {"address": settings.address})
    return info


def _arguments(settings: Settings, joins: bool) -> dict[str, Any]:
    """What Ray's `init` is given."""
    environment = given_environment(settings.environment)
    if joins:
        environment = with_skate(environment)
    given = {
        "address": settings.address or "local",
        "num_cpus": settings.num_cpus,
        "num_gpus": settings.num_gpus,
        "resources": settings.resources or None,
        "labels": settings.labels or None,
        "object_store_memory": settings.object_store_memory,
        "namespace": settings.namespace,
        "runtime_env": environment or None,
        "log_to_driver": settings.log_to_driver,
        "logging_config": _logging_config(settings.environment),
        **settings.others,
    }
    if settings.address.startswith(CLIENT):
        given = {name: given[name] for name in _CLIENT_TAKES}
    return {name: value for name, value in given.items() if value is not None}


def _ray_init(address: str, given: dict[str, Any]) -> Any:
    """`ray.init`, with versions that differ told in words of one line."""
    try:
        return ray.init(**given)
    except RuntimeError as error:
        told = _VERSIONS.search(str(error))
        raise (_mismatch(address, *told.groups()) if told else None) or error from None
    except ConnectionAbortedError as error:
        raise ConnectionError(
            f"The server at {address!r} could not begin to act for this program, which has Ray "
            f"{ray.__version__} on Python {platform.python_version()}; the cluster must have the same. It says:\n"
            f"{error}"
        ) from None


def _logging_config(environment: str) -> Any:
    text = logs_of(environment)
    if not text:
        return None
    config = msgspec.json.decode(text, type=LoggingConfig)
    return ray.LoggingConfig(config.encoding, config.log_level, config.additional_log_standard_attrs)


def _need_client(address: str) -> None:
    if importlib.util.find_spec("grpc") is None:
        raise ImportError(
            f"The address {address!r} is of Ray Client, which needs grpcio: pip install 'skate-ray[ray-client]'. Or "
            "join the cluster directly, as HOST:PORT of its head."
        )


def _compare(address: str) -> None:
    """RuntimeError where Ray, or Python, of the cluster at ``host:port`` is another one; ConnectionError where none is.

    Ray asks this too, but only after much that fails in other words, or takes a minute, when versions differ.
    """
    if address.startswith(CLIENT) or not address.rpartition(":")[2].isdigit():
        return
    try:
        told = ray._raylet.GcsClient(address=address).internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=KNOCK)
    except ray.exceptions.RpcError as error:
        raise ConnectionError(f"Something listens at {address!r}, but no cluster of Ray answers: {error}") from None
    except ray.exceptions.RayError:
        return  # `init` will say what it is
    if not told:
        return
    facts = msgspec.json.decode(told)
    problem = _mismatch(address, facts["ray_version"], facts["python_version"])
    if problem is not None:
        raise problem


def _mismatch(address: str, their_ray: str, their_python: str) -> RuntimeError | None:
    """What to say where Ray, or Python, of the cluster is another one."""
    our_python = platform.python_version()
    parts = 2 if os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor" else 3
    advice = []
    if their_ray != ray.__version__:
        advice.append(f"pip install 'ray=={their_ray}'")
    if their_python.split(".")[:parts] != our_python.split(".")[:parts]:
        advice.append(f"run this program with Python {their_python}")
    if not advice:
        return None
    return RuntimeError(
        f"The cluster at {address!r} has Ray {their_ray} on Python {their_python}, this program has Ray "
        f"{ray.__version__} on Python {our_python}. They must be the same: {' and '.join(advice)}, or start the "
        "cluster anew with what is here."
    )
