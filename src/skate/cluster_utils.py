"""Several nodes on one machine, for tests of what happens when nodes come and go: `Cluster`, as Ray has it.

::

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    other = cluster.add_node(num_cpus=2, resources={"disk": 1})
    skate.init(address=cluster.address)
    ...
    cluster.remove_node(other)
"""

from __future__ import annotations

import itertools
import os
from typing import Any

from skate import session
from skate.core import clusters, gpus, ids, nodes
from skate.core import engine as engines

__all__ = ["Cluster", "ClusterNode"]

_numbers = itertools.count(1)
_FOR_DAEMONS = frozenset(
    {
        "cluster_id",
        "dashboard_agent_listen_port",
        "dashboard_host",
        "dashboard_port",
        "enable_object_reconstruction",
        "external_addresses",
        "gcs_address",
        "gcs_server_port",
        "include_dashboard",
        "include_log_monitor",
        "log_dir",
        "max_worker_port",
        "metrics_agent_port",
        "metrics_export_port",
        "min_worker_port",
        "node_ip_address",
        "node_manager_port",
        "no_monitor",
        "num_redis_shards",
        "object_manager_port",
        "plasma_directory",
        "ray_client_server_port",
        "redis_address",
        "redis_max_clients",
        "redis_password",
        "redis_port",
        "redis_shard_ports",
        "redis_username",
        "runtime_env_agent_port",
        "session_name",
        "temp_dir",
        "tracing_startup_hook",
        "worker_path",
        "worker_port_list",
        "_system_config",
    }
)
"""Ray's arguments that tune daemons, of which there are none here: accepted, without effect."""


class ClusterNode:
    """A node of a `Cluster`."""

    def __init__(self, spec: nodes.NodeSpec, head: bool) -> None:
        self.spec = spec
        self.head = head

    @property
    def node_id(self) -> str:
        """The id in hexadecimal, as `nodes` has it; the same in every session that joins the cluster."""
        return ids.node_hex(self.spec.number)

    unique_id = node_id

    @property
    def node_ip_address(self) -> str:
        """The node's address: one of the loopback's."""
        return nodes.address(self.spec.number)

    def is_head(self) -> bool:
        """Whether drivers run on it."""
        return self.head

    def __repr__(self) -> str:
        return f"ClusterNode({self.node_id[-8:]}, num_cpus={self.spec.num_cpus:g})"


class Cluster:
    """Virtual nodes, and a session on them once ``init(address=cluster.address)`` was called.

    The nodes belong to the cluster: a session that joins after another has ended finds them all, empty. Without a
    session they are only declared. Where the engine `ray` is chosen from outside (SKATE_ENGINE or configuration) this
    gives Ray's own `Cluster`, whose nodes are processes.

    Args:
        initialize_head: add the head node at once.
        connect: start a session at once.
        head_node_args: arguments of `add_node` for the head.
        shutdown_at_exit: no effect: nothing outlives this process.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        machines = session.cluster_of_machines(*args, **kwargs)
        return super().__new__(cls) if machines is None else machines

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: dict[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        if connect and not initialize_head:
            raise RuntimeError("A cluster without a head node cannot be connected to: pass initialize_head=True.")
        self.head_node: ClusterNode | None = None
        self.worker_nodes: set[ClusterNode] = set()
        self.redis_address = None
        self._declared = clusters.Declared(f"skate-cluster-{os.getpid()}-{next(_numbers)}", self._specs)
        self._following = itertools.count(2)
        if initialize_head:
            self.add_node(**(head_node_args or {}))
            if connect:
                self.connect()

    @property
    def address(self) -> str | None:
        """What `init` takes to join; None before there is a head node."""
        return self._declared.address if self.head_node is not None else None

    gcs_address = address

    @property
    def connected(self) -> bool:
        """Whether a session runs on the cluster."""
        return self._session() is not None

    def _specs(self) -> list[nodes.NodeSpec]:
        return [node.spec for node in self.list_all_nodes()]

    def _session(self) -> Any:
        """The engine of the session that has joined, if it still runs."""
        running = engines.running()
        return running if running is not None and running is self._declared.engine else None

    def connect(self, namespace: str | None = None) -> None:
        """Start a session on the cluster; AssertionError before there is a head node, or when there is one already."""
        assert self.address is not None, "The cluster has no head node: call add_node() first."
        assert not self.connected, "The cluster is connected already."
        session.init(address=self.address, namespace=namespace, ignore_reinit_error=True)

    def add_node(self, wait: bool = True, **node_args: Any) -> ClusterNode:
        """Add a node; the first is the head, on which drivers run.

        Args:
            wait: no effect: a node is there at once.
            node_args: ``num_cpus`` (default 1), ``num_gpus`` (default 0), ``resources``, ``labels``, ``memory``,
                ``object_store_memory``, ``node_name``. Arguments of Ray's that tune daemons have no effect.

        Raises ValueError or TypeError for other arguments and for wrong values.
        """
        given = {name: value for name, value in node_args.items() if name not in _FOR_DAEMONS}
        if "node_name" in given:
            given["name"] = given.pop("node_name")
        head = self.head_node is None
        plain = nodes.node_spec(given)
        spec = nodes.numbered(plain, 1 if head else next(self._following))
        node = ClusterNode(spec, head)
        running = self._session()
        gpus.check(spec.num_gpus, "add_node")
        if head:
            self.head_node = node
            clusters.known[self._declared.address] = self._declared
        else:
            if running is not None:
                running.add_node(spec)
            self.worker_nodes.add(node)
        return node

    def remove_node(self, node: ClusterNode, allow_graceful: bool = True) -> None:
        """Remove a node: its workers are killed and what lay there alone is lost, before this returns.

        `allow_graceful` has no effect. The head can be removed while no session runs there; otherwise, as in Ray, the
        session is ended and ValueError is raised.
        """
        running = self._session()
        if node is self.head_node:
            if running is not None:
                session.shutdown()
                raise ValueError("The driver runs on the head node, which therefore cannot be removed under it.")
            self.head_node = None
            clusters.known.pop(self._declared.address, None)
            return
        if node not in self.worker_nodes:
            raise ValueError(f"{node!r} is no node of this cluster.")
        self.worker_nodes.remove(node)
        if running is not None:
            running.remove_node(node.node_id)

    def wait_for_nodes(self, timeout: float = 30) -> None:
        """Return when the session has the nodes that were added; TimeoutError when one of them is gone.

        Nodes join and leave at once, so there is nothing to wait for within `timeout` seconds.
        """
        running = self._session()
        if running is None:
            return
        alive = {row["NodeID"] for row in running.state("nodes") if row["Alive"]}
        if alive != {node.node_id for node in self.list_all_nodes()}:
            raise TimeoutError(f"The session has {len(alive)} nodes, and the cluster {len(self.list_all_nodes())}.")

    def list_all_nodes(self) -> list[ClusterNode]:
        """The head, then the others in the order in which they were added."""
        others = sorted(self.worker_nodes, key=lambda node: node.spec.number)
        return others if self.head_node is None else [self.head_node, *others]

    def remaining_processes_alive(self) -> bool:
        """True: a node has no processes of its own but workers."""
        return True

    def shutdown(self) -> None:
        """End the session if it runs on this cluster, and forget the nodes."""
        if self._session() is not None:
            session.shutdown()
        self.worker_nodes.clear()
        self.head_node = None
        clusters.known.pop(self._declared.address, None)
