"""`import ray` gives Skate: in the program, in its workers, and in Python programs that it starts."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]
PAGE = "docs/compatibility.md"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a program for Ray, by ``skate run`` unless told otherwise; gives what it printed."""

    def run(text: str, *how: str) -> str:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(text))
        command = [sys.executable, *(how or ("-m", "skate", "run")), str(path)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def other_ray(tmp_path: Path) -> Path:
    """A directory beside the program with something else that is called ray."""
    folder = tmp_path / "elsewhere" / "ray"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("__version__ = 'the other one'\n")
    return folder.parent


HOWS = [("-m", "skate", "run"), ("-m", "skate.as_ray")]


@pytest.mark.parametrize("how", HOWS)
def test_program_imports_ray_and_gets_skate(run: Run, how: tuple[str, ...]) -> None:
    program = """
        import ray, skate
        from ray.util.queue import Queue
        import ray.exceptions

        @ray.remote
        def double(x):
            return 2 * x

        print(ray.get(double.remote(4)), ray.__version__, ray.init is skate.init)
        print(ray.exceptions.RayTaskError is skate.exceptions.RayTaskError, Queue is skate.util.queue.Queue)
        """
    assert run(program, *how) == "8 2.60.0 True\nTrue True\n"


def test_program_that_calls_as_ray_gets_skate(run: Run) -> None:
    program = """
        import skate
        skate.as_ray()
        import ray
        skate.as_ray()
        print(ray.get(ray.remote(lambda: __import__("ray").__version__).remote()), skate.as_ray)
        """
    printed = run(program, "-B")
    assert printed.startswith("2.60.0 <module 'skate.as_ray'")


def test_as_ray_after_another_ray_is_refused(run: Run, other_ray: Path) -> None:
    program = f"""
        import sys
        sys.path.insert(0, {str(other_ray)!r})
        import ray, skate
        try:
            skate.as_ray()
        except RuntimeError as error:
            print("imported already" in str(error), ray.__version__)
        """
    assert run(program, "-B") == "True the other one\n"


def test_installed_ray_is_not_used_and_real_ray_is_left_alone(run: Run, other_ray: Path) -> None:
    program = f"""
        import sys
        sys.path.insert(0, {str(other_ray)!r})
        import ray
        print(ray.__version__)
        """
    assert run(program) == "2.60.0\n"
    assert run(program, "-m", "skate", "run", "--real-ray") == "the other one\n"


def test_workers_import_ray_though_the_driver_has_not(run: Run) -> None:
    program = """
        import skate

        @skate.remote
        def look():
            import ray, sys
            from ray.util.queue import Queue
            return ray.__version__, ray.put is skate.put, Queue.__module__

        print(*skate.get(look.remote()))
        """
    assert run(program) == "2.60.0 True skate.util.queue\n"


def test_python_programs_that_it_starts_get_skate(run: Run) -> None:
    program = """
        import subprocess, sys, multiprocessing

        def version(queue):
            import ray
            queue.put(ray.__file__)

        if __name__ == "__main__":
            import ray
            look = "import ray, importlib.metadata as m; print(ray.__file__, m.version('ray'))"
            found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            child = context.Process(target=version, args=(queue,))
            child.start()
            print(found.split() == [ray.__file__, "2.60.0"], queue.get() == ray.__file__)
            child.join()
        """
    assert run(program) == "True True\n"


def test_module_answers_what_libraries_ask_of_it(run: Run) -> None:
    program = """
        import importlib.metadata, importlib.util, inspect, pkgutil, sys, types
        for name in ("ray", "ray.util", "ray.actor", "ray._private.worker", "ray.tune", "ray.util.nothing", "ray.core"):
            spec = importlib.util.find_spec(name)
            print(name, spec is not None)
        print(importlib.metadata.version("ray"), importlib.metadata.distribution("ray").metadata["Name"])
        print([d.metadata["Name"] for d in importlib.metadata.distributions() if d.metadata["Name"] == "ray"])
        import ray, ray.util, ray.actor, skate
        print(type(ray) is types.ModuleType, ray.__name__, ray.__spec__.name, bool(ray.__file__))
        print(ray.util is skate.util, skate.util.__spec__.name, sys.modules["ray.actor"] is skate.actor)
        print(inspect.getsource(ray.remote_function.RemoteFunction).startswith("class RemoteFunction"))
        print(all(hasattr(ray, name) for name in ray.__all__), {"init", "util", "logger"} <= set(dir(ray)))
        """
    asked, *rest = run(program).rpartition("2.60.0 ray\n")
    assert dict(line.split() for line in asked.splitlines()) == {
        "ray": "True",
        "ray.util": "True",
        "ray.actor": "True",
        "ray._private.worker": "True",
        "ray.tune": "False",
        "ray.util.nothing": "False",
        "ray.core": "False",
    }
    assert "".join(rest).splitlines()[1:] == [
        "['ray']",
        "True ray ray True",
        "True skate.util True",
        "True",
        "True True",
    ]


def test_pickles_that_name_ray_load_in_workers(run: Run) -> None:
    program = """
        import pickle
        import ray

        @ray.remote
        def load(data, module):
            import ray as there
            return pickle.loads(data) is there.remote_function.RemoteFunction, module is there

        by_name = b"cray.remote_function\\nRemoteFunction\\n."
        print(*ray.get(load.remote(by_name, ray)), pickle.loads(pickle.dumps(ray.ObjectRef)) is ray.ObjectRef)
        """
    assert run(program) == "True True True\n"


MISSING = {
    "import ray.tune": ModuleNotFoundError,
    "import ray.tune.search": ModuleNotFoundError,
    "from ray.tune import report": ModuleNotFoundError,
    "import ray.util.nothing": ModuleNotFoundError,
    "import ray._private.nothing": ModuleNotFoundError,
    "from ray import tune": ImportError,
    "from ray.util import nothing": ImportError,
    "from ray.actor import nothing": ImportError,
    "from ray._private.worker import nothing": ImportError,
    "ray.nothing": AttributeError,
    "ray.api": AttributeError,
    "ray.util.nothing": AttributeError,
    "ray._private.worker.nothing": AttributeError,
}


def test_what_is_missing_is_named_with_the_page_that_lists_it(run: Run) -> None:
    program = f"""
        import ray, ray.util, ray._private.worker
        for code in {list(MISSING)!r}:
            try:
                exec(code)
            except Exception as error:
                name = error.name.rpartition(".")[2]
                print(type(error).__name__, name in code and name in str(error), {PAGE!r} in str(error))
        print(hasattr(ray, "tune"), hasattr(ray.util, "nothing"), getattr(ray, "nothing", 5))
        """
    expected = [f"{kind.__name__} True True" for kind in MISSING.values()]
    assert run(program).splitlines() == [*expected, "False False 5"]


def test_frames_of_the_hook_are_no_part_of_a_missing_attribute(run: Run) -> None:
    program = """
        import ray
        try:
            ray.nothing
        except AttributeError as error:
            print(error.name, error.obj is ray)
        try:
            import ray.tune
        except ImportError as error:
            print(error.name)
        """
    assert run(program) == "nothing True\nray.tune\n"
