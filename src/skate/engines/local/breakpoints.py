"""`breakpoint()` in a worker: which debugger it goes to, and when none. The debuggers themselves load when one is hit.

`pdb.set_trace` and `pdb.post_mortem` lead here too, for a worker has no terminal: they are replaced when somebody
imports `pdb`.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import sys
import threading
from collections.abc import Sequence
from types import FrameType, ModuleType, TracebackType
from typing import Any

from skate.core import engine as engines
from skate.engines.local.mailbox import running
from skate.engines.local.worker_client import WorkerClient

_RPDB = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "util", "rpdb.py")
_port = threading.Lock()
"""Held while debugpy begins to listen."""
_listening: list[int] = []
"""The port on which debugpy listens, once it does."""


def install() -> None:
    """Have breakpoints of this process wait for a debugger."""
    sys.breakpointhook = hook
    if "pdb" in sys.modules:
        _take_over(sys.modules["pdb"])
    else:
        sys.meta_path.insert(0, _PdbFinder())


def hook(*args: Any, **kwargs: Any) -> Any:
    """As `sys.breakpointhook`: PYTHONBREAKPOINT decides, as in any program."""
    chosen = os.environ.get("PYTHONBREAKPOINT")
    if chosen and chosen not in ("pdb.set_trace", "skate.util.rpdb.set_trace", "ray.util.rpdb.set_trace"):
        return sys.__breakpointhook__(*args, **kwargs)
    return stop(_caller(), kwargs.get("header") or "")


def stop(frame: FrameType, header: str = "") -> None:
    """Stop at a frame until somebody lets it go on."""
    client = _client()
    if client is None:
        import pdb

        pdb.Pdb().set_trace(frame)
        return
    which = _debugger()
    if which == "none":
        return
    if which == "debugpy" and _stop_for_debugpy(client, frame):
        return
    from skate.engines.local import debugger

    debugger.stop(client, frame, header)


def post_mortem(error: BaseException, name: str, trace: TracebackType | None) -> BaseException:
    """Wait for a debugger at the frame of an error that is about to fail the call `name`.

    Returns the error that the call fails with: another one when it was cancelled meanwhile.
    """
    client = _client()
    if client is None or trace is None:
        return error
    from skate.engines.local import debugger

    return debugger.post_mortem(client, error, name, trace)


def _client() -> WorkerClient | None:
    """This worker's; None in a process that it forked."""
    engine = engines.running()
    return engine if isinstance(engine, WorkerClient) else None


def _debugger() -> str:
    """`pdb`, `debugpy` or `none`, as SKATE_DEBUGGER says, or RAY_DEBUG: 1 means debugpy there, legacy pdb, 0 none."""
    chosen = os.environ.get("SKATE_DEBUGGER")
    if chosen:
        return chosen if chosen in ("pdb", "debugpy") else "pdb"
    return {"1": "debugpy", "0": "none"}.get(os.environ.get("RAY_DEBUG", ""), "pdb")


def _caller() -> FrameType:
    """Whoever called `breakpoint` or a function that stands for it."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == _RPDB and frame.f_back is not None:
        frame = frame.f_back
    return frame


class _PdbFinder:
    """Changes `pdb` when it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Python's own spec, with a loader that changes what it has loaded; None for another module."""
        if name != "pdb":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def load(module: ModuleType) -> None:
            execute(module)
            _take_over(module)

        spec.loader.exec_module = load  # type: ignore[method-assign]
        return spec


def _take_over(module: Any) -> None:
    native = module.set_trace, module.post_mortem

    def set_trace(*args: Any, header: str | None = None, **kwargs: Any) -> None:
        """As `pdb.set_trace`, for a worker: waits for `skate debug`."""
        if _client() is None:
            native[0](*args, header=header, **kwargs)
        else:
            stop(_caller(), header or "")

    def look(t: Any = None) -> None:
        """As `pdb.post_mortem`, for a worker: waits for `skate debug`."""
        error = t if isinstance(t, BaseException) else sys.exc_info()[1]
        trace = t if isinstance(t, TracebackType) else error.__traceback__ if error is not None else None
        if trace is None:
            raise ValueError("A valid traceback must be passed if no exception is being handled")
        if _client() is None:
            native[1](trace)
            return
        told = error if error is not None else RuntimeError("pdb.post_mortem")
        outcome = post_mortem(told, "", trace)
        if outcome is not told:
            raise outcome

    module.set_trace, module.post_mortem = set_trace, look


def name_of_call(client: WorkerClient) -> tuple[int, str]:
    """The task that the calling code belongs to, and its name."""
    here = running.get() or client.current
    return here.task, client.context().task_name if here.task else "no task"


def say(text: str) -> None:
    """Tell the user, past whatever the program has made of its streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or replaced by something else
            stream.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"skate: {text}\n".encode())


def _stop_for_debugpy(client: WorkerClient, frame: FrameType) -> bool:
    """Stop for an editor that attaches through debugpy; False when that is not installed."""
    try:
        import debugpy
    except ImportError:
        say("debugpy is not installed here (pip install 'skate-ray[debug]'): this breakpoint is one of `skate debug`")
        return False
    with _port:
        if not _listening:
            _, port = debugpy.listen(("127.0.0.1", 0))
            _listening.append(port)
            sys.breakpointhook = hook  # debugpy has put its own there, which waits for nobody
    if not debugpy.is_client_connected():
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        _, name = name_of_call(client)
        say(f"{name} (pid {os.getpid()}) waits at {place} for a debugger to attach to 127.0.0.1:{_listening[0]}")
        debugpy.wait_for_client()
    import pydevd  # debugpy brings it along, out of sight until it listens

    pydevd.settrace(suspend=True, trace_only_current_thread=True, patch_multiprocessing=False, stop_at_frame=frame)
    return True
