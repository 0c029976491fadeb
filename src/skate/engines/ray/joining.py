"""Starting Ray, or joining a cluster: what can go wrong is told at once, in one error."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import msgspec
import ray

from skate.core.environment import given_environment, logs_of
from skate.core.logging_config import LoggingConfig
from skate.core.ray_cluster import CLIENT, knock
from skate.core.settings import Settings
from skate.engines.ray.shipping import check_cluster, ships, with_skate

_CLIENT_TAKES = ("address", "namespace", "runtime_env", "log_to_driver", "logging_config")
_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")
"""Of the cluster, then of this process, in Ray's text about two that differ."""


def connect(settings: Settings) -> dict[str, Any]:
    """Start Ray, or join the cluster at ``settings.address``; what Ray tells of it.

    Raises:
        ConnectionError: nobody listens at the address.
        RuntimeError: the cluster runs another Ray, Python or Skate.
        ImportError: the address is of Ray Client, which needs a package that is not installed.
        ValueError: virtual nodes, or what Ray refuses.
    """
    if settings.nodes:
        raise ValueError(
            "init(nodes=...) makes virtual nodes, of which the engine 'ray' has none: its nodes are machines. Start "
            "them with `skate start --engine ray`, or use engine='local'."
        )
    environment = given_environment(settings.environment)
    joins = settings.address not in ("", "local")
    if joins:
        knock(settings.address)
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
        _need_client(settings.address)
        given = {name: given[name] for name in _CLIENT_TAKES}
    try:
        made = ray.init(**{name: value for name, value in given.items() if value is not None})
    except RuntimeError as error:
        raise _mismatch(settings.address, error) or error from None
    if joins and not ships():
        try:
            check_cluster()
        except BaseException:
            ray.shutdown()
            raise
    info: dict[str, Any] = getattr(made, "address_info", {"address": settings.address})
    return info


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


def _mismatch(address: str, error: RuntimeError) -> RuntimeError | None:
    """What to say where Ray, or Python, of the cluster is another one; None for any other error."""
    versions = _VERSIONS.findall(str(error))
    if len(versions) != 2:
        return None
    (their_ray, their_python), (our_ray, our_python) = versions
    advice = []
    if their_ray != our_ray:
        advice.append(f"pip install 'ray=={their_ray}'")
    if their_python != our_python:
        advice.append(f"run this program with Python {their_python}")
    return RuntimeError(
        f"The cluster at {address!r} has Ray {their_ray} on Python {their_python}, this program has Ray {our_ray} on "
        f"Python {our_python}. They must be the same: {' and '.join(advice) or 'make them so'}, or the cluster anew."
    )
