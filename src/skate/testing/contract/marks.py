"""Marks for cases that do not hold everywhere."""

from __future__ import annotations

import pytest

from skate.testing.contract.target import ENGINE


def not_yet(
    engine: str,
    *,
    reason: str,
    raises: type[BaseException] | tuple[type[BaseException], ...],
) -> pytest.MarkDecorator:
    """This case fails on `engine`, with an error of the kind `raises`, for a known reason.

    The mark is strict: if the case passes there, or fails in another way, the run fails, so a
    closed gap cannot keep its mark. On the other engines the mark does nothing.
    """
    return pytest.mark.xfail(engine == ENGINE, reason=reason, raises=raises, strict=True)


def differs_on_ray(reason: str) -> pytest.MarkDecorator:
    """Ray itself does worse here; the case is what its users expect, and is not run on Ray."""
    return pytest.mark.skipif(ENGINE == "ray", reason=f"Ray differs: {reason}")
