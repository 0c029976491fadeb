"""What an extra brings is asked for by its name where it is missing, and every name is one that pyproject.toml has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
NAMED = re.compile(r"skate-ray\[([\w,-]+)\]")

WITHOUT = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # as if it were not installed
import skate
PROGRAM
"""
PROGRAMS = {
    "numpy": ("numpy", "import skate.util.collective"),
    "joblib": ("joblib", "from skate.util.joblib import register_ray; register_ray()"),
    "dask": ("dask", "import skate.util.dask"),
    "ray": ("ray", "skate.init(engine='ray')"),
    "serve": ("uvicorn", "from skate import serve; skate.init(engine='local', num_cpus=1); serve.start()"),
    "grpc": (
        "grpc",
        "from skate import serve; skate.init(engine='local', num_cpus=1)\n"
        "serve.start(grpc_options={'port': 0, 'grpc_servicer_functions': ['json.dumps']})",
    ),
    "mcp": ("httptools,mcp", "from skate.serve import mcp; mcp.gateway"),
    "plugin": ("pydantic", "from skate import plugin; plugin.BasePlugin"),
}
"""By extra: what is not installed, and a program that needs it."""


@pytest.mark.parametrize("extra", PROGRAMS)
def test_error_of_what_is_missing_names_the_extra(extra: str) -> None:
    missing, program = PROGRAMS[extra]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.replace("PROGRAM", program), missing],
        env={**os.environ, "SKATE_ENGINE": "local"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 1, done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert f"skate-ray[{extra}]" in last and "Error: " in last, done.stderr


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("httptools", "mcp call http://127.0.0.1:1/mcp add", "mcp"),
        ("httptools", "mcp bridge -- cat", "mcp"),
        ("pydantic", "plugin list", "plugin"),
        ("pydantic", "plugin run --load-builtin-plugins echo", "plugin"),
        ("pydantic", "plugin run --reload", "plugin"),
        ("ray", "start --engine ray --head", "ray"),
    ],
)
def test_command_says_what_to_install(missing: str, command: str, extra: str, tmp_path: Path) -> None:
    program = WITHOUT.replace("PROGRAM", "from skate.cli import main\nmain(sys.argv[2:])")
    done = subprocess.run(
        [sys.executable, "-c", program, missing, *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("Error: ") and f"skate-ray[{extra}]" in done.stderr, done.stderr


def test_every_extra_that_is_named_exists() -> None:
    pages = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "pyproject.toml"]
    named = {name for page in pages for found in NAMED.findall(page.read_text("utf-8")) for name in found.split(",")}
    assert named >= PROGRAMS.keys(), "an error does not name its extra"
    assert not named - EXTRAS.keys(), "these are not in pyproject.toml"
