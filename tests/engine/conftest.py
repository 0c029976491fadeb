"""Tests of the parts of the local engine that need no process: quick, and strict."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from scripted import Session

# No deadline: the machine may be busy. No database: what a run finds is printed, and nothing is left in the tree.
settings.register_profile(
    "pure", deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("pure")


@pytest.fixture
def session() -> Iterator[Session]:
    """A hub with two CPUs, an arena of 64 pages and no workers."""
    made = Session()
    yield made
    made.close()
