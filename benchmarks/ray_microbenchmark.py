"""Run Ray's own microbenchmark against Skate.

    .venv/bin/python benchmarks/ray_microbenchmark.py --wheel-python .venv-ray/bin/python

The benchmark is read from an installed Ray when this script runs; no part of it is kept here.
Inside of this process the names `ray` and `ray.x.y` mean `skate` and `skate.x.y`, except for the
two private files that hold the benchmark and its stopwatch: those are loaded from the wheel. It
needs NumPy. TESTS_TO_RUN=text in the environment picks the rows whose name has `text` in it.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle

BENCHMARK = "ray._private.ray_perf"
STOPWATCH = "ray._private.ray_microbenchmark_helpers"
CLIENT = "ray._private.ray_client_microbenchmark"
WAIT = 10  # seconds that the stopwatch sleeps before each row unless told otherwise


def wheel(python: str) -> tuple[Path, str]:
    """The folder of the Ray that `python` would import, and its version; it is not imported."""
    find = (
        "import importlib.util as u, importlib.metadata as m;"
        "print(u.find_spec('ray').submodule_search_locations[0]); print(m.version('ray'))"
    )
    done = subprocess.run([python, "-c", find], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{python} has no Ray installed: {done.stderr.strip().splitlines()[-1]}")
    folder, version = done.stdout.split("\n")[:2]
    return Path(folder), version


class RayNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers imports of `ray` and of what is below it.

    The wheel answers for `files`, `stand_ins` for themselves, and Skate for all else.
    """

    def __init__(self, files: dict[str, Path], stand_ins: dict[str, types.ModuleType]) -> None:
        self.files = files
        self.stand_ins = stand_ins
        self.specs: dict[str, importlib.machinery.ModuleSpec | None] = {}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "ray":
            return None
        if fullname in self.files:
            return importlib.util.spec_from_file_location(fullname, self.files[fullname])
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        if spec.name in self.stand_ins:
            return self.stand_ins[spec.name]
        found = importlib.import_module("skate" + spec.name.removeprefix("ray"))
        self.specs[spec.name] = found.__spec__
        return found

    def exec_module(self, module: types.ModuleType) -> None:
        """Skate's modules have run already; the import only relabelled them: take that back."""
        if module.__spec__ is not None and module.__spec__.name in self.specs:
            module.__spec__ = self.specs[module.__spec__.name]


def module(name: str, **content: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(content)
    return made


def install(folder: Path) -> None:
    """From here on `import ray` gives Skate in this process."""
    private = folder / "_private"
    files = {
        BENCHMARK: private / "ray_perf.py",
        STOPWATCH: private / "ray_microbenchmark_helpers.py",
    }
    for path in files.values():
        if not path.is_file():
            sys.exit(f"this Ray has no {path}: its microbenchmark has moved")
    stand_ins = {
        "ray._private": module("ray._private", __path__=[]),
        # Its last part measures Ray Client, a protocol for remote drivers, not the engine.
        CLIENT: module(CLIENT, main=lambda results: None),
    }
    sys.meta_path.insert(0, RayNames(files, stand_ins))


class Rows:
    """Stands before the wheel's stopwatch: a row that raises is reported, and the next one runs."""

    def __init__(self, timeit: Callable[..., Any], wait: int) -> None:
        self.timeit = timeit
        self.wait = wait
        self.passed: list[tuple[str, float, float]] = []
        self.failed: list[tuple[str, str]] = []
        self.seen: set[str] = set()

    def __call__(self, name: str, function: Callable[[], Any], multiplier: float = 1) -> list[Any]:
        self.seen.add(name)
        try:
            found = self.timeit(name, function, multiplier, warmup_time_sec=self.wait)
        except Exception as error:  # noqa: BLE001  one row must not end the run
            self.failed.append((name, f"{type(error).__name__}: {error}"))
            sys.stdout.write(f"{name} FAILED: {type(error).__name__}: {error}\n")
            return [None]
        self.passed += [row for row in found if row is not None]
        return list(found)


def row_names(source: str) -> list[str]:
    """The names of all rows in the benchmark, in its order."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    calls = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "timeit"]
    calls.sort(key=lambda node: node.lineno)
    names = [node.args[0].value for node in calls if isinstance(node.args[0], ast.Constant)]
    return [str(name) for name in names]


def summary(rows: Rows, version: str, names: list[str], crash: str | None) -> str:
    lines = ["", f"Ray {version}'s microbenchmark on Skate: {len(rows.passed)} rows ran"]
    width = max((len(name) for name, *_ in rows.passed), default=0)
    lines += [f"  {name:<{width}}  {mean:14,.1f} per second" for name, mean, _ in rows.passed]
    if rows.failed:
        lines += ["", f"{len(rows.failed)} rows FAILED"]
        lines += [f"  {name}: {reason.splitlines()[0]}" for name, reason in rows.failed]
    if crash:
        missing = [name for name in names if name not in rows.seen]
        lines += ["", f"It ended early: {len(missing)} rows were NOT REACHED"]
        lines += [f"  {name}" for name in missing]
        lines += ["", crash]
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel-python", required=True, help="the Python that has Ray installed")
    parser.add_argument("--wait", type=int, default=WAIT,
                        help=f"seconds of quiet before each row (Ray's own: {WAIT})")  # fmt: skip
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if not os.access(args.wheel_python, os.X_OK):
        sys.exit(f"--wheel-python {args.wheel_python}: no such program")
    folder, version = wheel(args.wheel_python)
    install(folder)
    stopwatch = importlib.import_module(STOPWATCH)
    rows = Rows(stopwatch.timeit, args.wait)
    stopwatch.__dict__["timeit"] = rows
    crash = None
    benchmark = importlib.import_module(BENCHMARK)
    # It asks whether Ray's C++ was compiled with optimization: no question for Skate.
    benchmark.__dict__["check_optimized_build"] = lambda: None
    # Workers know nothing of the names above: what the benchmark defines has to travel by value.
    cloudpickle.register_pickle_by_value(benchmark)
    try:
        benchmark.main()
    except Exception:  # noqa: BLE001  the rows measured so far are still printed
        crash = traceback.format_exc()
    names = row_names(Path(str(benchmark.__file__)).read_text())
    sys.stdout.write(summary(rows, version, names, crash))
    return 1 if rows.failed or crash else 0


if __name__ == "__main__":
    sys.exit(main())
