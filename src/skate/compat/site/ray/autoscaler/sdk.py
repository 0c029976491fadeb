"""Requests to a cluster's autoscaler."""

from __future__ import annotations

from typing import Any

__all__ = ["request_resources"]


def request_resources(
    num_cpus: int | None = None,
    bundles: list[dict[str, Any]] | None = None,
    bundle_label_selectors: list[dict[str, str]] | None = None,
) -> None:
    """Ask for room in advance. Has no effect, as on a Ray cluster that may not grow.

    Raises TypeError for arguments of the wrong type.
    """
    if num_cpus is not None and (isinstance(num_cpus, bool) or not isinstance(num_cpus, int)):
        raise TypeError(f"num_cpus must be a whole number, not {num_cpus!r}")
    if bundles is not None and not (isinstance(bundles, list) and all(isinstance(each, dict) for each in bundles)):
        raise TypeError(f"bundles must be a list of dicts, not {bundles!r}")
