"""`skate run` does what `python` does: the same output, traceback and exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "program.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


def execute(*words: str, cwd: Path, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, *words], cwd=cwd, capture_output=True, text=True, timeout=60)


def as_python_does(*words: str, cwd: Path, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the words with `skate run`, check that plain Python gives the same."""
    expected = execute(*words, cwd=cwd, flags=flags)
    given = execute("-m", "skate", "run", *words, cwd=cwd, flags=flags)
    assert given.stdout == expected.stdout
    assert given.stderr == expected.stderr
    assert given.returncode == expected.returncode
    return given


def test_script_sees_itself_its_arguments_and_its_directory(write: Write, tmp_path: Path) -> None:
    write("value = 'the neighbour'", "sub/neighbour.py")
    write(
        """
        import sys, neighbour
        print(neighbour.value, sys.argv, sys.path[0], len(sys.path))
        print(__name__, __file__, __cached__, __package__, __spec__, type(__loader__).__name__)
        print(sys.modules["__main__"].__dict__ is globals(), __builtins__)
        """,
        "sub/program.py",
    )
    done = as_python_does("sub/program.py", "--epochs", "3", "--help", "-m", "--", cwd=tmp_path)
    assert "['sub/program.py', '--epochs', '3', '--help', '-m', '--']" in done.stdout


def test_functions_of_the_script_pickle_as_those_of_main(write: Write, tmp_path: Path) -> None:
    write(
        """
        import pickle
        def double(x): return 2 * x
        print(pickle.loads(pickle.dumps(double)) is double, double.__module__)
        """
    )
    assert as_python_does("program.py", cwd=tmp_path).stdout == "True __main__\n"


def test_module_by_name(write: Write, tmp_path: Path) -> None:
    write("", "pack/__init__.py")
    body = "import sys; print(sys.argv, sys.path[0], __name__, __package__, __spec__.name)"
    write(body, "pack/part.py")
    write(body, "pack/__main__.py")
    as_python_does("-m", "pack.part", "--help", "-m", cwd=tmp_path)
    as_python_does("-mpack.part", "x", cwd=tmp_path)
    as_python_does("-m", "pack", cwd=tmp_path)


def test_directory_and_zip_file(write: Write, tmp_path: Path) -> None:
    write("import sys; print(sys.argv, sys.path[0], __file__)", "app/__main__.py")
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.write(tmp_path / "app" / "__main__.py", "__main__.py")
    as_python_does("app", "1", cwd=tmp_path)
    as_python_does("app.zip", "1", cwd=tmp_path)
    as_python_does("app", "1", cwd=tmp_path, flags=("-P",))


@pytest.mark.parametrize(
    "body",
    [
        "def f(): raise ValueError('wrong')\nf()",
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('x') from e",
        "raise ExceptionGroup('two', [ValueError(1), KeyError(2)])",
        "print('one'\n",
        "import sys; sys.exit(7)",
        "import sys; sys.exit('said and done')",
        "import sys; sys.exit()",
        "raise SystemExit(3)",
        "import atexit; atexit.register(print, 'exit handler'); raise RuntimeError",
        "import sys; sys.excepthook = lambda *a: print(a[0], a[2].tb_lineno); 1 / 0",
        "raise KeyboardInterrupt",
        "raise BrokenPipeError('down')",
        "raise EOFError",
        "import os; os._exit(9)",
        "import threading; threading.Thread(target=print, args=['late']).start(); 1 / 0",
    ],
)
def test_errors_and_exit_codes(body: str, write: Write, tmp_path: Path) -> None:
    write(body)
    done = as_python_does("program.py", cwd=tmp_path)
    assert "skate" not in done.stderr


def test_ctrl_c_ends_the_program_by_its_signal(write: Write, tmp_path: Path) -> None:
    write("import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)")
    assert as_python_does("program.py", cwd=tmp_path).returncode == -signal.SIGINT


def test_safe_path_is_kept(write: Write, tmp_path: Path) -> None:
    write("import sys; print(sys.path)")
    as_python_does("program.py", cwd=tmp_path, flags=("-P",))


def test_error_in_a_module_shows_no_frame_of_skate(write: Write, tmp_path: Path) -> None:
    write("def f(): 1 / 0\nf()", "part.py")
    done = execute("-m", "skate", "run", "-m", "part", cwd=tmp_path)
    assert done.returncode == 1
    assert "in f" in done.stderr
    assert "skate" not in done.stderr
    assert done.stderr.count("File ") == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nothing.py"], 2, "can't open file 'nothing.py'"),
        (["empty"], 1, "can't find '__main__' module"),
        (["-m", "nothing"], 1, "No module named nothing"),
        (["-m", "nothing.below"], 1, "No module named nothing.below"),
        (["-m", "json.nothing"], 1, "No module named json.nothing"),
        (["-m", "json"], 1, "'json' is a package"),
        (["-m", "math"], 1, "No code object available for math"),
        ([], 2, "name the program to run"),
        (["-m"], 2, "requires an argument"),
        (["--speed", "program.py"], 2, "No such option '--speed'"),
    ],
)
def test_what_cannot_be_run(words: list[str], code: int, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = execute("-m", "skate", "run", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", [("--engine", "inline"), ("--engine=inline",)])
def test_engine_is_that_of_the_program_and_its_children(option: tuple[str, ...], write: Write, tmp_path: Path) -> None:
    write(
        """
        import os, sys
        import ray
        @ray.remote
        def where():
            return os.getpid()
        print(os.environ["SKATE_ENGINE"], ray.get(where.remote()) == os.getpid(), sys.argv[1:])
        """
    )
    for words in (("program.py", "--engine", "local"), ("-m", "program", "--engine", "local")):
        done = execute("-m", "skate", "run", *option, *words, cwd=tmp_path)
        assert done.stdout == "inline True ['--engine', 'local']\n", done.stderr
    refused = execute("-m", "skate", "run", "--engine", "sail", "program.py", cwd=tmp_path)
    assert refused.returncode == 2 and "'sail'" in refused.stderr
