"""These tests need Ray itself: `make test-ray` runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import skate

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    skate.init(engine="ray", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    skate.shutdown()


@pytest.fixture(autouse=True, scope="module")
def no_leaks_from_module() -> None:
    """Ray keeps descriptors of a closed session in its process: not ours to judge."""


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """The same."""
