"""What to do about a library that the workers of a cluster do not have."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import site
import sys

_MISSING = re.compile(r"No module named '([\w.]+)'")


def with_advice(text: str) -> str:
    """The text of an error from a worker; where a library was missing there, with its name and how to send it."""
    missing = _MISSING.search(text)
    return f"{text.rstrip()}\n{_advice(missing[1])}" if missing is not None else text


def _advice(module: str) -> str:
    top = module.partition(".")[0]
    spec = _found(top)
    if spec is None:
        return (
            f"The workers cannot import {module!r}, nor can this program. A package: "
            f"runtime_env={{'pip': [{top!r}]}} in init() or options(); or install it on all nodes."
        )
    path = _place(spec)
    if path and not _is_installed(path):
        ship = f"send it along: init(runtime_env={{'py_modules': [{path!r}]}})"
        return f"The workers cannot import {module!r}, which this program finds at {path}; {ship}."
    return (
        f"The workers cannot import {module!r}, which this program can. Send it along: "
        f"init(runtime_env={{'pip': [{_requirement(top)!r}]}}), or install it on all nodes."
    )


def _found(top: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except (ValueError, ImportError):  # a module that was put in place by hand has no spec
        return getattr(sys.modules.get(top), "__spec__", None)


def _place(spec: importlib.machinery.ModuleSpec) -> str:
    """The directory of a package, the file of a module; empty: it is built in."""
    if spec.submodule_search_locations:
        return os.path.abspath(next(iter(spec.submodule_search_locations)))
    return os.path.abspath(spec.origin) if spec.has_location and spec.origin else ""


def _is_installed(path: str) -> bool:
    """Whether pip put it there, as far as one can tell by where it is."""
    places = [*site.getsitepackages(), site.getusersitepackages()]
    return any(path.startswith(place + os.sep) for place in places) or path.startswith(os.path.dirname(os.__file__))


def _requirement(top: str) -> str:
    """The distribution that has a module, with its version, as pip takes it; the module's own name if none has."""
    for name in importlib.metadata.packages_distributions().get(top, ()):
        return f"{name}=={importlib.metadata.version(name)}"
    return top
