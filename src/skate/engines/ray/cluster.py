"""Several raylets on this machine: Ray's own `Cluster`, whose sessions are Skate's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import cluster_utils

from skate.engines.ray.shipping import OURS


class Cluster(cluster_utils.Cluster):  # type: ignore[misc]
    """Ray's, with arguments and methods as Ray has them. `join` is `init`, which the floor above has."""

    def __init__(self, join: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._join = join
        super().__init__(*args, **kwargs)

    def add_node(self, wait: bool = True, **node_args: Any) -> Any:
        """Add a node; the first is the head."""
        node = super().add_node(wait, **node_args)
        OURS.add(str(self.address))
        return node

    def connect(self, namespace: str | None = None) -> None:
        """Start a session on the cluster; AssertionError before there is a head node, or when there is one already."""
        assert self.address is not None and not self.connected
        self._join(address=self.address, namespace=namespace, ignore_reinit_error=True)
        self.connected: bool = True
