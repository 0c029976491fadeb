"""One session with serve for each module; applications are deleted after each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import skate
from skate import serve

ENGINE = os.environ.get("SKATE_ENGINE", "local")
"""The engine that tests of whole applications run on: ``SKATE_ENGINE=ray`` with Ray installed, or ``local``."""
ON_RAY = ENGINE == "ray"

if ON_RAY:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Ray's workers import what tests call by name
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])

    @pytest.fixture(autouse=True, scope="module")
    def no_leaks_from_module() -> None:
        """Ray keeps descriptors of a closed session in its process: not ours to judge."""

    @pytest.fixture(autouse=True)
    def no_leaks() -> Iterator[None]:
        """The same; but a session that a test has begun ends with it."""
        before = skate.is_initialized()
        yield
        if not before:
            skate.shutdown()


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """A session with serve in it."""
    if ON_RAY:
        skate.init(engine="ray", num_cpus=4, namespace="tests", include_dashboard=False, log_to_driver=False)
    else:
        skate.init(engine="local", num_cpus=4, namespace="tests")
    serve.start(proxy_location="Disabled")  # other programs of this machine may listen where HTTP would
    yield
    serve.shutdown()
    skate.shutdown()


@pytest.fixture
def clean(session: None) -> Iterator[None]:
    """The module's session, without applications after the test."""
    yield
    for name in serve.status().applications:
        serve.delete(name)


Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture
def eventually() -> Eventually:
    """Waits until a condition holds."""
    import time

    def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.01)

    return wait
