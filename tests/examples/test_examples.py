"""Every example runs as its reader would run it, and leaves no process behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import termios
import time
import uuid
from pathlib import Path

import psutil
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
MARK = "SKATE_EXAMPLE_RUN"  # an environment variable that marks an example and all its children

# The last line of each program begins with its name; a few words of it tell that it got there.
LAST_LINES = {
    "async_actor.py": "200 readers waited in one actor",
    "crawler.py": "56 pages found, 2 missing",
    "engines.py": "both gave the same results",
    "harvest.py": "the same on every engine",
    "game_of_life.py": "the glider went once around the board",
    "mcp_gateway.py": "two servers under one address, the third one is down",
    "mcp_server.py": "4 books counted, with a session and without",
    "monte_carlo_pi.py": "3.1401 from 1,600,000 darts",
    "parameter_server.py": "learnt 20 weights",
    "prime_sieve.py": "37 primes below 160",
    "serve_composition.py": "updated while requests came, and each had its answer",
    "serve_batching.py": "200 texts in batches of up to 16",
    "serve_http.py": "an update and a death, and no request failed",
    "serve_streaming.py": "for a client that has gone no token is made",
    "tree_reduce.py": "32,000 numbers from 16 parts",
    "typed.py": "what the checker found is what came back",
    "word_count.py": "as counted alone",
}
BY_SOCKET = ("serve_http.py", "serve_streaming.py")
needs_numpy = pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="needs the extra skate-ray[numpy]")
needs_mcp = pytest.mark.skipif(importlib.util.find_spec("mcp") is None, reason="needs the extra skate-ray[mcp]")
NEEDS = {"parameter_server.py": needs_numpy, "mcp_gateway.py": needs_mcp, "mcp_server.py": needs_mcp}
NOT_OF_RAY = ("engines.py", "typed.py", "mcp_gateway.py", "mcp_server.py")
PROGRAMS = [pytest.param(name, marks=NEEDS.get(name, ())) for name in LAST_LINES]
both_engines = pytest.mark.parametrize("engine", ["local", "inline"])


def environment(mark: str, engine: str, **more: str) -> dict[str, str]:
    return {**os.environ, MARK: mark, "SKATE_ENGINE": engine, "PYTHONUNBUFFERED": "1", **more}


def run(engine: str, *command: str, timeout: float = 150, **more: str) -> subprocess.CompletedProcess[str]:
    """Run one example to its end; fail if a process of it outlives it by half a minute."""
    mark = uuid.uuid4().hex
    done = subprocess.run(
        [sys.executable, *command],
        cwd=EXAMPLES.parent,
        env=environment(mark, engine, **more),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert_nothing_left(mark)
    return done


def assert_nothing_left(mark: str) -> None:
    deadline = time.monotonic() + 30
    while left := marked(mark):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)


def marked(mark: str) -> list[psutil.Process]:
    """Find the processes that inherited the mark, whatever became of their parents."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # it has gone, or is not ours to look at
    return found


def test_every_example_is_tested_and_listed() -> None:
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    assert programs == {*LAST_LINES, "tour.py", "tour_work.py"}
    listed = (EXAMPLES / "README.md").read_text()
    assert [name for name in programs if f"({name})" not in listed] == []


@both_engines
@pytest.mark.parametrize("name", PROGRAMS)
def test_example_checks_its_own_result(name: str, engine: str) -> None:
    if name == "engines.py" and engine == "inline":
        pytest.skip("it chooses its engines itself")
    if name in BY_SOCKET and engine == "inline":
        pytest.skip("one process serves no sockets: test clients call its applications")
    done = run(engine, f"examples/{name}")
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"{name.removesuffix('.py')}: ") or name == "engines.py"
    assert LAST_LINES[name] in last
    assert "Traceback" not in done.stderr


@both_engines
def test_example_of_a_configuration(engine: str) -> None:
    done = run(engine, "examples/serve_config/deploy.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "deploy: all 3 replicas went on running, 1 was added"
    assert "serve_config" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in LAST_LINES if name not in NOT_OF_RAY])
def test_example_is_a_program_for_ray(name: str, tmp_path: Path) -> None:
    if name == "parameter_server.py":
        pytest.importorskip("numpy")
    text = (EXAMPLES / name).read_text()
    program = tmp_path / name
    program.write_text(text.replace("import skate as ray\n", "import ray\n"))
    assert "skate as ray" in text
    assert "import skate" not in program.read_text()
    done = run("local", "-m", "skate", "run", str(program))
    assert done.returncode == 0, done.stderr
    assert LAST_LINES[name] in done.stdout.splitlines()[-1]


@pytest.mark.slow
@needs_numpy
@both_engines
def test_tour_gives_results_and_timings(engine: str) -> None:
    done = run(engine, "examples/tour.py", "--engine", engine, "--limit", "60")
    assert done.returncode == 0, done.stderr
    assert "60 modules" in done.stdout
    assert "broken  SyntaxError: invalid syntax" in done.stdout
    assert "read-only" in done.stdout
    assert "start and first result" in done.stdout
    healed = "died by SIGKILL, was run again" if engine == "local" else "no worker to kill"
    assert healed in done.stdout
    assert "parsing:" not in done.stderr, "the bar is for terminals"


@pytest.mark.slow
@needs_numpy
def test_tour_gives_the_same_results_on_both_engines() -> None:
    tables = [
        run(engine, "examples/tour.py", "--limit", "60").stdout.partition("\nAsked while")[0]
        for engine in ("local", "inline")
    ]
    assert tables[0] == tables[1] != ""


@pytest.mark.slow
@needs_numpy
def test_tour_runs_without_tqdm(tmp_path: Path) -> None:
    done = run("local", "examples/tour.py", "--limit", "20", PYTHONPATH=without(tmp_path, "tqdm"))
    assert done.returncode == 0, done.stderr


def test_tour_without_numpy_names_the_extra(tmp_path: Path) -> None:
    done = run("local", "examples/tour.py", PYTHONPATH=without(tmp_path, "numpy"))
    assert done.returncode == 1
    assert done.stderr.strip() == ("The tour needs NumPy. Install it with: pip install 'skate-ray[demo]'")


def without(folder: Path, module: str) -> str:
    """Return a PYTHONPATH on which the module looks as if it were not installed."""
    error = f"ModuleNotFoundError({f'No module named {module}'!r}, name={module!r})"
    (folder / f"{module}.py").write_text(f"raise {error}\n")
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


@pytest.mark.slow
@needs_numpy
def test_tour_shows_a_bar_on_a_terminal() -> None:
    pytest.importorskip("tqdm")
    here, terminal = os.openpty()
    os.set_blocking(here, False)
    termios.tcsetwinsize(terminal, (24, 80))  # rows, columns: a bar of no width shows nothing
    try:
        subprocess.run(
            [sys.executable, "examples/tour.py", "--limit", "20"],
            cwd=EXAMPLES.parent,
            env=environment(uuid.uuid4().hex, "local"),
            stdout=subprocess.DEVNULL,
            stderr=terminal,
            timeout=150,
            check=True,
        )
        assert b"parsing:" in os.read(here, 10_000)
    finally:
        os.close(here)
        os.close(terminal)


@pytest.mark.slow
@needs_numpy
def test_interrupted_tour_leaves_nothing_behind() -> None:
    mark = uuid.uuid4().hex
    tour = subprocess.Popen(
        [sys.executable, "examples/tour.py"],
        cwd=EXAMPLES.parent,
        env=environment(mark, "local"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while len(marked(mark)) < 3:  # itself and at least two of its children: it is at work
            assert tour.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(tour.pid, signal.SIGINT)  # as a terminal does: the whole group gets it
        _, errors = tour.communicate(timeout=60)
    finally:
        tour.kill()
        tour.wait()
    assert tour.returncode == 130, errors
    assert "Interrupted" in errors and "Traceback" not in errors
    assert_nothing_left(mark)
