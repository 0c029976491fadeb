"""Errors for names of Ray that Skate lacks: they name it, and say where to look."""

from __future__ import annotations

import importlib
import opcode
import sys
from types import FrameType, ModuleType

_PAGE = "docs/compatibility.md lists what Skate has of Ray"
_IMPORT_FROM = opcode.opmap["IMPORT_FROM"]


def no_module(name: str) -> ModuleNotFoundError:
    """The error of ``import ray.x`` for a module that Skate does not have."""
    return ModuleNotFoundError(f"No module named {name!r}: {_PAGE}.", name=name)


def no_attribute(module: str, name: str, owner: object) -> Exception:
    """The error that a module-level ``__getattr__`` raises for `name`.

    An ImportError when a ``from module import name`` asks, for Python drops the text of an AttributeError there; else
    an AttributeError, so that `hasattr` works.
    """
    if _is_from_import(sys._getframe(2)):  # whoever called __getattr__, our caller
        return ImportError(f"cannot import name {name!r} from {module!r}: {_PAGE}.", name=module)
    return AttributeError(f"module {module!r} has no attribute {name!r}: {_PAGE}.", name=name, obj=owner)


def point_out(module: ModuleType, name: str) -> None:
    """Let `module`, known as `name` to programs for Ray, say where to look when asked for what it lacks.

    A package gives its modules, too, before anybody has imported them: with Ray, `import ray` imports many.
    """
    known = module.__dict__.get("__getattr__")
    if getattr(known, "points_out", False):
        return

    def answer(attribute: str) -> object:
        if known is not None:
            try:
                return known(attribute)
            except AttributeError:
                pass
        if "__path__" in module.__dict__ and not attribute.startswith("__"):
            try:
                return importlib.import_module(f"{name}.{attribute}")
            except ModuleNotFoundError as error:
                if error.name != f"{name}.{attribute}":
                    raise
        raise no_attribute(name, attribute, module)

    answer.points_out = True  # type: ignore[attr-defined]
    module.__dict__["__getattr__"] = answer


def _is_from_import(frame: FrameType) -> bool:
    code = frame.f_code.co_code
    return 0 <= frame.f_lasti < len(code) and code[frame.f_lasti] == _IMPORT_FROM
