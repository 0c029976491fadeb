"""`skate debug` at a terminal, as a user meets it, and in a pipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import skate as ray

@ray.remote
def square(x):
    y = x * x
    breakpoint()
    y = y + 1
    return y

@ray.remote
class Keeper:
    def __init__(self):
        self.total = 3

    def add(self, x):
        before = self.total
        breakpoint()
        self.total = before + x
        return self.total

ray.init(num_cpus=2)
print("square:", ray.get(square.remote(7)), flush=True)
print("keeper:", ray.get(Keeper.remote().add.remote(4)), flush=True)
"""
PROMPT = re.escape("(Pdb) ")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sessions' folders of our own, and a terminal without colours."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("TERM", "dumb")
    for name in ("PYTHONBREAKPOINT", "SKATE_DEBUGGER", "RAY_DEBUG", "SKATE_POST_MORTEM"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@contextmanager
def running(place: Path, text: str) -> Iterator[subprocess.Popen[str]]:
    """A program in a file of its own."""
    script = place / "script.py"
    script.write_text(text)
    program = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate(timeout=60)


@contextmanager
def terminal(*words: str) -> Iterator[Any]:
    """`skate debug` in a terminal."""
    child = pexpect.spawn(
        sys.executable, ["-m", "skate", "debug", *words], encoding="utf-8", timeout=60, dimensions=(40, 200)
    )
    try:
        yield child
    finally:
        child.close(force=True)


def listed(*words: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "skate", "debug", "--json", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def until_waiting(count: int = 1) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 60
    while len(found := [stop for stop in listed() if stop["state"] == "waits"]) != count:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def type_in(child: Any, line: str, answer: str) -> None:
    """Type a line; wait for what it shows."""
    child.expect(PROMPT)
    child.sendline(line)
    child.expect(answer)


def test_a_user_debugs_a_task_and_then_an_actor(place: Path) -> None:
    with running(place, PROGRAM) as program:
        until_waiting()
        with terminal() as child:
            child.expect(re.escape("-> y = y + 1"))
            type_in(child, "p x", r"\r\n7\r\n")
            type_in(child, "w", r"script\.py\(8\)square\(\)")
            type_in(child, "n", re.escape("-> return y"))
            type_in(child, "p y", r"\r\n50\r\n")
            type_in(child, "c", "The program goes on")
            # the next breakpoint of the same worker, a moment later, belongs to the same sitting
            child.expect(re.escape("-> self.total = before + x"))
            type_in(child, "p before, x", re.escape("(3, 4)"))
            type_in(child, "!before = 100", "")
            type_in(child, "c", "The program goes on")
            child.expect(pexpect.EOF)
            child.wait()
            assert child.exitstatus == 0
        out, err = program.communicate(timeout=60)
    assert (program.returncode, out) == (0, "square: 50\nkeeper: 104\n")
    assert re.search(r"square \(pid \d+\) waits at .*script\.py:7, in square: .*run `skate debug --folder ", err)
    assert re.search(r"Keeper\.add \(pid \d+\) waits at .*script\.py:18, in add", err)
    assert list(place.iterdir()) == [place / "script.py"]


def test_line_editing_history_completion_and_an_emptied_line(place: Path) -> None:
    with running(place, PROGRAM):
        until_waiting()
        with terminal() as child:
            child.expect(PROMPT)
            child.send("p x + 1000\x01\x0b")  # to the start, and delete all of it
            child.sendline("p x + 1")
            child.expect(r"\r\n8\r\n")
            child.expect(PROMPT)
            child.send("\x10\r")  # the line before, again
            child.expect(r"\r\n8\r\n")
            child.expect(PROMPT)
            child.send("whe\t\r")
            child.expect(re.escape("-> y = y + 1"))
            child.expect(PROMPT)
            child.send("nonsense")
            child.expect("nonsense")
            time.sleep(0.2)  # Python's readline can miss a Ctrl-C that comes with a key
            child.sendintr()
            child.expect(PROMPT)
            child.sendline("p 6 * 7")
            child.expect(r"\r\n42\r\n")


def test_quit_ends_the_task_and_the_programs_error_says_so(place: Path) -> None:
    with running(place, PROGRAM) as program:
        until_waiting()
        with terminal() as child:
            type_in(child, "q", "The call ends here")
            child.expect(pexpect.EOF)
        _, err = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "BdbQuit: the debugger was told to quit at" in err and "script.py:8" in err


def test_leaving_with_ctrl_d_lets_it_wait_on(place: Path) -> None:
    with running(place, PROGRAM):
        first = until_waiting()
        with terminal() as child:
            child.expect(PROMPT)
            child.sendeof()
            child.expect("waits on")
            child.expect(pexpect.EOF)
        assert until_waiting() == first


def test_a_killed_terminal_is_one_who_left(place: Path) -> None:
    with running(place, PROGRAM):
        first = until_waiting()
        with terminal() as child:
            child.expect(PROMPT)
            assert listed()[0]["state"] == "attached"
        assert until_waiting() == first


def test_ctrl_c_stops_a_loop_that_runs(place: Path) -> None:
    text = """
import skate as ray

@ray.remote
def loop():
    go, count = True, 0
    breakpoint()
    while go:
        count += 1
    return count > 1000

print(ray.get(loop.remote()))
"""
    with running(place, text) as program:
        until_waiting()
        with terminal() as child:
            type_in(child, "until 10", "")
            for _ in range(6):  # one that comes before the program runs on is for the prompt
                time.sleep(0.5)
                child.sendintr()
                if child.expect(["-> (count|while)", pexpect.TIMEOUT], timeout=10) == 0:
                    break
            type_in(child, "!go = False", "")
            type_in(child, "c", "goes on")
        out, _ = program.communicate(timeout=60)
    assert out == "True\n"


def test_the_end_of_the_program_ends_a_prompt(place: Path) -> None:
    with running(place, PROGRAM) as program:
        until_waiting()
        with terminal() as child:
            child.expect(PROMPT)
            program.kill()
            child.expect("The worker is gone")
            child.expect(pexpect.EOF)
            child.wait()
            assert child.exitstatus == 0


SEVERAL = """
import skate as ray

@ray.remote
def task(name):
    breakpoint()
    return name

ray.init(num_cpus=2)
print(ray.get([task.options(name="one").remote("a"), task.options(name="two").remote("b")]))
"""


def test_of_several_the_user_chooses(place: Path) -> None:
    with running(place, SEVERAL) as program:
        one, two = until_waiting(2)
        assert {one["task"], two["task"]} == {"one", "two"}
        piped = subprocess.run([sys.executable, "-m", "skate", "debug"], capture_output=True, text=True, timeout=60)
        assert piped.returncode == 2 and "--id" in piped.stderr and "one" in piped.stderr
        with terminal() as child:
            child.expect("Which one?")
            child.sendline("no such")
            child.expect("There is no breakpoint no such")
            child.sendline(two["id"])
            type_in(child, "c", "goes on")
            child.expect(pexpect.EOF)
        with terminal("--id", two["id"]) as child:
            child.expect(f"There is no breakpoint {two['id']}")
            child.expect(pexpect.EOF)
            child.wait()
            assert child.exitstatus == 1
        with terminal("--id", one["id"]) as child:
            type_in(child, "c", "goes on")
        out, _ = program.communicate(timeout=60)
    assert out == "['a', 'b']\n"


def test_follow_waits_for_each_and_ends_with_ctrl_c(place: Path) -> None:
    with terminal("--follow") as child:
        with running(place, SEVERAL) as program:
            for _ in range(2):
                type_in(child, "c", "goes on")
            assert program.communicate(timeout=60)[0] == "['a', 'b']\n"
        time.sleep(0.3)
        child.sendintr()
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 130


def test_commands_from_a_pipe(place: Path) -> None:
    with running(place, PROGRAM) as program:
        until_waiting()
        done = subprocess.run(
            [sys.executable, "-m", "skate", "debug"], input="p x\nc\n", capture_output=True, text=True, timeout=60
        )
        assert "(Pdb) 7\n" in done.stdout and "goes on" in done.stderr
        until_waiting()
        subprocess.run(
            [sys.executable, "-m", "skate", "debug"], input="c\n", text=True, timeout=60, capture_output=True
        )
        assert program.communicate(timeout=60)[0].startswith("square: 50\n")


def test_without_a_breakpoint_it_says_so(place: Path) -> None:
    def answer(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "skate", "debug", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    status, _, err = answer()
    assert status == 1 and "No breakpoint is waiting" in err
    assert answer("--list") == (0, "No breakpoint is waiting.\n", "")
    assert listed() == []
    status, _, err = answer("--folder", "/no/such")
    assert status == 2 and "No such file or directory" in err


def test_the_list_names_task_place_and_age(place: Path) -> None:
    with running(place, PROGRAM):
        (stop,) = until_waiting()
        done = subprocess.run(
            [sys.executable, "-m", "skate", "debug", "--list", "--folder", str(place)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "TMPDIR": "/"},
        )
    head, _, line = done.stdout.splitlines()
    assert head.split() == ["id", "task", "at", "in", "for"]
    assert line.split()[:4] == [stop["id"], "square", f"{place}/script.py:8", "square"]


def test_inline_a_breakpoint_is_pdb_in_the_program_itself(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKATE_ENGINE", "inline")
    (place / "script.py").write_text(PROGRAM)
    child = pexpect.spawn(sys.executable, [str(place / "script.py")], encoding="utf-8", timeout=60)
    try:
        child.expect(re.escape("-> y = y + 1"))
        type_in(child, "p x", r"\r\n7\r\n")
        type_in(child, "c", "square: 50")
        child.expect(re.escape("-> self.total = before + x"))
        type_in(child, "c", "keeper: 7")
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)


def test_inline_an_error_is_looked_at_in_the_program_itself(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKATE_ENGINE", "inline")
    monkeypatch.setenv("SKATE_POST_MORTEM", "1")
    text = """
import skate as ray

@ray.remote
def fails(x):
    y = x - x
    return x / y

try:
    ray.get(fails.remote(3))
except ZeroDivisionError:
    print("caught")
"""
    (place / "script.py").write_text(text)
    child = pexpect.spawn(sys.executable, [str(place / "script.py")], encoding="utf-8", timeout=60)
    try:
        child.expect(re.escape("-> return x / y"))
        type_in(child, "p x, y", re.escape("(3, 0)"))
        type_in(child, "q", "caught")
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)
