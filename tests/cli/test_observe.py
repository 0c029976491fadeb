"""The commands that look into a session, from the program itself and from outside."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import skate
from skate.cli.commands import skate as command
from skate.util import state
from skate.util.stacks import stacks

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "observe.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^skate .+$", PAGE, flags=re.MULTILINE)


@skate.remote
def double(number: int) -> int:
    print("doubling", number)
    return 2 * number


@skate.remote(max_retries=0)
def fails() -> None:
    raise ValueError("on purpose \x1b[31m")


@skate.remote
def waits() -> None:
    time.sleep(100)


@skate.remote
class Counter:
    def up(self) -> int:
        print("counting")
        return 1


@pytest.fixture(scope="module")
def busy() -> Iterator[dict[str, str]]:
    """A session in which something has run, something failed, and something runs; ids of theirs."""
    skate.init(engine="local", num_cpus=2)
    counter = Counter.options(name="counter").remote()
    big = skate.put(bytes(3_000_000))
    skate.get([counter.up.remote(), *[double.remote(number) for number in range(3)]])
    with pytest.raises(ValueError):
        skate.get(fails.remote())
    running = waits.remote()
    while not state.list_tasks(filters=[("state", "=", "RUNNING")]):
        time.sleep(0.01)
    names = {"TASK": running.task_id().hex(), "ACTOR": counter._actor_id.hex(), "OBJECT": big.hex()}
    names["PID"] = str(state.list_tasks(filters=[("task_id", "=", names["TASK"])])[0].worker_pid)
    pid = int(names["PID"])
    while "in waits" not in stacks([pid], py_spy=False)[pid]:  # it has been sent, and is about to begin
        time.sleep(0.01)
    yield names
    skate.cancel(running, force=True)
    skate.shutdown()


def run(line: str) -> Result:
    return CliRunner().invoke(command, shlex.split(line))


def good(line: str) -> str:
    done = run(line)
    assert done.exit_code == 0, done.output
    return done.output


def test_list_prints_a_table(busy: dict[str, str]) -> None:
    lines = good("list tasks --filter name=double").splitlines()
    assert lines[0].split()[:4] == ["task_id", "attempt_number", "name", "state"]
    assert sum("FINISHED" in line for line in lines) == 3 and lines[-1] == "3 tasks"


def test_list_takes_several_filters_and_a_limit(busy: dict[str, str]) -> None:
    rows = json.loads(good("list tasks --filter type=NORMAL_TASK --filter state!=FINISHED --format json"))
    assert {row["name"] for row in rows} == {"fails", "waits"}
    assert len(json.loads(good("list tasks --limit 2 --format json"))) == 2
    assert good("list tasks --limit 2").endswith("2 tasks: no more than --limit 2\n")


@pytest.mark.parametrize("name", ["actor", "placement_groups", "runtime-env", "cluster-events", "jobs", "nodes"])
def test_list_knows_every_resource_in_any_spelling(busy: dict[str, str], name: str) -> None:
    assert isinstance(json.loads(good(f"list {name} --detail --format json")), list)


def test_yaml_is_of_values_that_are_json(busy: dict[str, str]) -> None:
    lines = good("list actors --format yaml --detail").splitlines()
    assert lines[0] == f'- actor_id: "{busy["ACTOR"]}"'
    for line in lines:
        json.loads(line[2:].partition(": ")[2])


def test_what_a_terminal_would_act_on_is_not_printed(busy: dict[str, str]) -> None:
    assert "\x1b" not in good("list tasks --detail")


def test_get_shows_one_row(busy: dict[str, str]) -> None:
    assert json.loads(good(f"get task {busy['TASK']} --format json"))["state"] == "RUNNING"
    assert 'class_name: "Counter"' in good(f"get actors {busy['ACTOR']}")
    assert json.loads(good(f"get objects {busy['OBJECT']} --format json"))["object_size"] > 3_000_000


def test_get_of_nothing_ends_with_1(busy: dict[str, str]) -> None:
    done = run("get tasks 00")
    assert done.exit_code == 1 and "There is none" in done.output


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("list tasks --filter nope=1", "no column 'nope'"),
        ("list tasks --filter nonsense", "COLUMN=VALUE"),
        ("list nonsense", "nonsense"),
        ("list tasks --limit 100000", "limit"),
        ("logs 'no such*'", "no log file"),
        ("logs NAME --pid 5", "not several"),
        ("logs --pid 1", "pid 1"),
        ("stack --pid 1", "pid 1"),
        ("timeline /no/such/folder/out.json", "cannot be written"),
    ],
)
def test_what_cannot_be_done_says_why(busy: dict[str, str], line: str, why: str) -> None:
    done = run(line)
    assert done.exit_code in (1, 2) and why in done.output and done.exception.__class__ is SystemExit


def test_summaries_count(busy: dict[str, str]) -> None:
    assert re.search(r"^double +FINISHED: 3 ", good("summary tasks"), re.MULTILINE)
    assert re.search(r"^Counter +ALIVE: 1", good("summary actors"), re.MULTILINE)
    assert json.loads(good("summary objects --format json"))["total_size_mb"] > 2.8


def test_memory_tells_who_holds_what(busy: dict[str, str]) -> None:
    text = good("memory --group-by pid --units MB")
    assert f"driver {os.getpid()}" in text and "2.861 MB" in text and busy["OBJECT"] in text
    assert busy["OBJECT"] not in good("memory --stats-only")
    assert "RAY_record_ref_creation_sites=1" in good("memory")


def test_logs_are_listed_and_shown(busy: dict[str, str]) -> None:
    names = good("logs '*.out'").split()
    assert names
    shown = "".join(good(f"logs {name}") for name in names) if len(names) > 1 else good("logs '*.out'")
    assert sorted(re.findall(r"doubling \d", shown)) == ["doubling 0", "doubling 1", "doubling 2"]


def test_stack_shows_what_runs(busy: dict[str, str]) -> None:
    text = good(f"stack --pid {busy['PID']} --no-py-spy")
    assert f"--- worker {busy['PID']}" in text and "in waits" in text
    assert text.count("---") == 1


def test_top_shows_the_whole_picture_once(busy: dict[str, str]) -> None:
    text = good("top --once")
    assert "CPU 1/2" in text and "running 1" in text and "alive 1" in text
    assert re.search(rf"worker +{busy['PID']} +\d+% +\d+ MB +\d+\.\d s +waits", text)


def test_timeline_is_written_in_both_forms(busy: dict[str, str], tmp_path: Path) -> None:
    good(f"timeline {tmp_path}/a.json --html {tmp_path}/b.html")
    assert json.loads((tmp_path / "a.json").read_text())
    assert (tmp_path / "b.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("line", SHOWN)
def test_commands_that_the_page_shows_work(
    busy: dict[str, str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = line.partition("  #")[0]
    for name, value in busy.items():
        line = line.replace(name, value)
    assert good(line.removeprefix("skate ") + (" --once" if line.strip() == "skate top" else ""))


@pytest.mark.slow
def test_another_program_may_look(busy: dict[str, str], tmp_path: Path) -> None:
    """From outside, as a user does; who looks leaves no trace."""
    before = len(state.list_workers())
    folder = skate.init(ignore_reinit_error=True).address_info["session_dir"]

    def outside(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "skate", *words],
            capture_output=True,
            text=True,
            timeout=150,
            cwd=tmp_path,
            env={**os.environ, "SKATE_ADDRESS": folder},  # others may run on this machine
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert len(json.loads(outside("list", "tasks", "--filter", "name=double", "--format", "json"))) == 3
    assert "in waits" in outside("stack", "--no-py-spy")
    assert "waits" in outside("top", "--once")
    assert "calls" in outside("timeline", "--html", "out.html")
    assert len(state.list_workers()) == before


def test_without_a_session_the_command_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "skate", "list", "tasks"],
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 1 and "Error:" in done.stderr and "Traceback" not in done.stderr
