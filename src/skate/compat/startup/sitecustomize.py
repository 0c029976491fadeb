"""Run by Python as it starts, where this directory is first on PYTHONPATH: imports of `ray` are decided by who imports.

Ray's workers and daemons and the programs that they start get it by `by_importer.tell_children`. A ``sitecustomize``
that was there before is run as ever; a hook for `ray` of its own comes behind ours.
"""

import importlib.util as _util
import os as _os
import sys as _sys
from importlib.machinery import PathFinder as _PathFinder

_HERE = _os.path.dirname(_os.path.abspath(__file__))
_NAME = "skate.compat.by_importer"


def _run_the_other() -> None:
    rest = [entry for entry in _sys.path if _os.path.abspath(entry) != _HERE]
    spec = _PathFinder.find_spec("sitecustomize", rest)
    if spec is None or spec.loader is None:
        return
    module = _util.module_from_spec(spec)
    _sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def _install() -> None:
    if _NAME not in _sys.modules:  # by its file: the packages around it import much, and need not be on the path
        spec = _util.spec_from_file_location(_NAME, _os.path.join(_os.path.dirname(_HERE), "by_importer.py"))
        assert spec is not None and spec.loader is not None
        module = _util.module_from_spec(spec)
        _sys.modules[_NAME] = module
        spec.loader.exec_module(module)
    _sys.modules[_NAME].install()


try:
    _run_the_other()
finally:
    _install()
