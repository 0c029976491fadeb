"""Run a program for Ray on Skate: ``python -m skate.as_ray script.py``, ``python -m skate.as_ray -m module``.

In a program: ``skate.as_ray()``, before anything imports `ray`. The module is that function, too: it can be called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

from skate.compat.hook import as_ray

__all__ = ["as_ray", "main"]


class _Callable(ModuleType):
    """The module ``skate.as_ray``, which is also the function."""

    def __call__(self) -> None:
        as_ray()


def main(words: Sequence[str]) -> None:
    """Run the program that `words` name, as ``skate run`` does."""
    from skate.cli import main as command

    command(["run", *words])


if __name__ == "__main__":
    main(sys.argv[1:])
else:
    sys.modules[__name__].__class__ = _Callable
