"""Ray's own microbenchmark on Skate and on Ray, row by row in turn.

    .venv/bin/python benchmarks/microbenchmark.py --wheel-python .venv-ray/bin/python

The benchmark is read from an installed Ray when this script runs; no part of it is kept here. Two processes run it from
its first line to its last: one with this Python, where `import ray` gives Skate (`skate.as_ray`) and only the two
private files that hold the benchmark and its stopwatch come from the wheel, the other with the wheel's Python. Before
each row a process waits for its turn, so that no two rows run at once. It needs NumPy.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

BENCHMARK = "ray._private.ray_perf"
STOPWATCH = "ray._private.ray_microbenchmark_helpers"
CLIENT = "ray._private.ray_client_microbenchmark"
MARK = "@microbenchmark "
"""Before the lines with which a process speaks to this script; all others are the benchmark's own."""


class Row(NamedTuple):
    """One row as one side measured it; `error` where it raised."""

    name: str
    mean: float = 0.0
    spread: float = 0.0
    error: str = ""


# ------------------------------------------------------------------ in the two processes


class WheelFiles(importlib.abc.MetaPathFinder):
    """Finds the benchmark and its stopwatch in the wheel's folder, for a process where `ray` is Skate."""

    def __init__(self, folder: Path) -> None:
        self.files = {name: folder / "_private" / f"{name.rpartition('.')[2]}.py" for name in (BENCHMARK, STOPWATCH)}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.files:
            return None
        return importlib.util.spec_from_file_location(fullname, self.files[fullname])


def say(**what: Any) -> None:
    sys.stdout.write(f"\n{MARK}{json.dumps(what)}\n")
    sys.stdout.flush()


def in_turn(timeit: Callable[..., Any], wait: int) -> Callable[..., list[Any]]:
    """The wheel's stopwatch, which asks before each row; a row that raises is told, and the next one comes."""

    def timed(name: str, function: Callable[[], Any], multiplier: float = 1, **ignored: Any) -> list[Any]:
        say(row=name)
        sys.stdin.readline()
        try:
            found = timeit(name, function, multiplier, warmup_time_sec=wait)
        except Exception as error:  # noqa: BLE001  one row must not end the run
            say(failed=name, error=f"{type(error).__name__}: {error}".splitlines()[0])
            return [None]
        for each in filter(None, found):
            say(done=each[0], mean=float(each[1]), spread=float(each[2]))
        return list(found)

    return timed


def run_benchmark(wait: int, folder: str | None) -> None:
    """Run the whole benchmark in this process; with `folder`, that of the wheel, on Skate."""
    # Its last part measures Ray Client, a protocol for remote drivers, not the engine.
    client = types.ModuleType(CLIENT)
    client.main = lambda results: None  # type: ignore[attr-defined]
    if folder is not None:
        import skate

        skate.as_ray()
        sys.meta_path.insert(0, WheelFiles(Path(folder)))
    sys.modules[CLIENT] = client
    stopwatch = importlib.import_module(STOPWATCH)
    stopwatch.__dict__["timeit"] = in_turn(stopwatch.__dict__["timeit"], wait)
    benchmark = importlib.import_module(BENCHMARK)
    if folder is not None:
        import cloudpickle

        # It asks whether Ray's C++ was compiled with optimization: no question for Skate.
        benchmark.__dict__["check_optimized_build"] = lambda: None
        # Workers know nothing of the wheel's files: what the benchmark defines has to travel by value.
        cloudpickle.register_pickle_by_value(benchmark)
    try:
        benchmark.__dict__["main"]()
    except Exception:  # noqa: BLE001  the rows measured so far are still shown
        say(crash=traceback.format_exc())
    else:
        say(end=True)


# ------------------------------------------------------------------ in this one


class Side:
    """One of the two processes."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.rows: dict[str, Row] = {}
        self.crash = ""
        self.ended = False
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )

    def read_until(self, *kinds: str) -> bool:
        """Take in what the process says, up to one of `kinds`; False at its end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith(MARK):
                continue
            said = json.loads(line.removeprefix(MARK))
            if "done" in said:
                self.rows[said["done"]] = Row(said["done"], said["mean"], said["spread"])
            elif "failed" in said:
                self.rows[said["failed"]] = Row(said["failed"], error=said["error"])
            self.crash = said.get("crash", self.crash)
            self.ended = self.ended or "end" in said
            if said.keys() & set(kinds):
                return True
        return False

    def one_row(self) -> bool:
        """Let the process run its next row; False when there is none. It has said which one before."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read_until("row", "end", "crash") and not self.ended and not self.crash


def wheel(python: str) -> tuple[str, str]:
    """The folder of the Ray that `python` would import, and its version; it is not imported."""
    find = (
        "import importlib.util as u, importlib.metadata as m;"
        "print(u.find_spec('ray').submodule_search_locations[0]); print(m.version('ray'))"
    )
    done = subprocess.run([python, "-P", "-c", find], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{python} has no Ray installed: {done.stderr.strip().splitlines()[-1]}")
    folder, version = done.stdout.split("\n")[:2]
    return folder, version


def measure(sides: list[Side]) -> None:
    going = [side for side in sides if side.read_until("row", "end", "crash") and not side.ended]
    while going:
        going = [side for side in going if side.one_row()]
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{max(len(side.rows) for side in sides)} rows")


def shown(row: Row | None) -> str:
    if row is None:
        return "not reached"
    return "failed" if row.error else f"{row.mean:,.1f} ± {row.spread:,.1f}"


def table(sides: list[Side]) -> list[str]:
    skate, *rival = sides
    names = list(dict.fromkeys(name for side in sides for name in side.rows))
    lines = ["", f"{'per second, more is better':<46}" + "".join(f"{side.name:>26}" for side in sides)]
    for name in names:
        rows = [side.rows.get(name) for side in sides]
        ratio = ""
        if rival and all(row is not None and row.mean for row in rows):
            ratio = f"{rows[0].mean / rows[1].mean:9.1f} x"  # type: ignore[union-attr]
        lines.append(f"{name:<46}" + "".join(f"{shown(row):>26}" for row in rows) + ratio)
    for side in sides:
        lines += [f"{side.name}: {row.name}: {row.error}" for row in side.rows.values() if row.error]
        lines += ["", f"{side.name} ended early:", side.crash] if side.crash else []
    lines.append(f"{skate.name} ran {'to its end' if skate.ended else 'NOT to its end'}, {len(skate.rows)} rows")
    return lines


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel-python", required=True, help="the Python that has Ray installed")
    parser.add_argument("--wait", type=int, default=2, help="seconds of quiet before each row (Ray's own: 10)")
    parser.add_argument("--no-rival", action="store_true", help="run it on Skate alone")
    parser.add_argument("--save", type=Path, help="write the table to this file as well")
    parser.add_argument("--side", choices=("skate", "ray"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if args.side:
        run_benchmark(args.wait, args.folder if args.side == "skate" else None)
        return 0
    if not os.access(args.wheel_python, os.X_OK):
        sys.exit(f"--wheel-python {args.wheel_python}: no such program")
    folder, version = wheel(args.wheel_python)
    common = [os.path.abspath(__file__), "--wheel-python", args.wheel_python, "--wait", str(args.wait)]
    sides = [Side("Skate", [sys.executable, *common, "--side", "skate", "--folder", folder], {})]
    if not args.no_rival:
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": "local"}
        sides.append(Side(f"Ray {version}", [args.wheel_python, *common, "--side", "ray"], quiet))
    try:
        measure(sides)
    finally:
        for side in sides:
            side.process.communicate()
    lines = table(sides)
    head = f"Ray {version}'s microbenchmark, {os.cpu_count()} CPUs, {time.strftime('%Y-%m-%d')}"
    sys.stdout.write("\n".join([head, *lines]) + "\n")
    if args.save:
        args.save.write_text("\n".join([head, *lines]) + "\n")
    return 0 if sides[0].ended and not any(row.error for row in sides[0].rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
