"""What remembering costs: sessions that keep history and sessions that keep none, in turns, each in a fresh process.

    python benchmarks/history.py
    python benchmarks/history.py --rounds 10 --other ../before/src

`--other` adds the sources of another checkout, such as one from before the history, as a third contestant. Figures are
microseconds per call: the best of each round's repetitions, then the median and the best over all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
KEPT = "RAY_task_events_max_num_task_in_gcs"
MEASURE = """
import json, time
import skate
skate.init(num_cpus=2)

@skate.remote
def task(): return None

@skate.remote
class Actor:
    def method(self): return None

@skate.remote
class Async:
    async def method(self): return None

def best(call, count, times):
    found = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        call()
        found = min(found, (time.perf_counter() - start) / count)
    return found * 1e6

def one_by_one(remote):
    for _ in range(300):
        skate.get(remote())

actor, other = Actor.remote(), Async.remote()
skate.get([actor.method.remote(), other.method.remote()])
skate.get([task.remote() for _ in range(12_000)])  # the history is full
verbs = {"tasks": task.remote, "actor calls": actor.method.remote, "async actor calls": other.method.remote}
figures = {}
for name, remote in verbs.items():
    figures[f"1,000 {name} at once"] = best(lambda: skate.get([remote() for _ in range(1000)]), 1000, 60)
    figures[f"{name} one by one"] = best(lambda: one_by_one(remote), 300, 20)
print(json.dumps(figures))
"""


def measure(source: Path, keep: bool) -> dict[str, float]:
    """One contestant's figures, from a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    environment.pop(KEPT, None)
    if not keep:
        environment[KEPT] = "0"
    done = subprocess.run([sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def table(names: list[str], rounds: list[list[dict[str, float]]]) -> Iterable[str]:
    """A line for each figure: median and best of each contestant, and the difference to the first."""
    yield f"{'microseconds per call':32}" + "".join(f"{name:>32}" for name in names)
    for figure in rounds[0][0]:
        line, base = f"{figure:32}", (0.0, 0.0)
        for number in range(len(names)):
            found = [one[number][figure] for one in rounds]
            middle, least = statistics.median(found), min(found)
            base = (middle, least) if not number else base
            more = [100 * (value / before - 1) for value, before in zip((middle, least), base, strict=True)]
            line += f"{middle:9.2f} {least:7.2f}" + (" " * 15 if not number else f" {more[0]:+6.1f}% {more[1]:+6.1f}%")
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--other", type=Path, help="the sources of another checkout, which comes first")
    options = parser.parse_args()
    contestants = [("nothing kept", SOURCE, False), ("the default", SOURCE, True)]
    if options.other is not None:
        contestants.insert(0, ("other", options.other.resolve(), True))
    rounds = [[measure(source, keep) for _, source, keep in contestants] for _ in range(options.rounds)]
    print("\n".join(table([name for name, _, _ in contestants], rounds)))


if __name__ == "__main__":
    main()
