"""One contestant of the engine benchmark: a process that runs cases when it is told to.

    python contestant.py PACKAGE [OPTIONS]

PACKAGE is skate, ray, futures, pipe or memcpy, OPTIONS are the arguments of init() in JSON. Over
its standard input and output it answers one line of JSON with another: `{"do": "hello"}`,
`{"do": "sample", "case": NAME}`, `{"do": "finish", "case": NAME}`, `{"do": "quit"}`. An answer
holds `figures` or `error`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TextIO


def private_streams() -> tuple[TextIO, TextIO]:
    """Keep the harness's pipes for ourselves; all else that is printed here goes to stderr."""
    asked, told = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return asked, told


class Package:
    """A package with Ray's API."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        begin = time.perf_counter()
        self.module = importlib.import_module(name)
        self.import_seconds = time.perf_counter() - begin
        self.options = options

    def start(self) -> dict[str, float]:
        import api_cases

        figures = api_cases.start(self.module, self.options)
        return {**figures, "start_import": self.import_seconds + figures["start"]}

    def open(self, case: str) -> Iterator[dict[str, float]]:
        import api_cases
        import cluster_cases
        import scale_cases

        if not self.module.is_initialized():
            self.module.init(**self.options)
        return {**api_cases.CASES, **scale_cases.CASES, **cluster_cases.CASES}[case](self.module)

    def close(self) -> None:
        self.module.shutdown()

    def version(self) -> str:
        return str(self.module.__version__)


class Futures:
    """concurrent.futures.ProcessPoolExecutor with as many workers as the others have CPUs."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.workers = int(options["num_cpus"])
        self.pool: Any = None

    def start(self) -> dict[str, float]:
        import baseline_cases

        return baseline_cases.start_futures(self.workers)

    def open(self, case: str) -> Iterator[dict[str, float]]:
        import baseline_cases

        if self.pool is None:
            self.pool = baseline_cases.pool_of(self.workers)
        return baseline_cases.FUTURES[case](self.pool)

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown()

    def version(self) -> str:
        return sys.version.split()[0]


class Bare:
    """A figure of the machine itself: it has one case, under whatever name that is asked for."""

    def __init__(self, name: str) -> None:
        self.name = {"pipe": "pipe_round_trip"}.get(name, name)

    def open(self, case: str) -> Iterator[dict[str, float]]:
        import baseline_cases

        case_of_machine: Callable[[None], Iterator[dict[str, float]]]
        case_of_machine = getattr(baseline_cases, self.name)
        return case_of_machine(None)

    def close(self) -> None:
        return None

    def version(self) -> str:
        return sys.version.split()[0]


def contestant(name: str, options: dict[str, Any]) -> Any:
    if name == "futures":
        return Futures(options)
    if name in ("pipe", "memcpy"):
        return Bare(name)
    return Package(name, options)


def answer(player: Any, running: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "hello":
        seconds = getattr(player, "import_seconds", 0.0)
        return {"version": player.version(), "import_seconds": seconds, "pid": os.getpid()}
    case = request["case"]
    if case == "start":
        return {"figures": player.start()}
    if request["do"] == "finish":
        if case in running:
            running.pop(case).close()
        return {}
    if case not in running:
        running[case] = player.open(case)
    return {"figures": next(running[case])}


def main() -> None:
    asked, told = private_streams()
    name = sys.argv[1]
    options = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {"num_cpus": 2}
    player = contestant(name, options)
    running: dict[str, Any] = {}
    for line in asked:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        try:
            reply = answer(player, running, request)
        except Exception:  # noqa: BLE001  the harness reports it; the other rows go on
            reply = {"error": traceback.format_exc()}
        told.write(json.dumps(reply) + "\n")
        told.flush()
    running.clear()
    player.close()


if __name__ == "__main__":
    main()
