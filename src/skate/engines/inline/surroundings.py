"""Runtime environments, as far as one process can have them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from skate.core.environment import local_path, unpack_environment
from skate.core.gpus import VISIBLE, shown
from skate.engines import setup as setups
from skate.exceptions import RuntimeEnvSetupError

Setup = dict[str, Any]
ALIEN = ("pip", "uv", "conda", "container", "image_uri", "py_executable")
"""Fields that ask for another interpreter, or other packages, than this process has."""


class Surroundings:
    """The environments of a session, each prepared once; their files go below the session's folder."""

    def __init__(self, folder: str) -> None:
        self._place = folder
        self._lock = threading.RLock()
        self._setups: dict[str, Setup | None] = {}
        self._fetched: dict[tuple[str, bool, str], str] = {}
        self._hooked: set[str] = set()

    def setup_of(self, environment: str) -> Setup | None:
        """What an environment asks of this process; RuntimeEnvSetupError when that cannot be."""
        if not environment:
            return None
        with self._lock:
            if environment not in self._setups:
                self._setups[environment] = self._prepare(unpack_environment(environment))
            return self._setups[environment]

    def _prepare(self, fields: dict[str, Any]) -> Setup:
        alien = [name for name in ALIEN if name in fields]
        if alien:
            raise RuntimeEnvSetupError(
                f"the engine 'inline' runs everything in this process, which cannot have a {alien[0]} of its own. Use "
                "init(engine='local'), or install the packages here and leave the field out."
            )
        try:
            places = {name: self._fetch(name, modules, fields) for name, modules in setups.fetched(fields)}
        except (OSError, ValueError) as problem:
            raise RuntimeEnvSetupError(f"{type(problem).__name__}: {problem}") from problem
        return setups.plan(fields, lambda name: places.get(name) or local_path(name))

    def _fetch(self, name: str, modules: bool, fields: dict[str, Any]) -> str:
        import tarfile
        import zipfile

        from skate.core.packages import fetch

        excludes = fields.get("excludes") or []
        known = (name, modules, repr(excludes))
        if known not in self._fetched:
            target = os.path.join(self._place, f"files-{len(self._fetched)}-{os.urandom(4).hex()}")
            try:
                self._fetched[known] = fetch(name, target, excludes, modules=modules)
            except (zipfile.BadZipFile, tarfile.TarError) as problem:
                raise ValueError(f"{name}: {problem}") from problem
        return self._fetched[known]

    def before_first_call(self, environment: str) -> Setup | None:
        """`setup_of`, with the setup hook called: once in this session."""
        setup = self.setup_of(environment)
        if setup is None or not setup["hook"]:
            return setup
        with self._lock:
            known = setup["pickle"] or setup["hook"]
            if known not in self._hooked:
                with applied(setup, ()):
                    problem = setups.run_hook(setup)
                if problem:
                    raise RuntimeEnvSetupError(problem)
                self._hooked.add(known)
        return setup


@contextlib.contextmanager
def applied(setup: Setup | None, gpus: tuple[int | str, ...]) -> Iterator[None]:
    """Have the variables, the search path and the directory of a runtime environment in force.

    They belong to the process: other threads see them too, for that long.
    """
    devices = shown(gpus, os.environ)
    if setup is None and devices is None:
        yield
        return
    variables = setups.variables(setup["env_vars"]) if setup is not None else {}
    folder = setup["folder"] if setup is not None and os.path.isdir(setup["folder"]) else ""
    path = [entry for entry in setup["path"] if entry not in sys.path] if setup is not None else []
    if devices is not None:
        variables = {**variables, VISIBLE: devices}
    before = {name: os.environ.get(name) for name in variables}
    place = os.getcwd() if folder else ""
    os.environ.update(variables)
    sys.path[:0] = path
    if folder:
        os.chdir(folder)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for entry in path:
            with contextlib.suppress(ValueError):  # the call may have removed it itself
                sys.path.remove(entry)
        if place:
            os.chdir(place)
