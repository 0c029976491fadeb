"""Find primes with a chain of streams: every stage drops the multiples of one prime.

A task that yields is a stream: its caller receives each item as soon as it is there. Here each
stage is such a task, and reads the stage before it; so the first primes come out at the end
while the first stage is still counting. (The pipeline is M. D. McIlroy's, 1968.)
"""

from __future__ import annotations

from collections.abc import Iterator

import skate as ray

LIMIT = 160
BLOCK = 20  # numbers that travel together
STAGES = [2, 3, 5, 7, 11]  # the primes up to the square root of LIMIT


@ray.remote(num_returns="streaming", num_cpus=0.1)
def stage(primes: list[int]) -> Iterator[list[int]]:
    """Yield blocks of numbers below LIMIT that no prime of the list divides."""
    if not primes:
        for first in range(2, LIMIT, BLOCK):
            yield list(range(first, min(first + BLOCK, LIMIT)))
        return
    *earlier, prime = primes
    for ref in stage.remote(earlier):
        yield [number for number in ray.get(ref) if number == prime or number % prime]


def main() -> None:
    ray.init()
    found: list[int] = []
    for ref in stage.remote(STAGES):
        block = ray.get(ref)
        found += block
        print(*block)

    assert found == [n for n in range(2, LIMIT) if all(n % d for d in range(2, n))]
    print(f"prime_sieve: {len(found)} primes below {LIMIT} through {len(STAGES)} stages")
    ray.shutdown()


if __name__ == "__main__":
    main()
