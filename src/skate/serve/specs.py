"""Applications as they cross to the controller."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from skate.serve.target import Target


@dataclass(frozen=True)
class AppSpec:
    """One application, ready to be deployed.

    Args:
        name: its name.
        route_prefix: paths that begin so belong to it; None: it has no HTTP.
        ingress: the deployment that it is reached through.
        ingress_options: what the HTTP side must know of that deployment; ``more_prefixes``: further route prefixes.
        targets: what is wanted of each deployment, by name.
        codes: pickled code by the names that targets have for it; bytes, or references to them.
        deployed_at: when it was deployed, in seconds since the epoch.
        declared: the configuration that it was built from; None: a program deployed it.
        external_scaler: whether somebody else may say how many replicas there are.
    """

    name: str
    route_prefix: str | None
    ingress: str
    targets: dict[str, Target]
    codes: dict[str, Any]
    ingress_options: dict[str, Any] = field(default_factory=dict)
    deployed_at: float = 0.0
    declared: dict[str, Any] | None = None
    external_scaler: bool = False
