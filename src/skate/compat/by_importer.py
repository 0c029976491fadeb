"""Two packages called `ray` in one process: Ray itself for Ray's own code, Skate for everybody else.

On the engine `ray` a program for Ray needs both. Ray's modules keep their names in ``sys.modules``: its compiled core,
pickles, and its imports inside functions find them there. What an import statement of anybody else gives is decided by
who imports: ``builtins.__import__``, `importlib.import_module` and `importlib.util.find_spec` look at the module that
calls them, and hand on ``ray.x`` of others as Skate's module of that name.

Loaded by ``startup/sitecustomize.py`` before anything else, so it imports the standard library alone.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType, ModuleType
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
SITE = os.path.join(_HERE, "site")
STARTUP = os.path.join(_HERE, "startup")
"""First on PYTHONPATH it makes a Python process do, as it starts, what `install` does."""
ENGINE = "skate.engines.ray"
BY_REFERENCE = frozenset({"pickle", "cloudpickle.cloudpickle"})
"""Modules that import a name only to look it up in ``sys.modules``."""
COMMANDS = "ray.scripts"
"""What the program ``ray`` imports, which is nobody's module; Skate has none of that name."""

_import = builtins.__import__
_import_module = importlib.import_module
_find_spec = importlib.util.find_spec


_finder: RayItself | None = None
_shown: Any = None


class RayItself:
    """Finds Ray where it is installed. First in ``sys.meta_path``, so that no other finder answers for it."""

    worker_hook = "skate.compat.by_importer.in_worker"
    """What workers that do not start in our environment shall call first."""

    def __init__(self) -> None:
        self.places: dict[str, bool] = {}
        """What `has_file` has said."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _is_ray(fullname):
            return None
        spec = installed() if fullname == "ray" else PathFinder.find_spec(fullname, path)
        if spec is None and import_asks(sys._getframe(1)):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return spec

    def has_file(self, file: str) -> bool:
        """Whether a file lies in Ray's package: its processes are started by files, and import some by other names."""
        known = self.places.get(file)
        if known is None:
            spec = installed()
            top = os.path.realpath(os.path.dirname(spec.origin or "")) if spec is not None else ""
            known = self.places[file] = bool(top) and os.path.realpath(file).startswith(top + os.sep)
        return known


def install() -> None:
    """From here on the importer decides which `ray` it gets, in this process; harmless when called twice."""
    global _finder
    if _finder is not None:
        return
    _finder = RayItself()
    builtins.__import__ = by_importer
    importlib.import_module = _import_module_by_importer
    importlib.util.find_spec = _find_spec_by_importer
    sys.meta_path.insert(0, _finder)
    _set_aside()


def active() -> RayItself | None:
    """The finder that `install` has put there; None before."""
    return _finder


def tell_children(environment: MutableMapping[str, str]) -> None:
    """Have Python processes that get this environment do the same as they start, Ray's workers among them."""
    known = environment.get("PYTHONPATH", "").split(os.pathsep)
    rest = [entry for entry in known if entry and entry not in (SITE, STARTUP)]
    environment["PYTHONPATH"] = os.pathsep.join([STARTUP, *rest])


def in_worker() -> None:
    """`install` and `tell_children`, for a process that was started in another environment."""
    install()
    tell_children(os.environ)


def installed() -> ModuleSpec | None:
    """Where Ray itself is installed; None when it is not."""
    spec = PathFinder.find_spec("ray", [entry for entry in sys.path if os.path.normpath(entry) != SITE])
    return spec if spec is not None and spec.origin is not None else None


def import_asks(frame: FrameType) -> bool:
    """Whether an import asks the finder that `frame` has called, and not `find_spec`, which wants None."""
    caller: FrameType | None = frame
    while caller is not None and caller.f_code.co_name == "_find_spec" and caller.f_back is not None:
        caller = caller.f_back
    return caller is not None and caller.f_code.co_name == "_find_and_load_unlocked"


def by_importer(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """``builtins.__import__``, which gives Skate to whoever does not mean Ray itself."""
    if level or name[:3] != "ray" or not _is_ray(name):  # every import statement comes by here
        return _import(name, globals, locals, fromlist, level)
    # C code looks the result up in `sys.modules`, and says so by an empty list
    by_c = fromlist.__class__ is list and not fromlist
    frame = sys._getframe(1)
    if by_c or _means_ray(name, globals if globals is not None else frame.f_globals, frame):
        return _import(name, globals, locals, fromlist, level)
    facade = _facade()
    module: ModuleType = facade.load(name)
    for part in fromlist or ():
        if part != "*" and not hasattr(module, part) and facade.target(f"{name}.{part}"):
            facade.load(f"{name}.{part}")
    top: ModuleType = facade.load("ray")
    return module if fromlist else top


def _import_module_by_importer(name: str, package: str | None = None) -> ModuleType:
    """`importlib.import_module`, likewise."""
    if _is_ray(name) and not _means_ray(name, (frame := sys._getframe(1)).f_globals, frame):
        module: ModuleType = _facade().load(name)
        return module
    return _import_module(name, package)


def _find_spec_by_importer(name: str, package: str | None = None) -> ModuleSpec | None:
    """`importlib.util.find_spec`, likewise."""
    if _finder is None or not _is_ray(name):
        return _find_spec(name, package)
    if not _means_ray(name, (frame := sys._getframe(1)).f_globals, frame):
        target = _facade().target(name)
        return _find_spec(target) if target else None
    if name in sys.modules:
        return sys.modules[name].__spec__
    above = name.rpartition(".")[0]
    return _finder.find_spec(name, _import_module(above).__path__ if above else None)  # and no other finder


def _is_ray(name: str) -> bool:
    return name[:3] == "ray" and name[3:4] in ("", ".")


def _means_ray(name: str, scope: Mapping[str, object], frame: FrameType | None) -> bool:
    """Whether the module with these globals, of that `frame`, gets Ray itself.

    The standard library imports for whoever has called it.
    """
    while True:
        importer = scope.get("__name__")
        if not isinstance(importer, str):
            return False
        if _is_ray(importer) or importer.startswith(ENGINE) or importer in BY_REFERENCE or name.startswith(COMMANDS):
            return True
        if importer.partition(".")[0] not in sys.stdlib_module_names and importer != __name__:
            break
        frame = frame.f_back if frame is not None else None
        if frame is None:
            return False
        scope = frame.f_globals
    file = scope.get("__file__")
    return isinstance(file, str) and _finder is not None and _finder.has_file(file)


def _facade() -> Any:
    """`skate.compat.facade`, loaded when the first program's import needs it."""
    global _shown
    if _shown is None:
        try:
            import skate  # noqa: F401  is it there?
        except ModuleNotFoundError as error:
            if error.name != "skate":
                raise
            # a program that has our environment, but not our path
            sys.path.append(os.path.dirname(os.path.dirname(_HERE)))
        from skate.compat import facade as _shown
    return _shown


def _set_aside() -> None:
    """Take what answered for `ray` so far out of Ray's names; modules that have no other name get one."""
    top = sys.modules.get("ray")
    if top is not None and top.__name__ == "ray" and not _is_ours(top):
        return  # Ray itself
    for name in [name for name in list(sys.modules) if _is_ray(name)]:
        module = sys.modules.pop(name)
        if module.__name__ == name and _is_ours(module):
            module.__name__ = renamed = f"skate.compat.site.{name}"
            package = "__path__" in vars(module)
            module.__package__ = renamed if package else renamed.rpartition(".")[0]
            module.__spec__ = importlib.util.spec_from_file_location(
                renamed, module.__file__, submodule_search_locations=list(module.__path__) if package else None
            )
            sys.modules[renamed] = module


def _is_ours(module: ModuleType) -> bool:
    return str(getattr(module, "__file__", "")).startswith(SITE)
