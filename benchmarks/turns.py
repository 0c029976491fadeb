"""Two packages in turns: their processes, their rounds, and the arguments of a benchmark that does this.

Each contestant runs the same program with the package's name as its first argument. It prints ``FIGURE 0`` when it is
ready, and then waits for a line ``case seconds`` on its standard input, which it answers with ``FIGURE number``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from children import Child

START = 120.0
"""Seconds that a package may take to start."""
PATIENCE = 60.0
"""Seconds that an answer may take beyond what was asked for."""
Samples = dict[str, dict[str, list[float]]]
"""By case and package."""


def parser(about: str | None, rounds: int = 5, seconds: float = 1.0) -> argparse.ArgumentParser:
    """The options that all have; `about` is the module's text."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--rival", "--ray", metavar="PYTHON", default="", help="a Python that has Ray")
    found.add_argument("--rounds", type=int, default=rounds, help=f"turns of each contestant (default {rounds})")
    found.add_argument("--seconds", type=float, default=seconds, help=f"of a turn (default {seconds:g})")
    found.add_argument("--out", type=Path, help="where the result goes; .txt and .json are added")
    return found


def pythons(rival: str) -> dict[str, str]:
    """The interpreter of each package that takes part."""
    return {"skate": sys.executable, **({"ray": rival} if rival else {})}


def launch(python: str, package: str, program: list[str]) -> Child:
    """A contestant. A path that leads to our sources does not reach the interpreter of the rival."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    if package == "ray":
        environment.pop("PYTHONPATH", None)
        environment["RAY_ADDRESS"] = "local"
    return Child(package, [python, "-W", "ignore", *program], environment)


def measure(pythons: dict[str, str], program: str, cases: Iterable[str], rounds: int, seconds: float) -> Samples:
    """The figures of all cases: in each round every package has a turn of each."""
    found: Samples = {case: {package: [] for package in pythons} for case in cases}
    running: list[Child] = []
    try:
        for package, python in pythons.items():
            running.append(launch(python, package, ["-c", program, package]))
        for child in running:
            child.figure(START)
        for _ in range(rounds):
            for case, samples in found.items():
                for child in running:
                    child.tell(f"{case} {seconds}")
                    samples[child.name].append(child.figure(seconds + PATIENCE))
    finally:
        for child in running:
            child.end()
    return found


def cells(samples: dict[str, list[float]], form: str) -> str:
    """The median of each package."""
    return "  ".join(f"{package} {format(statistics.median(values), form)}" for package, values in samples.items())


def keep(out: Path | None, lines: list[str], record: dict[str, Any]) -> None:
    """Show the result, and write it down where that was asked for."""
    print("\n".join(lines))
    if out is not None:
        out.with_suffix(".txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
