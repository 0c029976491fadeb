"""Figures that need no running engine: the time of the import and the weight of an install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from children import ContestantFailed, Entrant

IMPORT = """
import json, sys, time
begin = time.perf_counter()
import {package}
seconds = time.perf_counter() - begin
print(json.dumps({{"import": seconds, "import_numpy": float("numpy" in sys.modules)}}))
"""

# The package and what it requires, without extras: the files that pip has recorded for each.
WEIGH = """
import importlib.metadata as metadata, json, re, sys

def weigh(name, seen):
    plain = re.sub(r"[-_.]+", "-", name).lower()
    if plain in seen:
        return 0
    seen.add(plain)
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return 0  # required on another platform or Python only
    total = sum(f.locate().stat().st_size for f in found.files or () if f.locate().is_file())
    for requirement in found.requires or ():
        if "extra ==" not in requirement:
            total += weigh(re.match(r"[A-Za-z0-9._-]+", requirement)[0], seen)
    return total

print(json.dumps({"installed": float(weigh(sys.argv[1], set()))}))
"""


def _run(command: list[str], environment: dict[str, str], seconds: float) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, cwd="/")
    except subprocess.TimeoutExpired:
        raise ContestantFailed(f"no end within {seconds:.0f} s: {command[:4]}") from None
    if done.returncode:
        raise ContestantFailed(f"{command[:4]} ended with {done.returncode}: {done.stderr[-800:]}")
    return done.stdout


def import_time(entrant: Entrant) -> dict[str, float]:
    """Seconds of the bare import in a fresh process, and whether it brought NumPy along."""
    source = IMPORT.format(package=entrant.package)
    out = _run([entrant.python, "-c", source], entrant.environment, 60)
    figures: dict[str, float] = json.loads(out.splitlines()[-1])
    return figures


def installed_size(entrant: Entrant, project: Path | None) -> dict[str, float]:
    """Bytes of an install without extras: of `project` in a new folder, else of what is there.

    The compiled files that Python adds at the first import are not counted.
    """
    if project is None:
        command = [entrant.python, "-c", WEIGH, entrant.package]
        figures: dict[str, float] = json.loads(_run(command, entrant.environment, 120))
        return figures
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
        command += ["--disable-pip-version-check", "--target", folder, str(project)]
        _run(command, dict(os.environ), 300)
        total = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
    return {"installed": float(total)}
