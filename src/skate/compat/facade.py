"""Which module of Skate stands for `ray` and for `ray.x`: a file of `SITE`, or Skate's module of the same name."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

from skate.compat.by_importer import SITE as SITE
from skate.compat.missing import no_module, point_out

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

_loaded: dict[str, ModuleType] = {}


def own_file(fullname: str) -> tuple[str, bool] | None:
    """The file of `SITE` for `ray.x`, and whether it is a package's; None when there is none."""
    place = os.path.join(SITE, *fullname.split("."))
    inside = os.path.join(place, "__init__.py")
    if os.path.isfile(inside):
        return inside, True
    return (f"{place}.py", False) if os.path.isfile(f"{place}.py") else None


def namesake(fullname: str) -> importlib.machinery.ModuleSpec | None:
    """Skate's module of the same name; None when there is none."""
    below = fullname.partition(".")[2]
    if below.partition(".")[0] in SKATES_OWN:
        return None
    try:
        return importlib.util.find_spec(f"skate.{below}")
    except ModuleNotFoundError as error:
        if error.name is None or not f"skate.{below}.".startswith(f"{error.name}."):
            raise  # what the package around it imports is missing
        return None


def target(fullname: str) -> str | None:
    """The name of the module that stands for `ray.x`, where `ray` is not ours to give; None when there is none."""
    if own_file(fullname) is not None:
        return f"skate.compat.site.{fullname}"
    return None if namesake(fullname) is None else f"skate.{fullname.partition('.')[2]}"


def load(fullname: str) -> ModuleType:
    """The module that stands for `ray.x`; the packages around it are imported, too.

    Raises ModuleNotFoundError that names `ray.x` and the page that lists what there is.
    """
    known = _loaded.get(fullname)
    if known is not None:
        return known
    above = fullname.rpartition(".")[0]
    if above:
        load(above)
    name = target(fullname)
    if name is None:
        raise no_module(fullname)
    module = importlib.import_module(name)
    if above:  # `ray` looks after its names itself
        point_out(module, fullname)
    _loaded[fullname] = module
    return module
