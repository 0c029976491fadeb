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

from skate.compat import by_importer
from skate.compat.facade import SITE, namesake, own_file
from skate.compat.missing import no_module, point_out
from skate.core.config import load as load_config


def as_ray() -> None:
    """From here on `import ray` gives Skate: in this process, its workers, and Python programs that it starts.

    A Ray that is installed stays untouched, and unused. Harmless when called twice. Raises RuntimeError when the
    program has imported another `ray` already.

    When the engine `ray` is chosen from outside (SKATE_ENGINE or configuration), Ray's own modules still get Ray; with
    any other engine nobody does.
    """
    if by_importer.active() is not None:
        return
    if (os.environ.get("SKATE_ENGINE") or load_config().chosen_engine) == "ray":
        _refuse_another()
        by_importer.install()
        by_importer.tell_children(os.environ)
        return
    install()
    known = os.environ.get("PYTHONPATH", "")
    if SITE not in known.split(os.pathsep):
        os.environ["PYTHONPATH"] = SITE + (os.pathsep + known if known else "")


def install() -> None:
    """Answer imports of `ray` in this process alone; RuntimeError when another one has been imported."""
    _refuse_another()
    if not any(isinstance(finder, RayFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RayFinder())


def make_room() -> None:
    """The engine `ray` is about to import Ray: where `ray` is Skate, by our hook or another's, let Ray's code have Ray.

    Programs keep what they have, and go on getting Skate. Nothing happens where `ray` is Ray, or is not there.
    """
    if by_importer.active() is not None:
        return
    try:
        module = importlib.import_module("ray")
    except ImportError:
        return  # the engine says what it needs
    if not getattr(module, "ANSWERED_BY_SKATE", module.__name__ == "skate"):
        return
    by_importer.install()
    by_importer.tell_children(os.environ)
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, RayFinder)]


def _refuse_another() -> None:
    other = sys.modules.get("ray")
    if other is not None and not str(getattr(other, "__file__", "")).startswith(SITE):
        raise RuntimeError(
            f"{other!r} has been imported already, so Skate cannot answer for it: call skate.as_ray() earlier, or "
            "start the program with `skate run`."
        )


class RayFinder(importlib.abc.MetaPathFinder):
    """Finds `ray` and what is below it: a file of `SITE`, or else Skate's module of the same name."""

    worker_path = SITE
    """What workers shall have first on their import path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "ray":
            return None
        spec = _own(fullname) or _alias(fullname)
        if spec is None and by_importer.import_asks(sys._getframe(1)):
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
    found = own_file(fullname)
    if found is None:
        return None
    file, package = found
    places = [os.path.dirname(file)] if package else None
    return importlib.util.spec_from_file_location(
        fullname, loader=_Own(fullname, file), submodule_search_locations=places
    )


def _alias(fullname: str) -> importlib.machinery.ModuleSpec | None:
    found = namesake(fullname)
    if found is None:
        return None
    package = found.submodule_search_locations is not None
    spec = importlib.machinery.ModuleSpec(
        fullname, _Alias(f"skate.{fullname.partition('.')[2]}"), origin=found.origin, is_package=package
    )
    if package:
        spec.submodule_search_locations = list(found.submodule_search_locations or ())
    return spec
