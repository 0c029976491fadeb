"""Utilities on the local engine: a session for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import skate


@pytest.fixture
def session() -> Iterator[None]:
    """A session with 4 CPUs."""
    skate.init(engine="local", num_cpus=4, namespace="tests")
    yield
    skate.shutdown()
