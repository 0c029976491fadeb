"""The commands that docs/cli.md shows work, and it shows every command."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skate.cli import commands

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHOWN = re.findall(r"^\$ (.+)$", PAGE, flags=re.MULTILINE)
SLOW = ("bench",)
STANDING = ("start", "status", "job", "serve", "stop")
"""What these do depends on those before; they are shown in an order that works."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the programs that the page runs."""
    (tmp_path / "script.py").write_text("print('done')\n")
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "train.py").write_text("print('trained')\n")
    for name in ("shop.py", "serve.yaml"):
        shutil.copy(EXAMPLES / "serve_config" / name, tmp_path)
    return tmp_path


def execute(line: str, directory: Path) -> str:
    words = shlex.split(line)
    settings = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        settings[name] = value
    assert words.pop(0) == "skate"
    done = subprocess.run(
        [sys.executable, "-m", "skate", *words],
        cwd=directory,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("line", [line for line in SHOWN if line.split()[1] not in (*SLOW, *STANDING)])
def test_shown_command_works(line: str, directory: Path) -> None:
    assert execute(line, directory)


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in SHOWN if line.split()[1] in SLOW])
def test_shown_slow_command_works(line: str, directory: Path) -> None:
    assert execute(line, directory)


@pytest.mark.slow
def test_shown_commands_about_hubs_work_one_after_the_other(
    directory: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("hubs")))
    try:
        lines = [line for line in SHOWN if line.split()[1] in STANDING]
        for line in lines:
            assert execute(line, directory), line
        assert "skate stop --all" in lines[-1]
    finally:
        execute("skate stop --all --force", directory)


@pytest.mark.parametrize("name", commands.skate.commands)
def test_every_command_and_option_is_described(name: str) -> None:
    assert f"## skate {name}\n" in PAGE
    section = PAGE.split(f"## skate {name}\n")[1].split("\n## ")[0]
    for parameter in commands.skate.commands[name].params:
        for option in parameter.opts:
            assert not option.startswith("-") or f"{option}" in section, option
