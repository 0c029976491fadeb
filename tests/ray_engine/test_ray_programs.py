"""Programs that were written for Ray, on Skate, on Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import skate

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")

START = "ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
PROGRAM = """
    import pickle, subprocess, sys
    import ray
    import ray.exceptions
    from ray.util.queue import Queue

    START

    @ray.remote
    def look(ref):
        import ray.util.queue
        from ray import exceptions
        return ray.get(ray.put(ray.init.__module__)), exceptions.RayError.__module__, isinstance(ref[0], ray.ObjectRef)

    @ray.remote
    class Counter:
        def __init__(self):
            import ray
            self.queue = ray.util.queue.Queue()

        def put(self, queue):
            queue.put(type(self.queue).__module__)

        def child(self):
            code = "import ray; print(ray.init.__module__)"
            return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    @ray.remote
    def fail():
        raise ValueError("five")

    print(*ray.get(look.remote([ray.put(1)])))
    queue, counter = Queue(), Counter.remote()
    ray.get(counter.put.remote(queue))
    print(queue.get(), ray.get(counter.child.remote()).strip())
    try:
        ray.get(fail.remote())
    except ray.exceptions.RayTaskError as error:
        print(isinstance(error, ValueError), type(error).__module__)
    itself = sys.modules["ray"]
    print(itself.is_initialized(), itself.get(itself.put(4)), pickle.loads(pickle.dumps(itself.ObjectRef)).__module__)
    ray.shutdown()
"""
PRINTED = """\
skate.session skate.exceptions True
skate.util.queue skate.session
True skate.exceptions
True 4 ray
"""
AS_RAY = "import skate\nskate.as_ray()\n"
FOREIGN = (Path(__file__).resolve().parents[1] / "foreign_hook.py").read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Runs `PROGRAM` after some lines; gives what it printed."""

    def run(*how: str, before: str = "", start: str = START, **environment: str) -> str:
        script = tmp_path / "program.py"
        script.write_text(before + textwrap.dedent(PROGRAM).replace("START\n", start))
        done = subprocess.run(
            [sys.executable, *how, str(script)],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=55,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_program_for_ray_runs_as_it_is(run: Callable[..., str]) -> None:
    assert run("-m", "skate", "run", SKATE_ENGINE="ray") == PRINTED


def test_program_may_choose_the_engine_when_ray_is_skate_already(run: Callable[..., str]) -> None:
    chosen = START.replace("(", "(engine='ray', ", 1)
    assert run(before=AS_RAY, start=chosen, SKATE_ENGINE="local") == PRINTED


def test_another_hook_that_makes_ray_skate_is_taken_over(run: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FOREIGN)
    path = os.pathsep.join(part for part in (str(tmp_path), os.environ.get("PYTHONPATH", "")) if part)
    assert run(SKATE_ENGINE="ray", PYTHONPATH=path) == PRINTED


def test_workers_of_a_cluster_that_others_started_give_skate(session: None, run: Callable[..., str]) -> None:
    address = skate.core.engine.current().address  # type: ignore[attr-defined]
    start = f"ray.init({address!r}, log_to_driver=False, runtime_env={{'worker_process_setup_hook': lambda: None}})\n"
    assert run("-m", "skate", "run", start=start, SKATE_ENGINE="ray") == PRINTED
