"""Run the contract suite on one engine, and a conformance suite that lies elsewhere, and note what came of it.

    .venv/bin/python tools/engine_results.py local
    .venv-ray/bin/python tools/engine_results.py ray --conformance DIRECTORY

Run by the Python that has what the engine needs. The result goes into tests/engine_results.json, from which
`tools/compatibility.py` makes the table of docs/compatibility.md. A conformance suite is a directory with a
``run_isolated.py`` that takes ``--python``, ``--package`` and ``--json``; its cases were written against Ray itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests" / "engine_results.json"
ENGINES = ("local", "inline", "ray")
PASSED, MARKED, LEFT_OUT, FAILED = "passed", "marked", "left out", "failed"


def contract(engine: str) -> dict[str, int]:
    """How the cases of the contract suite ended: passed, marked as gaps, left out, failed.

    What failed is tried once more: cases have time limits, and other work may keep the machine busy.
    """
    with tempfile.TemporaryDirectory() as folder:
        ended: dict[str, str] = {}
        for number, more in enumerate(([], ["--last-failed"])):
            report = Path(folder) / f"report-{number}.xml"
            command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", f"--junitxml={report}"]
            subprocess.run(
                [*command, "-o", f"cache_dir={folder}/cache", *more, "--pyargs", "skate.testing.contract"],
                env={**os.environ, "SKATE_ENGINE": engine},
                check=False,  # what failed is part of the result
            )
            ended |= cases(report)
            if FAILED not in ended.values():
                break
    return {how: sum(1 for end in ended.values() if end == how) for how in (PASSED, MARKED, LEFT_OUT, FAILED)}


def cases(report: Path) -> dict[str, str]:
    """How each case of a report of pytest's ended."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            how = FAILED
        elif skipped is None:
            how = PASSED
        else:
            how = MARKED if skipped.get("type") == "pytest.xfail" else LEFT_OUT
        found[f"{case.get('classname')}::{case.get('name')}"] = how
    return found


def conformance(engine: str, folder: Path) -> dict[str, Any]:
    """How many cases passed, and the names of the others."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, str(folder / "run_isolated.py"), "--python", sys.executable, "--package", "skate"]
        subprocess.run([*command, "--json", str(report)], env={**os.environ, "SKATE_ENGINE": engine}, check=False)
        results: dict[str, bool] = json.loads(report.read_text())["results"]
    return {"passed": sum(results.values()), "not": sorted(case for case, good in results.items() if not good)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--conformance", type=Path, metavar="DIRECTORY", help="a conformance suite, run as well")
    parser.add_argument("--no-contract", action="store_true", help="keep what is noted of the contract suite")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background leaves it ignored, also in children
    noted = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    row: dict[str, Any] = noted.get(args.engine, {})
    today = datetime.date.today().isoformat()
    if not args.no_contract:
        row["contract"] = {**contract(args.engine), "date": today}
    if args.conformance:
        row["conformance"] = {**conformance(args.engine, args.conformance), "date": today}
    row["python"] = platform.python_version()
    try:
        row["ray"] = version("ray") if args.engine == "ray" else None
    except PackageNotFoundError:
        parser.error("this Python has no Ray")
    noted[args.engine] = row
    RESULTS.write_text(json.dumps({name: noted[name] for name in ENGINES if name in noted}, indent=1) + "\n")
    print(json.dumps(row))
    return bool(row.get("contract", {}).get("failed"))


if __name__ == "__main__":
    sys.exit(main())
