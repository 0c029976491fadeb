"""`import ray` and `import ray.x` answered by Skate: in this process, in workers, in Python programs started from it.

`RayFinder` stands first in ``sys.meta_path``, so it also answers where a real Ray is installed, which it leaves alone.
Other processes find `ray` in the directory `SITE` on their import path, and its ``__init__`` installs the finder there.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType

from skate.compat.missing import no_module, point_out
from skate.core.config import load as load_config

SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")
SKATES_OWN = frozenset(
    {
        "__main__",
        "_version",
        "actor_handle",
        "api",
        "as_ray",
        "cli",
        "cluster_file",
        "compat",
        "core",
        "engines",
        "launcher",
        "session",
        "testing",
        "typed",
    }
)
"""Modules at Skate's top that Ray does not have, or has with another content: they have no `ray.` name."""


def as_ray() -> None:
    """From here on `import ray` gives Skate: in this process, its workers, and Python programs that it starts.

    A Ray that is installed stays untouched, and unused. Harmless when called twice. Raises RuntimeError when the
    program has imported another `ray` already.

    Does nothing when the engine `ray` is chosen from outside (SKATE_ENGINE or configuration): that engine is the real
    Ray, and a program for Ray runs there as it is.
    """
    if (os.environ.get("SKATE_ENGINE") or load_config().chosen_engine) == "ray":
        return
    install()
    known = os.environ.get("PYTHONPATH", "")
    if SITE not in known.split(os.pathsep):
        os.environ["PYTHONPATH"] = SITE + (os.pathsep + known if known else "")


def install() -> None:
    """Answer imports of `ray` in this process alone; RuntimeError when another one has been imported."""
    other = sys.modules.get("ray")
    if other is not None and not str(getattr(other, "__file__", "")).startswith(SITE):
        raise RuntimeError(
            f"{other!r} has been imported already, so Skate cannot answer for it: call skate.as_ray() earlier, or "
            "start the program with `skate run`."
        )
    if not any(isinstance(finder, RayFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RayFinder())


class RayFinder(importlib.abc.MetaPathFinder):
    """Finds `ray` and what is below it: a file of `SITE`, or else Skate's module of the same name."""

    worker_path = SITE
    """What workers shall have first on their import path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        top, _, below = fullname.partition(".")
        if top != "ray":
            return None
        spec = _own(fullname) or (_alias(fullname, below) if below.partition(".")[0] not in SKATES_OWN else None)
        if spec is None and _is_import():
            raise no_module(fullname)
        return spec

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterator[importlib.metadata.Distribution]:
        """What `importlib.metadata` asks finders: the distribution ``ray``."""
        context = context or importlib.metadata.DistributionFinder.Context()
        # where SITE is on the path, Python's own finder answers
        if context.name in (None, "ray") and context.path == sys.path and SITE not in sys.path:
            ours = importlib.metadata.DistributionFinder.Context(name="ray", path=[SITE])
            yield from importlib.metadata.MetadataPathFinder.find_distributions(ours)


class _Alias(importlib.abc.Loader):
    """Gives Skate's module under Ray's name: one module object with two names."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.spec: importlib.machinery.ModuleSpec | None = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.target)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        known_as = module.__spec__.name if module.__spec__ is not None else self.target
        module.__spec__ = self.spec  # the import system has put the alias's there
        point_out(module, known_as)


class _Own(importlib.machinery.SourceFileLoader):
    """Loads a file of `SITE`."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if module.__name__ != "ray":  # which looks after its names itself
            point_out(module, module.__name__)


def _own(fullname: str) -> importlib.machinery.ModuleSpec | None:
    place = os.path.join(SITE, *fullname.split("."))
    inside = os.path.join(place, "__init__.py")
    package = os.path.isfile(inside)
    file = inside if package else f"{place}.py"
    if not package and not os.path.isfile(file):
        return None
    return importlib.util.spec_from_file_location(
        fullname, loader=_Own(fullname, file), submodule_search_locations=[place] if package else None
    )


def _alias(fullname: str, below: str) -> importlib.machinery.ModuleSpec | None:
    target = f"skate.{below}"
    try:
        found = importlib.util.find_spec(target)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{target}.".startswith(f"{error.name}."):
            raise  # what the package around it imports is missing
        found = None
    if found is None:
        return None
    package = found.submodule_search_locations is not None
    spec = importlib.machinery.ModuleSpec(fullname, _Alias(target), origin=found.origin, is_package=package)
    if package:
        spec.submodule_search_locations = list(found.submodule_search_locations or ())
    return spec


def _is_import() -> bool:
    """Whether an import asks, and not `importlib.util.find_spec`, which wants None for what is missing."""
    frame = sys._getframe(2)  # the one who called RayFinder.find_spec
    while frame.f_back is not None and frame.f_code.co_name == "_find_spec":
        frame = frame.f_back
    return frame.f_code.co_name == "_find_and_load_unlocked"
