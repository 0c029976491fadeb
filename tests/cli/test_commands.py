"""The command line as a stranger meets it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import click
import pytest

from skate._version import __version__
from skate.cli import commands


def skate(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "skate", *words], capture_output=True, text=True, timeout=150)


def test_version() -> None:
    done = skate("--version")
    assert (done.returncode, done.stdout) == (0, f"skate {__version__}\n")


def test_version_comes_at_once() -> None:
    def spent(*words: str) -> float:
        """Seconds of processor time: other programs may run beside it."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], capture_output=True, timeout=150)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    ours, bare = zip(*((spent("-m", "skate", "--version"), spent("-c", "")) for _ in range(5)), strict=True)
    assert min(ours) < max(0.15, 12 * min(bare)), "the second where others use the processors too"


def test_skate_alone_shows_the_help() -> None:
    done = skate()
    assert done.returncode == 0
    assert done.stdout == skate("--help").stdout
    for name in ("run", "doctor", "bench"):
        assert name in done.stdout


@pytest.mark.parametrize("command", commands.skate.commands.values(), ids=lambda c: c.name)
def test_every_command_has_an_example_and_explains_every_option(command: click.Command) -> None:
    assert command.help
    assert f"  skate {command.name}" in command.help.split("Examples:")[1]
    assert command.short_help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_unknown_command_is_named() -> None:
    done = skate("slide")
    assert done.returncode == 2
    assert "No such command 'slide'" in done.stderr


def test_doctor_prints_a_table() -> None:
    done = skate("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("Python", "Cores", "Memory", "Shared memory", "Fork", "Open files", "Engine"):
        assert name in done.stdout
    assert done.stdout.splitlines()[-1].endswith(" 0 failed")


def test_doctor_as_json() -> None:
    done = skate("doctor", "--json")
    findings = json.loads(done.stdout)
    assert {finding["status"] for finding in findings} <= {"ok", "warn"}
    assert all(finding["advice"] for finding in findings if finding["status"] != "ok")
