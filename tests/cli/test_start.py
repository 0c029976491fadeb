"""`skate start`, `status`, `stop` and `job` do what they say, in words and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skate import standing

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the hubs of a test are; they are ended after it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("SKATE_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    for hub in standing.running():
        standing.stop(hub, force=True)


@pytest.fixture
def skate(place: Path) -> Run:
    """Runs a command line."""

    def run(*words: str, code: int = 0, **options: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "skate", *words], capture_output=True, text=True, timeout=150, **options
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def test_start_status_stop(skate: Run, place: Path) -> None:
    assert "No standing hub" in skate("status", code=1).stderr
    started = skate("start", "--head", "--num-cpus", "3", "--resources", '{"disk": 2}', "--labels", "a=b,c=d").stdout
    assert 'skate.init(address="auto")' in started and "skate stop" in started
    assert "runs already" in skate("start", code=1).stderr
    shown = skate("status").stdout
    assert "disk                 0        2" in shown and "No driver is attached" in shown
    found = json.loads(skate("status", "--json").stdout)
    assert found["total"]["CPU"] == 3 and found["nodes"][0]["Labels"]["c"] == "d"
    assert f"process {found['pid']}" in skate("stop").stdout
    assert not list(place.glob("skate-*"))
    assert "no hub to end" in skate("stop").stdout


def test_named_hubs_are_ended_by_name_or_all(skate: Run) -> None:
    skate("start", "--name", "one", "--num-cpus", "1")
    skate("start", "--name", "two", "--num-cpus", "1")
    assert "there are: two, one" in skate("stop").stdout
    assert "Hub one" in skate("status", "--address", "one").stdout
    skate("stop", "--name", "one")
    assert [hub.name for hub in standing.running()] == ["two"]
    skate("stop", "--all", "--force")
    assert standing.running() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resources", "{"], "no JSON"),
        (["--resources", "[1]"], "a JSON object is wanted"),
        (["--resources", '{"CPU": 1}'], "CPU"),
        (["--labels", "a"], "name=value"),
        (["--num-cpus", "-1"], "-1"),
        (["--num-cpus", "1.5"], "1.5"),
        (["--object-store-memory", "1"], "at least"),
        (["--name", "a/b"], "cannot be called"),
    ],
)
def test_wrong_options_are_said(skate: Run, words: list[str], message: str) -> None:
    done = skate("start", *words, code=2 if "=" in message or "JSON" in message or message in ("-1", "1.5") else 1)
    assert message in done.stderr and standing.running() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_blocking_start_ends_with_its_hub(skate: Run, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "skate", "start", "--block", "--num-cpus", "1"]
    blocked = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines = [blocked.stdout.readline() for _ in range(4)]
        assert "A hub runs" in lines[0] and "Ctrl-C" in lines[3]
        (hub,) = standing.running()
        blocked.send_signal(number)
        blocked.communicate(timeout=60)
        deadline = time.monotonic() + 60
        while standing.running() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert standing.running() == [] and not os.path.exists(hub.folder)
        assert blocked.returncode == (-9 if number == signal.SIGKILL else 0)
    finally:
        blocked.kill()
        blocked.communicate()


def test_blocking_start_returns_when_its_hub_is_stopped(skate: Run) -> None:
    command = [sys.executable, "-m", "skate", "start", "--block", "--num-cpus", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as blocked:
        assert "A hub runs" in blocked.stdout.readline()
        skate("stop")
        assert "has ended" in blocked.communicate(timeout=60)[1] and blocked.returncode == 0


def test_job_from_submit_to_delete(skate: Run, place: Path) -> None:
    assert "Start one with `skate start`" in skate("job", "list", code=1).stderr
    skate("start", "--num-cpus", "1")
    (place / "env.json").write_text('{"env_vars": {"WORD": "there"}}')
    words = ["--submission-id", "one", "--runtime-env", str(place / "env.json"), "--working-dir", str(place)]
    out = skate("job", "submit", *words, "--", "sh", "-c", "echo hello $WORD; pwd").stdout
    assert f"hello there\n{place}\n" in out and out.endswith("The job has ended: SUCCEEDED\n")
    assert skate("job", "logs", "one").stdout == f"hello there\n{place}\n" == skate("job", "logs", "-f", "one").stdout
    assert skate("job", "status", "one").stdout.startswith("SUCCEEDED: ")
    assert skate("job", "submit", "--submission-id", "two", "exit 5", code=1).stdout.endswith("FAILED\n")
    assert "exists already" in skate("job", "submit", "--submission-id", "two", "true", code=1).stderr
    skate("job", "submit", "--submission-id", "three", "--no-wait", "--", "sleep", "100")
    assert "STOPPED" in skate("job", "stop", "three").stdout
    assert "over already: STOPPED" in skate("job", "stop", "three").stdout
    listed = skate("job", "list").stdout
    assert all(name in listed for name in ("one", "two", "three", "SUCCEEDED", "FAILED", "STOPPED"))
    skate("job", "delete", "one")
    assert [row["submission_id"] for row in json.loads(skate("job", "list", "--json").stdout)] == ["two", "three"]
    assert "no job 'one'" in skate("job", "logs", "one", code=1).stderr


def test_address_of_a_server_is_refused(skate: Run) -> None:
    done = skate("job", "list", "--address", "http://127.0.0.1:8265", code=1)
    assert "is reached on its own machine" in done.stderr and 'Use "auto"' in done.stderr
