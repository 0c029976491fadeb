"""Measure a cluster on one machine beside real Ray: nodes, actors and placement groups, many of each.

    .venv/bin/python benchmarks/cluster.py --rival .venv-ray/bin/python

Every sample runs in a new process; the rounds go Skate, Ray, Skate, Ray. README.md, beside this file, tells more.
"""

from __future__ import annotations

import sys

import engine
import scale
from rows import Row, at_least, done

ROWS = (
    Row("nodes_few", "2,000 tasks spread over 4 nodes", "s", "nodes_few", (done("nodes_few", "completes"),)),
    Row("nodes_few_start", "  nodes and workers up", "s", "nodes_few"),
    Row("nodes_many", "2,000 tasks spread over 50 nodes", "s", "nodes_many", (done("nodes_many", "completes"),)),
    Row("nodes_many_start", "  nodes and workers up", "s", "nodes_many"),
    Row("nodes_many_least", "  least tasks of a node", "", "nodes_many", (at_least("nodes_many_least", 20, "20"),)),
    Row("actors_some", "100 actors alive, answered", "s", "actors_some", (done("actors_some", "completes"),)),
    Row("actors_some_private", "  private memory each", "MB", "actors_some"),
    Row("actors_some_whole", "  with its part of shared", "MB", "actors_some"),
    Row("actors_many", "1,000 actors alive, answered", "s", "actors_many", (done("actors_many", "completes"),)),
    Row("actors_many_again", "  one more call of each", "ms", "actors_many"),
    Row("actors_many_private", "  private memory each", "MB", "actors_many"),
    Row("actors_many_whole", "  with its part of shared", "MB", "actors_many"),
    Row("groups_removed", "10,000 groups made, removed", "s", "groups_removed", (done("groups_removed", "completes"),)),
    Row("groups_ready", "100 groups made, ready, removed", "s", "groups_ready", (done("groups_ready", "completes"),)),
    Row("groups_together", "  the same, all there at once", "s", "groups_ready"),
    Row("group_tasks", "1,000 tasks in a placement group", "ms", "group_tasks", (done("group_tasks", "completes"),)),
    Row("group_tasks_outside", "  the same outside", "ms", "group_tasks"),
)
CASES = ("nodes_few", "nodes_many", "actors_some", "actors_many", "groups_removed", "groups_ready", "group_tasks")


class Cluster(scale.Scale):
    """The run: Ray has the smaller of each pair of cases."""

    own_cases = ("nodes_many", "actors_many")


def main() -> int:
    args = scale.arguments(__doc__, CASES, "cluster")
    both = [entrant for entrant in engine.entrants(args) if entrant.package in ("skate", "ray")]
    return scale.measure(Cluster(both, args), CASES, ROWS, "cluster")


if __name__ == "__main__":
    sys.exit(main())
