"""A zygote that another Python runs than the driver's: that of an environment with packages of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from skate.engines.local import boot, container
from skate.engines.local.arena import Arena
from skate.engines.local.boot import Boot
from skate.engines.local.pool import Pool
from skate.engines.local.recipes import Recipe

PATIENCE = 5.0
"""Seconds that a zygote has to end before it is killed."""
LAUNCHER = "launcher.py"
KEEPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keeper.py")


class Nursery:
    """The zygote of an interpreter, from its launch on; OSError when that cannot be run at all."""

    def __init__(self, recipe: Recipe, said: Mapping[str, Any], arena: Arena, mounts: Sequence[str]) -> None:
        assert recipe.interpreter is not None
        self.recipe = recipe
        self.members: set[int] = set()
        """Clients that it was asked for, and that have not ended."""
        self.born = False
        """It has been heard of."""
        self.why = ""
        """Why we ended it ourselves."""
        self.words = ""
        """What it wrote last, once it has ended."""
        self.quiet_since = time.monotonic()
        self.hatch: container.Hatch | None = None
        self.errors = os.memfd_create("skate-zygote-errors", os.MFD_CLOEXEC)
        control, theirs = boot.sockets()
        try:
            with theirs:
                descriptors = {1: self.errors, 2: self.errors}
                if recipe.interpreter.image:
                    folder = said[recipe.interpreter.key]["modules"]
                    self.hatch = container.Hatch(folder, [os.dup(theirs.fileno()), os.dup(arena.fd)])
                else:
                    descriptors |= {3: theirs.fileno(), 4: arena.fd}
                self.name = " ".join(recipe.interpreter.command) or recipe.interpreter.key
                command, variables = _command(recipe, said, arena.capacity, self.hatch, mounts)
                pid = boot.spawn(command, variables, descriptors)
        except BaseException:
            control.close()
            self._close_files()
            raise
        self.pool = Pool(Boot(pid, control, arena.fd, arena.capacity))

    def kill(self, why: str) -> None:
        """End it at once, with all that it has started; its socket then tells that it is gone."""
        self.why = self.why or why
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pool.pid, signal.SIGKILL)

    def _last_words(self) -> str:
        """What it wrote on its standard error."""
        size = os.fstat(self.errors).st_size
        return os.pread(self.errors, 8192, max(0, size - 8192)).decode(errors="replace").strip()

    def close(self) -> None:
        """End it, with its workers; returns when it is gone."""
        if self.pool.closed:
            return
        if not self.born:
            self.kill("")  # what runs there may never become a zygote
        else:
            # A zygote ends with its socket. What runs it (uv run, docker run) may not.
            self.pool.control.close()
            _wait(self.pool.pid, PATIENCE)
            self.kill("")
        self.pool.close()
        self.words = self._last_words()
        self._close_files()

    def _close_files(self) -> None:
        os.close(self.errors)
        if self.hatch is not None and self.hatch.descriptors:
            self.hatch.close()


def _wait(pid: int, seconds: float) -> None:
    try:
        gone = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with contextlib.closing(select.epoll()) as waiting:
        waiting.register(gone, select.EPOLLIN)
        waiting.poll(seconds)
    os.close(gone)


def _command(
    recipe: Recipe, said: Mapping[str, Any], capacity: int, hatch: container.Hatch | None, mounts: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """What runs the zygote, and its variables."""
    interpreter = recipe.interpreter
    assert interpreter is not None
    made = said[interpreter.need.key] if interpreter.need is not None else {}
    variables = boot.variables()
    before, behind = recipe.path
    here = os.path.dirname(os.path.abspath(__file__))
    if hatch is not None:
        modules = os.path.dirname(hatch.path)
        before, behind, here = [], [modules], os.path.join(modules, "skate", "engines", "local")
        chosen = {name: variables[name] for name in ("OMP_NUM_THREADS", boot.OWN_THREADS) if name in variables}
        command = container.command(
            made["tool"], interpreter.image, interpreter.run_options, [modules, *mounts], chosen
        )
    else:
        command = list(made.get("python") or interpreter.command)
    if "prefix" in made:
        variables["PATH"] = os.path.join(made["prefix"], "bin") + os.pathsep + variables.get("PATH", os.defpath)
        variables["CONDA_PREFIX" if interpreter.key.startswith(("conda", "named")) else "VIRTUAL_ENV"] = made["prefix"]
    given = {
        "version": sys.version_info[:2],
        "before": before,
        "behind": behind,
        "driver": os.getpid(),
        "capacity": capacity,
        "socket": hatch.path if hatch is not None else "",
    }
    launch = [*command, os.path.join(here, LAUNCHER), json.dumps(given)]
    if "python" not in made:  # a command that may do anything before it becomes a zygote, or never become one
        launch = [sys.executable, "-I", "-S", KEEPER, str(os.getpid()), *launch]
    return launch, variables
