"""Tests of the parts of the local engine that need no process: quick, and strict."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scripted import Session


@pytest.fixture
def session() -> Iterator[Session]:
    """A hub with two CPUs, an arena of 64 pages and no workers."""
    made = Session()
    yield made
    made.close()
