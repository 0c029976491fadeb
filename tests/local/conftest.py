"""The local engine under attack: a session for each test, as small as it can be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import skate


@pytest.fixture
def session() -> Iterator[None]:
    """A session with 2 CPUs."""
    skate.init(engine="local", num_cpus=2, namespace="tests")
    yield
    skate.shutdown()


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """A session with a single CPU: whatever holds it wrongly stops everything else."""
    skate.init(engine="local", num_cpus=1, namespace="tests")
    yield
    skate.shutdown()
