"""One session with serve for each module; applications are deleted after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import skate
from skate import serve


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """A session with serve in it."""
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
