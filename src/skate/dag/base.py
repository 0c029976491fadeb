"""The root of all nodes, apart from them so that what looks for nodes in values need not know their kinds."""

from __future__ import annotations


class DAGNodeBase:
    """Marks what stands in a graph for a value to come."""
