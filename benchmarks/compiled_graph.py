"""Measure a ping through two actors: by calls, and by a compiled graph; beside real Ray, in the same run.

    .venv/bin/python benchmarks/compiled_graph.py --rival .venv-ray/bin/python

Each package has a process of its own that lives through the run; the rounds go Skate, Ray, Skate, Ray, and the figure
is the median of the rounds. README.md, beside this file, tells more.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import turns
from children import MARK, Child, ContestantFailed

HERE = Path(__file__).resolve().parent
PATIENCE = 20.0  # seconds for a contestant to end
LONGEST_TURN = 60.0  # seconds after which a contestant counts as hung
CASES = {
    "calls": "get(b.echo.remote(a.echo.remote(1)))",
    "calls_stepwise": "get(b.echo.remote(get(a.echo.remote(1))))",
    "compiled": "get(graph.execute(1)), a and b compiled",
    "compiled_in_flight": "the same with 8 under way, per run",
    "calls_1mb": "calls with an array of 1 MB there and back",
    "compiled_1mb": "compiled graph with the array",
}
GOALS = (
    ("a compiled graph beside the same calls", "skate", "calls", "skate", "compiled", 5.0),
    ("Skate's compiled graph beside Ray's", "ray", "compiled", "skate", "compiled", 1.0),
)


class Prepared:
    """The cases of one package. A graph and its actors are there for its turn alone: Ray's use a CPU while they wait,
    and their loops do not always end with the graph.
    """

    def __init__(self, package: str) -> None:
        self.ray: Any = importlib.import_module(package)
        self.dag: Any = importlib.import_module(f"{package}.dag")
        import numpy as np

        ray = self.ray
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

        @ray.remote(num_cpus=1)
        class Echo:
            def echo(self, x: Any) -> Any:
                return x

        self.make = Echo.remote
        self.graph: Any = None
        self.array = np.zeros(131_072)

    def compile(self) -> None:
        with self.dag.InputNode() as inp:
            node = self.b.echo.bind(self.a.echo.bind(inp))
        self.graph = node.experimental_compile(_buffer_size_bytes=2_000_000)

    def in_flight(self) -> None:
        for ref in [self.graph.execute(1) for _ in range(8)]:
            self.ray.get(ref)

    def case(self, name: str) -> tuple[Callable[[], object], int]:
        """What to time, and how many runs that is."""
        get, array = self.ray.get, self.array
        self.a, self.b = a, b = self.make(), self.make()
        if name.startswith("compiled"):
            self.compile()
            graph = self.graph
        cases: dict[str, tuple[Callable[[], object], int]] = {
            "calls": (lambda: get(b.echo.remote(a.echo.remote(1))), 1),
            "calls_stepwise": (lambda: get(b.echo.remote(get(a.echo.remote(1)))), 1),
            "compiled": (lambda: get(graph.execute(1)), 1),
            "compiled_in_flight": (self.in_flight, 8),
            "calls_1mb": (lambda: get(b.echo.remote(a.echo.remote(array))), 1),
            "compiled_1mb": (lambda: get(graph.execute(array)), 1),
        }
        return cases[name]

    def done(self) -> None:
        """After a turn."""
        if self.graph is not None:
            self.graph.teardown(kill_actors=True)
            self.graph = None
        self.a = self.b = None


def contestant(package: str) -> None:
    """Answer each line of the standard input, the name of a case and seconds, with microseconds of a run."""
    prepared = Prepared(package)
    for line in sys.stdin:
        case, seconds = line.split()
        run, runs = prepared.case(case)
        for _ in range(50):
            run()
        count, started = 0, time.perf_counter()
        while (took := time.perf_counter() - started) < float(seconds):
            for _ in range(20):
                run()
            count += 20 * runs
        prepared.done()
        print(f"{MARK}{took / count * 1e6}", flush=True)
    prepared.ray.shutdown()


def launch(python: str, package: str) -> Child:
    """A process that is a contestant."""
    return turns.launch(python, package, [__file__, "--as", package])


def ask(child: Child, case: str, seconds: float) -> float | None:
    """One turn of a case; None when it hangs."""
    child.tell(f"{case} {seconds}")
    try:
        return child.figure(LONGEST_TURN)
    except ContestantFailed:
        if child.process.poll() is not None:
            raise
        return None


def measure(pythons: dict[str, str], rounds: int, seconds: float) -> turns.Samples:
    """Samples by case and package, in microseconds."""
    children = {package: launch(python, package) for package, python in pythons.items()}
    samples: turns.Samples = {case: {package: [] for package in pythons} for case in CASES}
    try:
        for turn in range(rounds + 1):
            for case in CASES:
                for package, child in list(children.items()):
                    figure = ask(child, case, seconds)
                    if figure is None:
                        print(f"{package} hung in the case {case} and is started anew", file=sys.stderr)
                        child.end(PATIENCE)
                        children[package] = launch(pythons[package], package)
                    elif turn:  # the first is a warm-up
                        samples[case][package].append(figure)
    finally:
        for child in children.values():
            child.end(PATIENCE)
    return samples


def report(samples: dict[str, dict[str, list[float]]], load: str) -> str:
    """The table, and the goals."""
    packages = list(next(iter(samples.values())))
    lines = [f"{'microseconds a run, median (least)':<52}" + "".join(f"{package:>20}" for package in packages)]
    middle = {(package, case): statistics.median(by[package]) for case, by in samples.items() for package in packages}
    for case, by in samples.items():
        cells = "".join(f"{middle[package, case]:>12.1f} ({min(by[package]):.1f})".rjust(20) for package in packages)
        lines.append(f"{CASES[case]:<52}{cells}")
    lines.append("")
    for text, slow_package, slow, fast_package, fast, goal in GOALS:
        if slow_package in packages:
            ratio = middle[slow_package, slow] / middle[fast_package, fast]
            lines.append(f"{text}: {ratio:.1f}x, goal {goal:g}x: {'met' if ratio >= goal else 'not met'}")
    return "\n".join([*lines, "", f"{os.cpu_count()} CPUs; load before and after: {load}"])


def main() -> None:
    parser = turns.parser(__doc__, rounds=7, seconds=0.4)
    parser.add_argument("--as", dest="package", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.package:
        contestant(given.package)
        return
    before = os.getloadavg()[0]
    samples = measure(turns.pythons(given.rival), given.rounds, given.seconds)
    text = report(samples, f"{before:.1f}, {os.getloadavg()[0]:.1f}")
    usual = HERE / "results" / f"{date.today()}-compiled-graph" if given.rival else None
    turns.keep(given.out or usual, text.splitlines(), dict(samples))


if __name__ == "__main__":
    main()
