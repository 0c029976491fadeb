"""Run a user's program as `python script.py` or `python -m module` would, in this process.

The program's `__main__` is a real module in `sys.modules`, because its functions and classes are
pickled by that name. Frames of this package are cut from an uncaught error's traceback.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import os
import sys
import types
from collections.abc import Callable, Sequence
from types import CodeType, TracebackType
from typing import NoReturn

Program = Callable[[], None]

# The files whose frames lie between Python and the program.
OWN_FILES = (os.path.dirname(__file__) + os.sep, "<frozen ", str(importlib.util.__file__))


def script_program(script: str, arguments: Sequence[str]) -> Program:
    """The program in the file `script`, or in `__main__` of the directory or zip file `script`."""

    def program() -> None:
        sys.argv = [script, *arguments]
        spec = importlib.machinery.PathFinder.find_spec("__main__", [os.path.abspath(script)])
        if spec is not None:
            # Python puts it first even with -P, which only leaves out what nobody named
            sys.path[0 : 0 if sys.flags.safe_path else 1] = [os.path.abspath(script)]
            run_spec(spec)
            return
        if os.path.isdir(script):
            fail(f"can't find '__main__' module in {os.path.abspath(script)!r}", code=1)
        set_first_import_path(os.path.dirname(os.path.realpath(script)))
        code = read_script(script)
        loader = importlib.machinery.SourceFileLoader("__main__", script)
        run_code(code, file=os.path.abspath(script), loader=loader)

    return as_python(program)


def module_program(name: str, arguments: Sequence[str]) -> Program:
    """The program in the module `name`, or in `name.__main__` where `name` is a package."""

    def program() -> None:
        sys.argv = ["-m", *arguments]
        set_first_import_path(os.getcwd())
        spec = find_module(name)
        if spec.submodule_search_locations is not None:
            spec = find_module(f"{name}.__main__", why=f"{name!r} is a package")
        sys.argv[0] = spec.origin or name
        run_spec(spec)

    return as_python(program)


def set_first_import_path(directory: str) -> None:
    """Put `directory` where Python put the directory of `skate` itself."""
    if not sys.flags.safe_path:
        sys.path[0] = directory


def read_script(script: str) -> CodeType:
    """The compiled file; ends the process as Python does when it cannot be opened."""
    try:
        with io.open_code(os.path.abspath(script)) as file:
            source = file.read()
    except OSError as error:
        fail(f"can't open file {script!r}: {error}", code=2)
    return compile(source, os.path.abspath(script), "exec", dont_inherit=True)


def find_module(name: str, why: str = "") -> importlib.machinery.ModuleSpec:
    """Where a module lies; ends the process as Python does when there is none. `why` goes into the message."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        # the package around the module is missing, or what that package imports
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        spec = None
    if spec is None:
        fail(f"No module named {name}" + (f"; {why}" if why else ""), code=1)
    return spec


def run_spec(spec: importlib.machinery.ModuleSpec) -> None:
    """Run the module that a spec describes as `__main__`."""
    get_code = getattr(spec.loader, "get_code", None)
    code = get_code(spec.name) if get_code else None
    if code is None:
        fail(f"No code object available for {spec.name}", code=1)
    run_code(code, file=spec.origin, loader=spec.loader, spec=spec)


def run_code(
    code: CodeType,
    *,
    file: str | None,
    loader: object,
    spec: importlib.machinery.ModuleSpec | None = None,
) -> None:
    """Run compiled code as the module `__main__`, with what Python gives such a module."""
    main = types.ModuleType("__main__")
    names = {
        "__builtins__": sys.modules["builtins"],
        "__file__": file,
        "__cached__": spec.cached if spec else None,
        "__loader__": loader,
        "__package__": spec.parent if spec else None,
        "__spec__": spec,
    }
    main.__dict__.update(names)
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def as_python(program: Program) -> Program:
    """Let an uncaught error end the process in Python's own way, without this package's frames.

    Python itself prints it, calls the exit handlers and picks the exit code (for Ctrl-C, death by
    SIGINT); only the traceback that `sys.excepthook` gets, which may be the program's own, is cut.
    """

    def run() -> None:
        try:
            program()
        except SystemExit:
            raise
        except BaseException as error:
            show_without_own_frames(error)
            raise

    return run


def show_without_own_frames(error: BaseException) -> None:
    """Have `sys.excepthook` print this error without the frames of this package."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(OWN_FILES):
        trace = trace.tb_next
    hook = sys.excepthook

    def cut(kind: type[BaseException], value: BaseException, whole: TracebackType | None) -> None:
        if value is error:
            value.__traceback__ = whole = trace
        hook(kind, value, whole)

    sys.excepthook = cut


def fail(message: str, *, code: int) -> NoReturn:
    """End the process with a message and an exit code."""
    print(f"skate run: {message}", file=sys.stderr)
    sys.exit(code)
