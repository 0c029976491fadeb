"""The API is tested on the inline engine: what it does is the same on every engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import skate


@pytest.fixture
def session() -> Iterator[None]:
    """A session with 4 CPUs and 2 GPUs, in the namespace "tests"."""
    skate.init(engine="inline", num_cpus=4, num_gpus=2, namespace="tests")
    yield
    skate.shutdown()
