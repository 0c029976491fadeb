"""A test that leaves something behind fails, and names what it left."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

PATIENCE = 20.0  # seconds: how long what is on its way out may take, on a busy machine

with contextlib.suppress(ImportError):  # Ray's environment has no hypothesis, and its tests need none
    from hypothesis import HealthCheck, settings

    # No deadline: the machine may be busy. No database: what a run finds is printed, and nothing is left in the tree.
    # The same examples in each run, or a commit could fail for what it has nothing to do with; SKATE_EXPLORE=1 looks
    # for others.
    settings.register_profile(
        "skate",
        deadline=None,
        database=None,
        print_blob=True,
        derandomize=not os.environ.get("SKATE_EXPLORE"),
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("skate")

for _name in ("no_proxy", "NO_PROXY"):  # the servers that tests ask are their own, whatever this machine goes out by
    os.environ[_name] = ",".join(filter(None, ("127.0.0.1,localhost", os.environ.get(_name))))

for _signal, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    # A shell has what it puts in the background ignore them, and `nohup` the last; programs that tests start inherit
    # that. Tests press Ctrl-C and close terminals, and what they start must hear it.
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _usual)


def open_files() -> dict[str, str]:
    """Descriptor -> what it is open on."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def child_processes() -> dict[str, str]:
    """Every process below this one, zombies too: an unreaped child is a leak."""
    found = {}
    for child in psutil.Process().children(recursive=True):
        try:
            found[str(child.pid)] = f"{child.name()}, {child.status()}"
        except psutil.NoSuchProcess:
            continue
    return found


def threads() -> dict[str, str]:
    """Threads that would keep the interpreter alive, and Skate's own even if they would not."""
    return {
        str(thread.ident): thread.name
        for thread in threading.enumerate()
        if not thread.daemon or thread.name.startswith("skate")
    }


def session_directories() -> dict[str, str]:
    """The session directories of this process."""
    temporary = Path(tempfile.gettempdir())
    own = str(os.getpid())
    return {
        str(path): "directory" for path in temporary.glob("skate-*") if own in path.name.replace("_", "-").split("-")
    }


PROBES: dict[str, Callable[[], dict[str, str]]] = {
    "process": child_processes,
    "file descriptor": open_files,
    "thread": threads,
    "session directory": session_directories,
}


def survey() -> dict[str, dict[str, str]]:
    return {kind: probe() for kind, probe in PROBES.items()}


def leaked_since(before: dict[str, dict[str, str]]) -> list[str]:
    def is_new(kind: str, name: str, what: str) -> bool:
        # a descriptor's number is used again, a process changes its status
        return name not in before[kind] or (kind != "process" and before[kind][name] != what)

    return [
        f"{kind} {name}: {what}"
        for kind, found in survey().items()
        for name, what in found.items()
        if is_new(kind, name, what)
    ]


def leaks_after_patience(before: dict[str, dict[str, str]]) -> list[str]:
    deadline = time.monotonic() + PATIENCE
    while (leaks := leaked_since(before)) and time.monotonic() < deadline:
        gc.collect()  # a circle of references may hold the last view of an object's memory
        time.sleep(0.02)
    return leaks


def session_is_up() -> bool:
    # Asked of the module that holds the engine, if it is loaded: tests of the parts that know
    # nothing of engines shall not load them here.
    engine = sys.modules.get("skate.core.engine")
    return engine is not None and engine.running() is not None


def check_for_leaks(before: dict[str, dict[str, str]]) -> None:
    if session_is_up():
        import skate

        skate.shutdown()
    if leaks := leaks_after_patience(before):
        pytest.fail("left behind:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.fixture(autouse=True, scope="module")
def no_leaks_from_module() -> Iterator[None]:
    """What a fixture of the module starts, the module ends."""
    before = survey()
    yield
    check_for_leaks(before)


@pytest.fixture(autouse=True)
def no_leaks(no_leaks_from_module: None) -> Iterator[None]:
    """A test ends what it starts; a session that is still up is shut down here first.

    A session that a fixture of the module holds is left alone: its growth is the module's affair.
    """
    if session_is_up():
        yield
        return
    before = survey()
    yield
    check_for_leaks(before)
