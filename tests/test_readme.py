"""The README keeps its word: its programs run, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")


def programs() -> list[object]:
    return [
        pytest.param(found[1], id=f"line-{README.count(chr(10), 0, found.start()) + 2}")
        for found in PROGRAM.finditer(README)
    ]


@pytest.mark.parametrize("program", programs())
def test_program_runs(program: str, tmp_path: Path) -> None:
    if "import numpy" in program:
        pytest.importorskip("numpy")
    script = tmp_path / "from_readme.py"
    script.write_text(program)
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", sorted(set(LINK.findall(README))))
def test_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()


def test_quick_start_is_two_commands() -> None:
    section = README.partition("## Quick start")[2].partition("\n## ")[0]
    (commands,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    assert commands.splitlines() == ["make demo", "make test"]
