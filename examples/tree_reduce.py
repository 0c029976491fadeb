"""Merge sorted parts in a tree: results go into the next task as references.

The whole tree is submitted before anything has been computed. A merge starts as soon as its two
parts are there, so early merges run beside late sorts, and the depth of the tree, not the number
of parts, bounds the time it takes.
"""

from __future__ import annotations

import heapq
import random

import skate as ray

PARTS = 16
NUMBERS = 2_000  # in each part


@ray.remote
def sorted_part(seed: int) -> list[int]:
    return sorted(random_numbers(seed))


@ray.remote
def merge(left: list[int], right: list[int]) -> list[int]:
    return list(heapq.merge(left, right))


def random_numbers(seed: int) -> list[int]:
    numbers = random.Random(seed)
    return [numbers.randrange(1_000_000) for _ in range(NUMBERS)]


def main() -> None:
    ray.init()
    level = [sorted_part.remote(seed) for seed in range(PARTS)]
    depth = 0
    while len(level) > 1:
        level = [merge.remote(*level[at : at + 2]) for at in range(0, len(level), 2)]
        depth += 1

    merged = ray.get(level[0])
    assert merged == sorted(number for seed in range(PARTS) for number in random_numbers(seed))
    print(f"tree_reduce: {len(merged):,} numbers from {PARTS} parts in {depth} levels of merges")
    ray.shutdown()


if __name__ == "__main__":
    main()
