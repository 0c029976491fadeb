"""Two packages called `ray` in one process: Ray's own code gets Ray, everybody else Skate. Ray is a small one here."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from skate.compat import by_importer

Run = Callable[..., str]

INIT = '''
"""A package that imports as Ray does: at its top, in functions, by name, out of C, and by other names."""
import ray._private.worker
from ray import util

__version__ = "itself"

class Thing:
    pass

def look():
    import importlib, importlib.util, pkgutil
    import ray, ray.late
    from ray._private import worker
    names = [module.name for module in pkgutil.walk_packages(ray.util.__path__, "ray.util.")]
    found = importlib.util.find_spec("ray.util.deep")
    missing = importlib.util.find_spec("ray.nothing")
    try:
        import ray.nothing
    except ModuleNotFoundError as error:
        name = error.name
    return [ray.__version__, importlib.import_module("ray.util").HERE, worker.HERE, ray.late.ABOVE, names,
            found is not None, missing, name]
'''
FILES = {
    "__init__.py": INIT,
    "_private/__init__.py": "",
    "_private/worker.py": "HERE, WORKER_MODE = 'worker', 1\nclass W:\n    mode = None\nglobal_worker = W()\n",
    "_private/daemon.py": "import ray, sys\nsys.path.insert(0, __file__.rpartition('/')[0])\nimport beside\n"
    "print(ray.__version__, beside.ABOVE)\n",
    "_private/beside.py": "import ray\nABOVE = ray.__version__\n",
    "late.py": "import ray\nABOVE = ray.__version__\n",
    "util/__init__.py": "HERE = 'util'\n",
    "util/deep/__init__.py": "",
}
SEEN = ["itself", "util", "worker", "itself", ["ray.util.deep"], True, None, "ray.nothing"]
# The engine is one of those who mean Ray itself.
ASK = """
import sys
scope = {"__name__": "skate.engines.ray.engine"}
exec("import ray as itself", scope)
itself = scope["itself"]
"""
FOREIGN = (Path(__file__).resolve().parents[1] / "foreign_hook.py").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that has the small Ray."""
    for name, text in FILES.items():
        path = tmp_path / "lib" / "ray" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "lib"


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Run:
    """Runs a program for Ray with the engine `ray` chosen from outside; gives what it printed."""

    def run(text: str, *how: str, path: str = "", **environment: str) -> str:
        script = tmp_path / "program.py"
        script.write_text(textwrap.dedent(text).replace("ASK\n", ASK).replace("FOREIGN\n", FOREIGN))
        known = os.pathsep.join(part for part in (path, str(folder), os.environ.get("PYTHONPATH", "")) if part)
        done = subprocess.run(
            [sys.executable, *(how or ("-m", "skate", "run")), str(script)],
            cwd=tmp_path,
            env={**os.environ, "SKATE_ENGINE": "ray", "PYTHONPATH": known, **environment},
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_program_gets_skate_and_ray_gets_itself(run: Run) -> None:
    program = """
        import importlib, importlib.util, sys
        import ray, ray.util.queue, skate
        from ray import util
        from ray.exceptions import RayError
        from ray.util.queue import Queue
        from ray._private.worker import global_worker
        print(ray.__version__, ray.init is skate.init, util is skate.util is ray.util, Queue is skate.util.queue.Queue)
        print(RayError is skate.exceptions.RayError, global_worker.connected, ray.ANSWERED_BY_SKATE)
        print(importlib.import_module("ray.util") is util, importlib.util.find_spec("ray.util").name)
        print(importlib.util.find_spec("ray.tune"), __import__("ray.util.queue") is ray)
        """
    wanted = "2.60.0 True True True\nTrue False True\nTrue skate.util\nNone True\n"
    assert run(program) == wanted
    program = """
        import skate
        skate.as_ray()
        import ray
        ASK
        print(ray.__version__, itself.look())
        """
    assert run(program, "-B") == f"2.60.0 {SEEN}\n"


def test_ray_s_names_mean_ray_for_c_code_and_pickles(run: Run) -> None:
    program = """
        import ctypes, pickle, cloudpickle, skate
        skate.as_ray()
        import ray
        ASK
        import_in_c = ctypes.pythonapi.PyImport_ImportModule
        import_in_c.restype = ctypes.py_object
        print(import_in_c(b"ray.late").ABOVE, sys.modules["ray"] is itself)
        for load, dump in ((pickle.loads, pickle.dumps), (pickle._loads, pickle._dumps)):
            print(type(load(dump(itself.Thing()))) is itself.Thing, load(dump(ray.ObjectRef)) is ray.ObjectRef)
        print(pickle.loads(b"cray.late\\nABOVE\\n."))
        print(*(cloudpickle.loads(cloudpickle.dumps(module)) is module for module in (ray, itself)))
        """
    assert run(program, "-B") == "itself True\nTrue True\nTrue True\nitself\nTrue True\n"


def test_what_skate_lacks_is_named_though_ray_has_it(run: Run) -> None:
    program = """
        import ray, ray.util
        for code in ("import ray.late", "from ray import late", "import ray.util.deep", "ray.late", "ray.util.HERE"):
            try:
                exec(code)
            except Exception as error:
                print(type(error).__name__, "docs/compatibility.md" in str(error), error.name)
        print(hasattr(ray, "late"))
        """
    assert run(program).splitlines() == [
        "ModuleNotFoundError True ray.late",
        "ImportError True ray",
        "ModuleNotFoundError True ray.util.deep",
        "AttributeError True late",
        "AttributeError True HERE",
        "False",
    ]


def test_python_programs_that_it_starts_do_the_same(run: Run, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import sys\nsys.was_here = True\n")
    program = f"""
        import subprocess, sys
        look = "import ray, sys; print(ray.init.__module__, getattr(sys, 'was_here', False))"
        subprocess.run([sys.executable, "-c", look], check=True)
        subprocess.run([sys.executable, {str(folder / "ray/_private/daemon.py")!r}], check=True)
        subprocess.run([sys.executable, "-c", "import sys; print('skate' in sys.modules)"], check=True)
        """
    assert run(program, path=str(other)) == "skate.session True\nitself itself\nFalse\n"


@pytest.mark.parametrize("hook", ["import skate; skate.as_ray()", "FOREIGN"])
def test_engine_finds_room_where_ray_is_skate_already(run: Run, hook: str) -> None:
    program = f"""
        {hook}
        import ray, ray.util.queue
        from ray.util.queue import Queue
        before = ray
        from skate.compat.hook import make_room
        make_room()
        ASK
        import ray, pickle
        from ray.util.queue import Queue as again
        from ray._private.worker import global_worker
        print(itself.look(), sys.modules["ray"] is itself)
        print(again is Queue, ray.put is before.put, before.util is ray.util)
        print(pickle.loads(pickle.dumps(Queue)) is Queue, global_worker.connected)
        print(len([finder for finder in sys.meta_path if type(finder).__name__ == "RayFinder"]))
        """
    printed = run(program, "-B", SKATE_ENGINE="local")
    assert printed == f"{SEEN} True\nTrue True True\nTrue False\n0\n"


def test_nothing_changes_where_ray_is_ray(run: Run) -> None:
    program = """
        ASK
        import builtins, importlib
        before = builtins.__import__, importlib.import_module
        from skate.compat.hook import make_room
        make_room()
        import ray
        print(ray is itself, (builtins.__import__, importlib.import_module) == before)
        """
    assert run(program, "-B") == "True True\n"


def test_what_stands_for_ray_turns_it_on_where_a_pickle_brings_it(run: Run) -> None:
    program = """
        ASK
        import pickle
        pickle.loads(b"cskate.compat.site.ray\\nput\\n.")
        import ray
        print(ray.__version__, ray.ClusterID.__module__, itself.look())
        """
    assert run(program, "-B") == f"2.60.0 skate.compat.site.ray._raylet {SEEN}\n"


def test_as_ray_after_ray_itself_is_refused(run: Run) -> None:
    program = """
        ASK
        import ray, skate
        try:
            skate.as_ray()
        except RuntimeError as error:
            print("imported already" in str(error), ray.__version__)
        """
    assert run(program, "-B") == "True itself\n"


def test_children_are_told_once_and_in_place_of_the_other_hook() -> None:
    environment = {"PYTHONPATH": os.pathsep.join([by_importer.SITE, "mine", by_importer.STARTUP])}
    by_importer.tell_children(environment)
    by_importer.tell_children(environment)
    assert environment["PYTHONPATH"].split(os.pathsep) == [by_importer.STARTUP, "mine"]


def test_engine_without_ray_says_what_to_install(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("import ray\nray.init()\n")
    done = subprocess.run(
        [sys.executable, "-m", "skate", "run", str(script)],
        cwd=tmp_path,
        env={**os.environ, "SKATE_ENGINE": "ray"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 1 and "pip install 'skate-ray[ray]'" in done.stderr
