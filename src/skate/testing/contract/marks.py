"""Marks for cases that do not hold everywhere."""

from __future__ import annotations

import pytest

from skate.testing.contract.target import ENGINE, PACKAGE

Kinds = type[BaseException] | tuple[type[BaseException], ...]


def not_yet(engine: str, *, reason: str, raises: Kinds | None = None, runs: bool = True) -> pytest.MarkDecorator:
    """This case fails on `engine`, with an error of the kind `raises`, for a known reason.

    The mark is strict: if the case passes there, or fails in another way, the run fails, so a
    closed gap cannot keep its mark. On the other engines the mark does nothing. A case that
    would end the process, or never return, is marked with `runs=False` and not tried.
    """
    tried_for_an_error = runs and raises is not None
    skipped = not runs and raises is None
    if not (tried_for_an_error or skipped):
        raise TypeError("not_yet takes raises=, or runs=False for a case that cannot be tried")
    here = engine == ENGINE and PACKAGE == "skate"
    return pytest.mark.xfail(here, reason=reason, raises=raises, run=runs, strict=True)


def differs_on_ray(reason: str) -> pytest.MarkDecorator:
    """Ray itself does worse here; the case is what its users expect, and is not run on Ray."""
    return pytest.mark.skipif(ENGINE == "ray", reason=f"Ray differs: {reason}")


#: The case ends a worker's process, which is the driver's own on the inline engine.
ends_a_process = not_yet("inline", runs=False, reason="the worker is this very process, which would end")
#: The case looks at work that goes on while the driver does something else.
needs_background = not_yet("inline", runs=False, reason="work is done within the driver's own calls, to its end")
#: The case tells the processes of workers apart.
needs_processes = not_yet("inline", raises=AssertionError, reason="everything runs in one process")
