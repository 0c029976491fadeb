"""Estimate pi by throwing darts in parallel, with an actor that knows how far everybody is.

Tasks report to the actor through its handle, which travels to them as an argument. The driver
asks the actor while the tasks are still throwing.
"""

from __future__ import annotations

import random
from typing import Any

import skate as ray

TASKS = 8
DARTS = 200_000
REPORTS = 10  # by each task


@ray.remote
class Progress:
    """The number of darts that each task has thrown so far."""

    def __init__(self) -> None:
        self.thrown: dict[int, int] = {}

    def report(self, task: int, darts: int) -> None:
        self.thrown[task] = darts

    def share(self) -> float:
        return sum(self.thrown.values()) / (TASKS * DARTS)


@ray.remote
def throw(task: int, progress: Any) -> int:
    """Throw DARTS at the unit square; return how many fell within the quarter circle."""
    random_numbers = random.Random(task)  # a seed of its own: the same result on every run
    inside = 0
    for dart in range(1, DARTS + 1):
        inside += random_numbers.random() ** 2 + random_numbers.random() ** 2 <= 1
        if dart % (DARTS // REPORTS) == 0:
            progress.report.remote(task, dart)
    return inside


def main() -> None:
    ray.init()
    progress = Progress.remote()
    waiting = [throw.remote(task, progress) for task in range(TASKS)]
    inside = 0
    while waiting:
        done, waiting = ray.wait(waiting)
        inside += sum(ray.get(done))
        print(f"{ray.get(progress.share.remote()):4.0%} of the darts thrown")

    pi = 4 * inside / (TASKS * DARTS)
    assert abs(pi - 3.14159) < 0.005
    assert ray.get(progress.share.remote()) == 1
    print(f"monte_carlo_pi: {pi:.4f} from {TASKS * DARTS:,} darts")
    ray.shutdown()


if __name__ == "__main__":
    main()
