"""A rehearsal: nodes are removed and added while a map-reduce and a pipeline of actors run, and all results are right.

::

    python -m skate.testing.nodes --seeds 20

The seed decides which nodes go and after how many calls. A run ends with status 0 and a line for each seed; with 1 and
what was wrong; with 2 and the state of everything when it did not end in time.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

import skate
from skate.core import engine as engines
from skate.testing.chaos import leftovers, survey
from skate.testing.chaos_state import report
from skate.testing.faults import Fault, FaultPlan, inject

# The driver's node alone must be able to run everything: the actors take less than one of its CPUs.
NODES: list[dict[str, Any]] = [
    {"num_cpus": 2},
    {"num_cpus": 2, "labels": {"zone": "a"}},
    {"num_cpus": 2, "labels": {"zone": "b"}},
    {"num_cpus": 2, "labels": {"zone": "b"}},
]
SIZE = 100_000
"""Bytes of a part: enough to lie in shared memory, and so on a node."""
MAPS, PARTS = 8, 4
STAGES, ITEMS = 3, 12


@skate.remote(max_retries=-1, num_returns=PARTS, scheduling_strategy="SPREAD")
def split(seed: int, number: int) -> list[bytes]:
    """One part for each reducer."""
    return [bytes([(seed + number * PARTS + part) % 251]) * SIZE for part in range(PARTS)]


@skate.remote(max_retries=-1, scheduling_strategy="SPREAD")
def merge(*parts: bytes) -> bytes:
    """The first byte of each part, as often as it is large."""
    assert all(len(set(part)) == 1 for part in parts), "a part has the bytes of another"
    return b"".join(bytes([part[0]]) * (len(part) // 4) for part in parts)


@skate.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0.1, scheduling_strategy="SPREAD")
class Stage:
    """Hands its items on, one larger in value."""

    def step(self, item: bytes) -> bytes:
        """An item of the next stage."""
        assert len(set(item)) == 1, "an item has the bytes of another"
        return bytes([(item[0] + 1) % 251]) * len(item)


def map_reduce(seed: int, limit: float) -> None:
    """AssertionError unless every reducer has what it should."""
    rows = [split.remote(seed, number) for number in range(MAPS)]
    merged = [merge.remote(*(row[part] for row in rows)) for part in range(PARTS)]
    del rows
    for part, got in enumerate(skate.get(merged, timeout=limit)):
        want = b"".join(bytes([(seed + number * PARTS + part) % 251]) * (SIZE // 4) for number in range(MAPS))
        assert got == want, f"the reducer of part {part} has something else"


def pipeline(seed: int, limit: float) -> None:
    """AssertionError unless every item comes out as it should."""
    stage_class: Any = Stage
    stages = [stage_class.remote() for _ in range(STAGES)]
    items: list[Any] = [split.remote(seed, number)[0] for number in range(ITEMS)]
    for stage in stages:
        items = [stage.step.remote(item) for item in items]
    for number, got in enumerate(skate.get(items, timeout=limit)):
        assert got == bytes([((seed + number * PARTS) % 251 + STAGES) % 251]) * SIZE, f"item {number} is another"


def rehearse(seed: int, rounds: int = 6, limit: float = 60.0, plan: FaultPlan | None = None) -> list[Fault]:
    """One run with a session of its own; what was done to its nodes.

    AssertionError when anything was wrong or was left behind. When it does not end within `limit` seconds, the state of
    everything goes to standard error and the process ends with status 2.
    """
    before = survey()
    skate.init(engine="local", nodes=NODES, log_to_driver=False)
    engine: Any = engines.running()
    guard = threading.Timer(limit + 5, _give_up, (engine,))
    guard.daemon = True
    guard.start()
    deadline = time.monotonic() + limit

    def again(work: Any) -> None:
        for number in range(rounds):
            work(seed + number, max(0.1, deadline - time.monotonic()))

    try:
        with (
            inject(plan or FaultPlan(seed=seed, node_every=20, kill_every=90)) as log,
            ThreadPoolExecutor(2) as threads,
        ):
            for share in [threads.submit(again, map_reduce), threads.submit(again, pipeline)]:
                try:
                    share.result()
                except skate.exceptions.GetTimeoutError:
                    _give_up(engine)
        left = leftovers(engine)
        if engine.hub.scheduler.copies:
            left.append(f"places of {len(engine.hub.scheduler.copies)} values that are gone")
    finally:
        skate.shutdown()
        guard.cancel()
        guard.join()
    problems = [f"left behind: {what}" for what in left]
    for kind, found in survey().items():
        problems += [f"left behind: {kind} {what}" for what in sorted(found - before[kind])]
    assert not problems, f"Nodes with seed {seed}:\n  " + "\n  ".join(problems)
    return log


def _give_up(engine: Any) -> None:
    import os

    print("The rehearsal did not end in time.", file=sys.stderr)
    report(engine, "", sys.stderr)
    os._exit(2)


@click.command()
@click.option("--seeds", default=20, show_default=True, help="How many runs, with the seeds from --first on.")
@click.option("--first", default=1, show_default=True)
@click.option("--rounds", default=6, show_default=True, help="How often each of the two is done in a run.")
@click.option("--limit", default=60.0, show_default=True, help="Seconds after which a run has failed.")
def main(seeds: int, first: int, rounds: int, limit: float) -> None:
    """Rehearse, and print what was done."""
    for seed in range(first, first + seeds):
        began = time.monotonic()
        try:
            log = rehearse(seed, rounds, limit)
        except AssertionError as problem:
            print(problem, file=sys.stderr)
            sys.exit(1)
        kinds = Counter(fault.kind for fault in log)
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        print(f"seed {seed}: right, {time.monotonic() - began:.1f} s; {faults}", flush=True)


if __name__ == "__main__":
    main()
