"""Programs written for Ray by others run on Skate as they are, with the result that they have on Ray.

Each job in tests/ray_programs ends with a line ``result: ...``; programs.json says what Ray gave, and which packages it
takes. A job whose packages are not installed is skipped.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).parents[1] / "ray_programs"
FACTS: dict[str, dict[str, Any]] = json.loads((PROGRAMS / "programs.json").read_text())


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def test_every_job_is_listed() -> None:
    assert {path.stem for path in PROGRAMS.glob("*.py")} == set(FACTS)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FACTS)
def test_program_gives_what_it_gives_on_ray(name: str, tmp_path: Path) -> None:
    facts = FACTS[name]
    for module in facts["needs"]:
        if not is_installed(module):
            pytest.skip(f"{module} is not installed")
    command = [sys.executable, "-m", "skate", "run", str(PROGRAMS / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = (line for line in done.stdout.splitlines() if line.startswith("result: "))
    assert result == f"result: {facts['result']}"
