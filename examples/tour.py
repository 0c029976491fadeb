"""A tour of Skate on real input: the source files of Python's own standard library.

    python examples/tour.py [--engine inline] [--limit FILES]

Tasks parse the files, an actor keeps an index and answers questions while the parsing goes on,
and a matrix in shared memory tells which modules resemble each other. The work itself is plain
Python and lies in `tour_work.py`; this file is what Skate adds to it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # tasks are the parallelism here, not BLAS

import argparse
import gc
import signal
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import skate as ray

try:
    from tour_work import (
        Index,
        Match,
        Matrix,
        Module,
        Source,
        batches,
        nearest,
        package_numbers,
        parse_batch,
        term_matrix,
    )
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    sys.exit("The tour needs NumPy. Install it with: pip install 'skate-ray[demo]'")

QUESTIONS = ["socket", "encode", "walk", "sleep", "getattr", "sqrt", "deque", "readline"]
ROWS_PER_TASK = 32
SIMILAR_LINES = 50
ROWS_SHOWN = 8
CALLS = 10_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What the index knew about an identifier at one moment of the parsing."""

    identifier: str
    progress: float
    modules: int
    most: list[str]
    ms: float


@ray.remote
def nothing() -> None:
    """Cost nothing: what is left is the engine's overhead."""


@ray.remote(max_retries=2)
def parse_after_a_crash(batch: list[Source], marker: str, driver: int) -> list[Module]:
    """Kill its own worker the first time; the engine notices, and runs the task again."""
    if not os.path.exists(marker) and os.getpid() != driver:
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return parse_batch(batch)


@ray.remote
def nearest_in_shared(boxed: list[Any], packages: Any, first: int, last: int) -> tuple[list[Match], int, bool, int]:
    """`nearest` on the shared matrix, and what reading it cost this process in private memory."""
    before = private_bytes()
    matrix: Matrix = ray.get(boxed[0])
    matrix.reshape(-1)[::1024].sum()  # touches every page of it
    grown = private_bytes() - before
    return nearest(matrix, packages, first, last), os.getpid(), matrix.flags.writeable, grown


def private_bytes() -> int:
    """Return the memory that belongs to this process alone: RssAnon, as Linux counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon in /proc/self/status: the tour needs Linux 4.5 or newer")


def start(engine: str | None) -> float:
    """Start the engine and get one result; return how long that took, in ms."""
    began = time.perf_counter()
    ray.init(**({"engine": engine} if engine else {}))
    ray.get(nothing.remote())
    return (time.perf_counter() - began) * 1000


def parse_all(
    root: str, limit: int | None, broken: list[Source], marker: str
) -> tuple[list[Module], Any, list[Answer]]:
    """Parse in tasks; feed the index as results come in, and question it all the while."""
    index = ray.remote(Index).remote()
    parse = ray.remote(parse_batch)
    healed = parse_after_a_crash.remote(broken, marker, os.getpid())
    # A generator is a stream: parsing starts with its first batch. Its batches are passed on as
    # references, and their contents never come to this process.
    parsed = [parse.remote(batch) for batch in ray.remote(batches).remote(root, limit)]
    parsed.append(healed)
    waiting, answers, identifiers = parsed, [], cycle(QUESTIONS)
    with progress_bar(len(parsed)) as bar:
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=min(len(waiting), len(parsed) // 10 + 1))
            for ref in done:
                index.add.remote(ref)
            if bar is not None:
                bar.update(len(done))
            if waiting:
                answers.append(ask(index, next(identifiers), 1 - len(waiting) / len(parsed)))
    modules = [module for batch in ray.get(parsed) for module in batch]
    assert ray.get(index.size.remote()) == len(modules)
    return modules, index, answers


def ask(index: Any, identifier: str, progress: float) -> Answer:
    began = time.perf_counter()
    modules, most = ray.get(index.query.remote(identifier))
    return Answer(identifier, progress, modules, most, (time.perf_counter() - began) * 1000)


def progress_bar(total: int) -> Any:
    """Return a bar if tqdm is installed; it shows on a terminal only."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return nullcontext()
    return tqdm(total=total, desc="parsing", unit=" tasks", leave=False, disable=None)


def compare_all(matrix: Matrix, packages: Any) -> tuple[list[Match], str]:
    """Put the matrix in shared memory once, and let tasks read it there."""
    boxed = [ray.put(matrix)]  # in a list it travels as a reference, and the task gets it itself
    reports = ray.get([nearest_in_shared.remote(boxed, packages, *rows) for rows in chunks(len(matrix))])
    found = [pair for pairs, *_ in reports for pair in pairs]
    workers = len({pid for _, pid, _, _ in reports})
    grown = max(grown for *_, grown in reports) / 1e6
    assert not any(writeable for _, _, writeable, _ in reports)
    note = (
        f"{matrix.shape[0]} modules x {matrix.shape[1]} terms, {matrix.nbytes / 1e6:.1f} MB: put "
        f"once, read by {len(reports)} tasks in {workers} process(es), read-only;\n"
        f"  the private memory of a task's process grew by {grown:.1f} MB at most while it read"
    )
    return found, note


def chunks(rows: int) -> list[tuple[int, int]]:
    return [(first, min(first + ROWS_PER_TASK, rows)) for first in range(0, rows, ROWS_PER_TASK)]


def per_second(submit: Any) -> float:
    """Return how many calls a second come back, with CALLS of them in flight."""
    ray.get([submit() for _ in range(100)])
    began = time.perf_counter()
    ray.get([submit() for _ in range(CALLS)])
    return CALLS / (time.perf_counter() - began)


def parse_serially(root: str, limit: int | None, broken: list[Source]) -> list[Module]:
    index, modules = Index(), []
    for batch in [*batches(root, limit), broken]:
        rows = parse_batch(batch)
        index.add(rows)
        modules.extend(rows)
    return modules


def compare_serially(matrix: Matrix, packages: Any) -> list[Match]:
    return [pair for rows in chunks(len(matrix)) for pair in nearest(matrix, packages, *rows)]


def timed(function: Any, *args: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - began


def tour(engine: str | None, limit: int | None, scratch: str) -> None:
    root = sysconfig.get_path("stdlib")
    broken = [("broken", str(Path(scratch, "broken.py")))]
    Path(scratch, "broken.py").write_text("def broken(:\n")
    marker = Path(scratch, "crashed")

    first_ms = start(engine)
    # The parallel job goes first: if the files are not in the page cache yet, it pays for that.
    (modules, index, answers), parsing = timed(parse_all, root, limit, broken, str(marker))
    (terms, matrix), packages = term_matrix(modules), package_numbers(modules)
    (similar, note), comparing = timed(compare_all, matrix, packages)
    rates = per_second(nothing.remote), per_second(index.size.remote)
    cpus = ray.cluster_resources()["CPU"]
    ray.shutdown()

    gc.freeze()  # the plain loop need not scan what the job above left behind
    plain_modules, plain_parsing = timed(parse_serially, root, limit, broken)
    plain_similar, plain_comparing = timed(compare_serially, matrix, packages)
    assert plain_modules == modules and plain_similar == similar, "tasks and plain loop differ"

    show_library(modules)
    show_similar(modules, terms, similar)
    show_answers(answers)
    print(f"\nThe term matrix\n  {note}")
    print(f"\nA task whose worker was killed\n  {crash_report(marker, modules[-1])}")
    show_timings(cpus, first_ms, rates, (parsing, comparing), (plain_parsing, plain_comparing))


def crash_report(marker: Path, row: Module) -> str:
    assert row.error.startswith("SyntaxError")
    story = "died by SIGKILL, was run again" if marker.exists() else "ran here: no worker to kill"
    return f"{story}, and gave its row: {row.error}"


def show_library(modules: list[Module]) -> None:
    good = [module for module in modules if not module.error]
    bad = [[module.name, module.error] for module in modules if module.error]
    print(
        f"Python {sys.version.split()[0]}: {len(good)} modules, "
        f"{sum(m.lines for m in good):,} lines, {sum(m.functions for m in good):,} functions, "
        f"{sum(m.classes for m in good):,} classes"
    )
    table("Not parsed", ["module", "why"], bad)
    used: Counter[str] = Counter()
    for module in good:
        used.update(module.identifiers)
    imports = Counter(name for module in good for name in module.imports)
    table(
        "Most used identifiers and most imported modules",
        ["identifier", "uses", "imported", "by"],
        [[*one, *other] for one, other in zip(top(used), top(imports), strict=False)],
    )


def show_similar(modules: list[Module], terms: list[str], similar: list[Match]) -> None:
    # Files of a few lines, such as those that only import another module, resemble each other.
    pairs = {
        tuple(sorted((at, other))): (cosine, why)
        for at, (other, cosine, why) in enumerate(similar)
        if min(modules[at].lines, modules[other].lines) >= SIMILAR_LINES
    }
    closest = sorted(pairs.items(), key=lambda pair: (-round(pair[1][0], 4), pair[0]))[:ROWS_SHOWN]
    table(
        "Most similar modules of two packages",
        ["module", "resembles", "cosine", "most by"],
        [
            [
                modules[at].name,
                modules[other].name,
                f"{cosine:.2f}",
                ", ".join(terms[c] for c in why),
            ]
            for (at, other), (cosine, why) in closest
        ],
    )


def top(counts: Counter[str]) -> list[tuple[str, str]]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(name, f"{count:,}") for name, count in ranked[:ROWS_SHOWN]]


def show_answers(answers: list[Answer]) -> None:
    rows = [[f"{a.progress:.0%}", a.identifier, str(a.modules), ", ".join(a.most), f"{a.ms:.1f} ms"] for a in answers]
    table("Asked while parsing went on", ["parsed", "who uses", "modules", "most", "after"], rows)


def show_timings(
    cpus: float,
    first_ms: float,
    rates: tuple[float, float],
    tasks: tuple[float, float],
    plain: tuple[float, float],
) -> None:
    rows = [
        [what, f"{here:.2f} s", f"{serial:.2f} s", f"{serial / here:.2f}x"]
        for what, here, serial in [
            ("parse and index", tasks[0], plain[0]),
            ("compare all with all", tasks[1], plain[1]),
            ("both", sum(tasks), sum(plain)),
        ]
    ]
    table(f"Timings on {cpus:g} CPUs", ["job", "tasks", "plain loop", "ratio"], rows)
    print(f"  start and first result {first_ms:,.1f} ms")
    print(f"  {rates[0]:,.0f} no-op tasks/s, {rates[1]:,.0f} actor calls/s ({CALLS:,} in flight)")


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(f"\n{title}")
    for row in [header, ["-" * width for width in widths], *rows]:
        print("  " + "  ".join(map(str.ljust, row, widths)).rstrip())


def main() -> int:
    parser = argparse.ArgumentParser(description="A tour of Skate on Python's standard library.")
    parser.add_argument("--engine", help="local (the default) or inline")
    parser.add_argument("--limit", type=int, metavar="FILES", help="read only so many files")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="tour-of-skate-") as scratch:
            tour(options.engine, options.limit, scratch)
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing is left running.", file=sys.stderr)
        return 130
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
