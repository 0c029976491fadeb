"""Measure what is large beside real Ray on this machine: does it complete, how fast, with how much memory?

    .venv/bin/python benchmarks/scale.py --rival .venv-ray/bin/python

Every sample runs in a new process; the rounds go Skate, Ray, Skate, Ray. README.md, beside this file, tells more.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import engine
import table
from children import ContestantFailed
from rows import Row, done

HERE = Path(__file__).resolve().parent
STORE = 6 << 30
PATIENCE = 900.0  # seconds for one sample

CASES = (
    "arguments",
    "returns",
    "gets",
    "gets_large",
    "object_4gib",
    "result_4gib",
    "queued_some",
    "queued_million",
)
INSIDE = "  inside a task"


def pair(figure: str, title: str, unit: str, case: str) -> tuple[Row, Row]:
    nested = f"{figure}_nested"
    return (
        Row(figure, title, unit, case, (done(figure, "completes"),)),
        Row(nested, INSIDE, unit, case, (done(nested, "completes"),)),
    )


ROWS = (
    *pair("arguments", "a task with 10,000 refs as arguments", "ms", "arguments"),
    *pair("returns", "a task with 3,000 returns", "ms", "returns"),
    *pair("gets", "get of 10,000 refs", "ms", "gets"),
    *pair("gets_large", "get of 10,000 refs, 60 kB each", "ms", "gets_large"),
    *pair("object_4gib", "4 GiB array, put and get", "s", "object_4gib"),
    *pair("result_4gib", "4 GiB array, a task's result", "s", "result_4gib"),
    *pair("queued_some", "100,000 tasks at once", "s", "queued_some"),
    Row("queued_some_driver", "  driver's memory per task", "B", "queued_some"),
    Row("queued_some_tree", "  all memory per task", "B", "queued_some"),
    *pair("queued_million", "1,000,000 tasks at once", "s", "queued_million"),
    Row("queued_million_driver", "  driver's memory per task", "B", "queued_million"),
    Row("queued_million_tree", "  all memory per task", "B", "queued_million"),
)


class Scale(engine.Bench):
    """The run: one new process for each sample."""

    own_cases: tuple[str, ...] = ()
    """Those that are too much for Ray on a small machine."""
    once: tuple[str, ...] = ("queued_million",)
    """Those that take long."""

    def run_case(self, case: str) -> None:
        names = [name for name in self.entrants if name in (self.own, self.rival)]
        if case in self.own_cases or (case == "queued_million" and not self.args.ray_million):
            names = [name for name in names if name != self.rival]
        for turn in range(1 if case in self.once else self.args.rounds):
            for name in list(names):
                self.say(f"{case}: {name}, round {turn + 1}")
                try:
                    figures = self.fresh(self.entrants[name], case, PATIENCE)
                except ContestantFailed as failure:
                    self.failures.append(f"{case}, {name}: {failure}")
                    names.remove(name)
                    continue
                self.loads.setdefault(case, []).append(os.getloadavg()[0])
                for figure, value in figures.items():
                    self.samples[name].setdefault(figure, []).append(value)


def arguments(about: str | None, cases: Sequence[str], kind: str) -> argparse.Namespace:
    parser = engine.common_parser(about, cases, 3, kind)
    parser.add_argument("--beside", default="nothing", help="what else ran on the machine, for the record")
    args = parser.parse_args()
    args.package, args.python, args.quick = "skate", sys.executable, False
    return args


def report(bench: Scale, title: str, rows: Sequence[Row], facts: dict[str, Any]) -> str:
    parts = [f"{title} benchmark, {facts['date']}"]
    parts += [f"{name}: {value}" for name, value in facts.items() if name != "date"]
    parts += ["", table.render(table.lines(bench.samples, bench.own, bench.rival, [], rows)), ""]
    parts.append("Each cell: median (least..most) over the rounds. A ratio above 1: skate is faster or smaller.")
    for failure in bench.failures:
        parts += ["", f"FAILED: {failure}"]
    return "\n".join(parts) + "\n"


def measure(bench: Scale, cases: Sequence[str], rows: Sequence[Row], kind: str, more: str = "") -> int:
    """Run the cases, show the table and write it down; the program's exit code."""
    args = bench.args
    load = os.getloadavg()
    begun = time.monotonic()
    facts: dict[str, Any] = dict(table.machine())
    bench.run(args.only or list(cases))
    facts["contestants"] = ", ".join(f"{name} {which}" for name, which in bench.versions.items())
    facts["rounds"] = f"{args.rounds}, interleaved; num_cpus={args.cpus}{more}"
    facts["load average"] = f"{load[0]:.2f} before, {os.getloadavg()[0]:.2f} after (the benchmark's own work included)"
    facts["beside it ran"] = args.beside
    facts["took"] = f"{time.monotonic() - begun:.0f} s"
    text = report(bench, kind.capitalize(), rows, facts)
    bench.say("")
    sys.stdout.write(text)
    if bench.stopped:
        return 130
    out = args.out
    if out is None and not args.only:
        out = HERE / "results" / f"{date.today().isoformat()}-{kind}"
    if out is not None:
        engine.write(bench, facts, text, out)
    return 1 if bench.failures else 0


def main() -> int:
    args = arguments(__doc__, CASES, "scale")
    large = [
        replace(entrant, options={**entrant.options, "object_store_memory": STORE})
        for entrant in engine.entrants(args)
        if entrant.package in ("skate", "ray")
    ]
    return measure(Scale(large, args), CASES, ROWS, "scale", f", object_store_memory={STORE >> 30} GiB")


if __name__ == "__main__":
    sys.exit(main())
