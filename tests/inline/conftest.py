"""What the inline engine promises beyond the contract: where and when code runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import skate
from skate.engines.inline import InlineEngine


@pytest.fixture
def engine() -> Iterator[InlineEngine]:
    """A session with 4 CPUs and 2 GPUs."""
    skate.init(engine="inline", num_cpus=4, num_gpus=2, resources={"disk": 2}, namespace="tests")
    running = skate.core.engine.running()
    assert isinstance(running, InlineEngine)
    yield running
    skate.shutdown()
