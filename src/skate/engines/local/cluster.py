"""Virtual nodes: how they join, and what goes with one that is removed. A part of the hub.

A node is a part of this machine that stands for a machine of its own: its resources, labels and workers, and the stored
values that were made there. All nodes share one arena, so where a value lies is a matter of book-keeping: who reads it
on another node has a copy from then on, as if it had been sent over. Small values travel in messages and are with the
driver, so they stay, and so do items of streams, which are on their way to their reader.

A removed node is dead for the scheduler at once. Its workers are killed, and nothing that they still send counts. When
the last of them is gone, so are the values of which there was no other copy: they are made again, or are lost.
"""

from __future__ import annotations

import signal

from skate.engines.local.reservations import Reservations
from skate.engines.local.rows import HEAD, READY, Family, Node


class Cluster(Reservations):
    """The hub's nodes."""

    def next_node(self) -> int:
        """A number that no node has had."""
        return max((*self.scheduler.nodes, *(node.key for node in self.scheduler.dead))) + 1

    def add_node(self, total: dict[str, int], labels: dict[str, str], name: str, key: int) -> Node:
        """A new node with these resources; ValueError when its number belongs to another one."""
        scheduler = self.scheduler
        if key in scheduler.nodes or any(node.key == key for node in scheduler.dead):
            raise ValueError(f"There is a node of the number {key} already, or there was one.")
        node = Node(key, total, labels, name)
        scheduler.add_node(node)
        self.nodes_changed()
        self._placed_anew()
        self.decide()
        return node

    def remove_node(self, key: int) -> Node:
        """A node dies, and its workers with it; `died` follows for each. ValueError when there is none that can."""
        if key == HEAD:
            raise ValueError("The driver's own node cannot be removed: the driver would be gone with it.")
        node = self.scheduler.nodes.get(key)
        if node is None:
            raise ValueError(f"There is no node of the number {key} to remove.")
        node.death = f"its node has died: Node Id: {node.hex} ({node.address}), removed by remove_node"
        workers = [worker for worker in self.workers.values() if worker.node is node]
        for worker in workers:
            worker.outlaw = node.death
            if worker.up:
                self.scheduler.gone(worker)
            self.ports.signal(worker, signal.SIGKILL)
        self.scheduler.remove_node(node)
        self.nodes_changed()
        self._placed_anew()
        if not workers:
            self.node_gone(node)
        self.decide()
        return node

    def _placed_anew(self) -> None:
        """Calls may find other places than before, some none any more."""
        for family in list(self.scheduler.families.values()):
            if not family.infeasible:
                self.doubtful.discard(family)
            elif family.queue and family not in self.doubtful:
                self._never_again(family)

    def _never_again(self, family: Family) -> None:
        for row in list(family.queue):
            if row.spec is not None and not row.state:
                self._never(family, row)

    def node_gone(self, node: Node) -> None:
        """The last worker of a removed node is gone: so are the values that lay there alone."""
        lost = []
        for key, places in list(self.scheduler.copies.items()):
            places.discard(node.key)
            if not places:
                del self.scheduler.copies[key]
                lost.append(key)
        for key in lost:
            row = self.rows.get(key)
            if row is not None and row.state == READY:
                self.lose(key, removed=True)
        if lost:
            self.failures += 1  # whoever waits in the driver looks again
            self.decide()
