"""What the engine `ray` adds to plain Ray: the same calls in one process of each, in turn.

A round runs a case in both, one right after the other, and each round begins with another one. What is added is the
median of what it is in the rounds, so that other work on the machine, which comes and goes, weighs little. The last
table leaves Ray out: what the translation takes by itself, the best of many tries.

Run with a Python that has Ray, from the root of the repository: python benchmarks/ray_engine.py --rounds 5
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys

ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
PROGRAM = """
import sys, time
name = sys.argv[1]
import ray
if name == "skate":
    import skate as api
    api.init(engine="ray", num_cpus=2, include_dashboard=False, log_to_driver=False)
else:
    api = ray
    api.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)

@api.remote
def nothing():
    return None

@api.remote
class Actor:
    def nothing(self):
        return None

actor = Actor.remote()
cases = {
    "task, 1,000 in flight": (1000, lambda: api.get([nothing.remote() for _ in range(1000)])),
    "task, one at a time": (200, lambda: [api.get(nothing.remote()) for _ in range(200)]),
    "actor call, 1,000 in flight": (1000, lambda: api.get([actor.nothing.remote() for _ in range(1000)])),
    "actor call, one at a time": (200, lambda: [api.get(actor.nothing.remote()) for _ in range(200)]),
}
for count, case in cases.values():
    case()
print("ready", flush=True)
for line in sys.stdin:
    count, case = cases[line.strip()]
    began = time.perf_counter()
    case()
    print((time.perf_counter() - began) / count * 1e6, flush=True)
api.shutdown()
"""
CASES = (
    "task, 1,000 in flight",
    "task, one at a time",
    "actor call, 1,000 in flight",
    "actor call, one at a time",
)


TRANSLATION = """
import time
import ray, skate
from skate.core import engine as engines

skate.init(engine="ray", num_cpus=1, include_dashboard=False, log_to_driver=False)

@skate.remote
def nothing():
    return None

@skate.remote
class Actor:
    def nothing(self):
        return None

actor = Actor.remote()
refs = [nothing.remote()]
skate.get([*refs, actor.nothing.remote()])
native = refs[0]._native

def at_once(*args, **kwargs):
    return native

engine = engines.current()
for key, known in list(engine.functions.items()):
    engine.functions[key] = (at_once, *known[1:])
for known in engine.actors.values():
    known.methods = {name: (at_once, ready[1]) for name, ready in known.methods.items()}
values = [None] * 1000
real, ray.get = ray.get, lambda natives, timeout: values[: len(natives)]

def least(case):
    best = 1e9
    for _ in range(300):
        began = time.perf_counter()
        case()
        best = min(best, time.perf_counter() - began)
    return best * 1000

thousand = refs * 1000
empty = least(lambda: [at_once() for _ in range(1000)])
print(least(lambda: [nothing.remote() for _ in range(1000)]) - empty)
print(least(lambda: [actor.nothing.remote() for _ in range(1000)]) - empty)
print(least(lambda: skate.get(thousand)))
ray.get = real
skate.shutdown()
"""


class Contestant:
    """A process that runs cases when it is told to."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        if self._answer() != "ready":
            raise SystemExit(f"{name} did not start")

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(self, case: str) -> float:
        """Microseconds per call."""
        assert self.process.stdin is not None
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how often each case runs (default: 7)")
    rounds = parser.parse_args().rounds
    import ray

    contestants = {name: Contestant(name) for name in ("ray", "skate")}
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for case in CASES:
            for name in sorted(contestants, reverse=bool(number % 2)):
                times.setdefault((case, name), []).append(contestants[name].run(case))
    for contestant in contestants.values():
        contestant.close()
    now = datetime.datetime.now(datetime.UTC)
    print(f"{now:%Y-%m-%d %H:%M} UTC, {os.cpu_count()} CPUs ({platform.machine()}), Ray {ray.__version__}, ", end="")
    print(f"Python {platform.python_version()}, {rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print(f"{'us per call: median (least)':30}{'plain Ray':>18}{'engine ray':>18}{'added':>8}{'least':>8}")
    for case in CASES:
        plain, ours = times[case, "ray"], times[case, "skate"]
        middle = statistics.median(own / other for own, other in zip(ours, plain, strict=True))
        least = min(ours) / min(plain)
        cells = [f"{statistics.median(part):,.0f} ({min(part):,.0f})" for part in (plain, ours)]
        print(f"{case:30}{cells[0]:>18}{cells[1]:>18}{middle - 1:>8.1%}{least - 1:>8.1%}")
    done = subprocess.run(
        [sys.executable, "-c", TRANSLATION], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    print("the translation by itself, us:", end="")
    for what, took in zip(("a task", "an actor call", "a get of one of 1,000"), done.stdout.split(), strict=True):
        print(f" {what} {float(took):.2f}", end=";" if what != "a get of one of 1,000" else "\n")


if __name__ == "__main__":
    main()
