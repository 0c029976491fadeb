"""The module `ray` of programs that run on Skate: Skate's public names, and what only Ray has.

`ray.x` is Skate's module `skate.x`, one object under two names, unless there is a file for it beside this one.
"""

import importlib as _importlib
import logging as _logging
import os as _os
import sys as _sys

if __name__ == "ray":  # else Ray itself has that name, and this module another
    _SITE = _os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))
    if _SITE not in _sys.path:
        # after the program's own directory: processes that copy this path find `ray` where this one does
        _sys.path.insert(0 if _sys.flags.safe_path else 1, _SITE)
    try:
        import skate  # noqa: F401
    except ModuleNotFoundError as _error:
        if _error.name != "skate":
            raise
        # a Python program that one on Skate has started, without the same import path
        _sys.path.append(_os.path.dirname(_os.path.dirname(_os.path.dirname(_SITE))))
    from skate.compat import hook as _hook

    _hook.install()
else:  # it came with a pickle, maybe to a process that has nobody who decides yet
    from skate.compat import by_importer as _by_importer

    _by_importer.install()

import skate as _skate
from ray._raylet import ClusterID as ClusterID
from ray._raylet import Language as Language
from ray._version import commit as __commit__  # noqa: F401
from ray._version import version as __version__
from skate.compat import facade as _facade
from skate.compat import missing as _missing

SCRIPT_MODE, WORKER_MODE, SPILL_WORKER_MODE, RESTORE_WORKER_MODE = 0, 1, 2, 3
ANSWERED_BY_SKATE = True
logger = _logging.getLogger("ray")

_PUBLIC = [name for name in _skate.__all__ if name not in ("__version__", "as_ray")]
globals().update({name: getattr(_skate, name) for name in _PUBLIC})
__all__ = ["SCRIPT_MODE", "WORKER_MODE", "Language", "__version__", *_PUBLIC]

# Names that Ray keeps for old programs, and the modules that they mean.
_OLD = {"worker": "_private.worker", "state": "_private.state", "ray_constants": "_private.ray_constants"}


def _global_worker(context: object) -> object:
    """Ray's context of a call has the worker that it runs in."""
    return _importlib.import_module("ray._private.worker").global_worker


_skate.runtime_context.RuntimeContext.worker = property(_global_worker)  # type: ignore[attr-defined]


def __getattr__(name: str) -> object:
    if not name.startswith("__"):
        module = f"ray.{_OLD.get(name, name)}"
        try:
            return _importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
        if name not in _facade.SKATES_OWN and hasattr(_skate, name):
            return getattr(_skate, name)
    raise _missing.no_attribute("ray", name, _sys.modules[__name__])


def __dir__() -> list[str]:
    return sorted(({*globals(), *dir(_skate)} - _facade.SKATES_OWN) | {"__name__"})
