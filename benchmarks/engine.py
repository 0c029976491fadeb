"""Measure Skate's engine beside real Ray on this machine, and write the result to a table.

    .venv/bin/python benchmarks/engine.py --rival .venv-ray/bin/python

Every contestant runs in a process of its own and waits while another has its turn; the rounds go
A, B, C, A, B, C, so that a machine that becomes slower becomes slower for all. README.md, beside
this file, tells how to read the result.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import table
from children import Contestant, ContestantFailed, Entrant
from probes import import_time, installed_size

HERE = Path(__file__).resolve().parent
PAUSE = 0.2  # seconds between two turns, in which what the last one left behind may settle

QUIET = 0.25  # load per CPU up to which a machine counts as idle

# case -> the baselines that have it, and whether its first sample is thrown away
CASES: dict[str, tuple[tuple[str, ...], bool]] = {
    "start": (("futures",), True),
    "task_sync": (("futures", "pipe"), True),
    "task_batch": (("futures",), True),
    "actor_sync": (("pipe",), True),
    "actor_batch": ((), True),
    "small_values": ((), True),
    "array_1mb": (("futures",), True),
    "array_100mb": (("memcpy",), True),
    "actors_100": ((), False),
    "live_refs": ((), False),
    "queued_tasks": ((), False),
    "import": ((), True),
    "install": ((), False),
}
# Cases whose every sample needs a process without a past: memory used before is not seen to grow.
FRESH = ("start", "live_refs", "queued_tasks")


class Bench:
    """The run: the entrants, the contestants that live, and all that has been measured."""

    def __init__(self, entrants: list[Entrant], args: argparse.Namespace) -> None:
        self.entrants = {entrant.name: entrant for entrant in entrants}
        self.args = args
        self.own, self.rival = args.package, "ray" if args.package != "ray" else "rival"
        self.living: dict[str, Contestant] = {}
        self.samples: dict[str, dict[str, list[float]]] = {name: {} for name in self.entrants}
        self.failures: list[str] = []
        self.loads: dict[str, list[float]] = {}
        self.versions: dict[str, str] = {}
        self.stopped = False
        self.idle: dict[str, float] = {}  # name -> share of one CPU

    def run(self, cases: list[str]) -> None:
        patience = 30.0
        try:
            for case in cases:
                self.run_case(case)
        except KeyboardInterrupt:  # what has been measured so far is still worth a table
            self.stopped = True
            patience = 2.0
        finally:
            for contestant in self.living.values():
                contestant.end(patience)

    def run_case(self, case: str) -> None:
        known, warm_up = CASES[case]
        names = [name for name in self.entrants if name in (self.own, self.rival, *known)]
        if case == "queued_tasks" and not self.args.ray_million:
            names = [name for name in names if name != self.rival]
        once = case in ("install", "queued_tasks")
        rounds = 1 if once else self.args.rounds
        for turn in range(-1 if warm_up else 0, rounds):
            for name in list(names):
                self.say(f"{case}: {name}, " + (f"round {turn + 1}" if turn >= 0 else "warm-up"))
                try:
                    figures = self.turn(case, name)
                except ContestantFailed as failure:
                    self.failures.append(f"{case}, {name}: {failure}")
                    self.drop(name)
                    names.remove(name)
                    continue
                if turn >= 0:
                    self.loads.setdefault(case, []).append(os.getloadavg()[0])
                    for figure, value in figures.items():
                        self.samples[name].setdefault(figure, []).append(value)
                time.sleep(PAUSE)
        for name in names:
            if name in self.living:
                self.living[name].ask(do="finish", case=case)
        if self.living and not self.idle:
            self.idle = {name: one.idle_cpu(2.0) for name, one in self.living.items()}

    def turn(self, case: str, name: str) -> dict[str, float]:
        """One sample of one contestant: the only thing that runs meanwhile."""
        entrant = self.entrants[name]
        if case == "import":
            return import_time(entrant)
        if case == "install":
            return installed_size(entrant, HERE.parent if name == "skate" else None)
        seconds = 1800 if case in ("queued_tasks", "live_refs", "actors_100") else 120
        if case in FRESH:
            return self.fresh(entrant, case, seconds)
        if name not in self.living:
            self.living[name] = Contestant(entrant)
            self.greet(self.living[name])
        return self.living[name].sample(case, seconds)

    def fresh(self, entrant: Entrant, case: str, seconds: float) -> dict[str, float]:
        """One sample of a process that has done nothing before; the long-lived ones end first."""
        for name in list(self.living):
            self.living.pop(name).end()
        contestant = Contestant(entrant)
        try:
            self.greet(contestant)
            figures = contestant.sample(case, seconds)
        except BaseException:  # it may never answer again: do not wait for it
            contestant.end(2.0)
            raise
        contestant.end()
        return figures

    def greet(self, contestant: Contestant) -> None:
        """Wait until it has imported its package; only then the clock of a case may run."""
        hello = contestant.ask(60, do="hello")
        self.versions.setdefault(contestant.entrant.name, str(hello["version"]))

    def drop(self, name: str) -> None:
        """A contestant that failed may be in any state: the next case gets a new one."""
        contestant = self.living.pop(name, None)
        if contestant is not None:
            contestant.end(seconds=10)

    def say(self, words: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{words}")
            sys.stderr.flush()


def entrants(args: argparse.Namespace) -> list[Entrant]:
    """Skate, the rival where there is one, and the baselines, all with the same number of CPUs."""
    environment = {k: v for k, v in os.environ.items() if k != "BENCH_QUEUED"}
    environment["BENCH_QUEUED"] = "20000" if args.quick else "1000000"
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    # A path that leads to our sources must not reach the interpreter of the rival.
    foreign = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
    cpus = {"num_cpus": args.cpus}
    # Without its dashboard Ray starts faster and idles with less: the comparison is in its favour.
    ray_options = {**cpus, "include_dashboard": False}
    own = args.package
    found = [Entrant(own, own, args.python, ray_options if own == "ray" else cpus, environment)]
    if args.rival:
        name = "ray" if own != "ray" else "rival"
        found.append(Entrant(name, "ray", args.rival, ray_options, foreign))
    for name in ("futures", "pipe", "memcpy"):
        found.append(Entrant(name, name, args.python, cpus, environment))
    return found


def report(bench: Bench, facts: dict[str, Any]) -> str:
    others = ["futures", "pipe", "memcpy"]
    parts = [f"Engine benchmark, {facts['date']}"]
    if facts["busy"]:
        parts.append(f"NOT A RESULT TO KEEP: {facts['busy']}")
    parts += [f"{name}: {value}" for name, value in facts.items() if name not in ("date", "busy")]
    parts += ["", table.render(table.lines(bench.samples, bench.own, bench.rival, others)), ""]
    parts.append(
        "Each cell: median (least..most) over the rounds, per operation. "
        f"A ratio above 1: {bench.own} is faster or smaller."
    )
    for failure in bench.failures:
        parts += ["", f"FAILED: {failure}"]
    return "\n".join(parts) + "\n"


def write(bench: Bench, facts: dict[str, Any], text: str, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".txt").write_text(text)
    record = {
        "machine": facts,
        "samples": bench.samples,
        "load_average": bench.loads,
        "failures": bench.failures,
    }
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


def common_parser(about: str | None, cases: Iterable[str], rounds: int, kind: str) -> argparse.ArgumentParser:
    """The options of every benchmark beside Ray; the first line of `about` describes it."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0] if about else None)
    add = parser.add_argument
    add("--rival", type=rival, help="the Python that has real Ray installed; without it there are no ratios")
    add("--only", action="append", choices=cases, help="this case; may be repeated")
    add("--rounds", type=int, default=rounds, help=f"turns of each contestant (default {rounds})")
    add("--cpus", type=int, default=2, help="num_cpus of every contestant (default 2)")
    add("--ray-million", action="store_true", help="let Ray queue the million tasks too: minutes")
    add("--out", type=Path, help=f"results/<date>-{kind}; .txt and .json are added")
    return parser


def rival(path: str) -> str:
    """The value of ``--rival``, if it is a program."""
    if path and not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{path}: no such program; leave it out to measure without Ray")
    return path


def arguments() -> argparse.Namespace:
    parser = common_parser(__doc__, CASES, 5, "engine")
    parser.add_argument("--quick", action="store_true", help="2 rounds and 20,000 queued tasks")
    parser.add_argument("--package", default="skate", choices=("skate", "ray"), help="what to measure")
    parser.add_argument("--python", default=sys.executable, help="the Python that has the package")
    args = parser.parse_args()
    if args.quick:
        args.rounds = min(args.rounds, 2)
    return args


def busy(load: float) -> str:
    """Why the machine is too busy for figures that shall last; empty where it is not."""
    limit = QUIET * (os.cpu_count() or 1)
    return f"the load average was {load:.2f} at the start, above {limit:.2f}" if load > limit else ""


def main() -> int:
    args = arguments()
    bench = Bench(entrants(args), args)
    load = os.getloadavg()
    begun = time.monotonic()
    cases = args.only or list(CASES)
    facts: dict[str, Any] = dict(table.machine())
    facts["busy"] = busy(load[0])
    bench.run(cases)
    facts["contestants"] = ", ".join(f"{name} {which}" for name, which in bench.versions.items())
    facts["idle CPU"] = ", ".join(f"{name} {share:.1%}" for name, share in bench.idle.items())
    facts["rounds"] = f"{args.rounds}, interleaved; num_cpus={args.cpus}"
    facts["load average"] = f"{load[0]:.2f} before, {os.getloadavg()[0]:.2f} after (the benchmark's own work included)"
    facts["took"] = f"{time.monotonic() - begun:.0f} s"
    text = report(bench, facts)
    bench.say("")
    sys.stdout.write(text)
    out = args.out
    # A partial run must not replace the day's full result unasked.
    if bench.stopped:
        return 130
    if out is None and not args.only and not args.quick:
        out = HERE / "results" / f"{date.today().isoformat()}-engine"
    if out is not None:
        write(bench, facts, text, out)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
