"""Fixtures of the contract suite: the session, and small tools for cases."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import traceback
import uuid
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType

import pytest

from skate.testing.contract import target
from skate.testing.contract.tools import Tally

TIMEOUT = 180  # seconds for one case, where pytest-timeout is installed


class _Session:
    """The running session: one per case file, renewed after a failed case."""

    owner: ModuleType | None = None
    suspect = False


def _stop() -> None:
    target.package().shutdown()  # also where init failed half way
    _Session.owner = None
    _Session.suspect = False


@pytest.fixture
def ray(request: pytest.FixtureRequest) -> Generator[ModuleType, None, None]:
    """The package under test with a session running.

    A file's INIT adds arguments to `init`; INIT = None leaves init and shutdown to the cases.
    """
    ray = target.package()
    owner = request.module
    extra = getattr(owner, "INIT", {})
    if extra is None:
        _stop()
        yield ray
        _stop()
        return
    if _Session.suspect or _Session.owner is not owner or not ray.is_initialized():
        _stop()
        ray.init(**{**target.SESSION, **extra})
        _Session.owner = owner
    yield ray
    gc.collect()


@pytest.fixture
def fresh_name() -> str:
    """A name that nobody else uses."""
    return "c" + uuid.uuid4().hex[:12]


@pytest.fixture
def tally(tmp_path: Path) -> Tally:
    """Counts events of any process; see `Tally`."""
    return Tally(str(tmp_path / "tally"))


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a driver script in an interpreter of its own, with the package imported as `ray`."""

    def run(body: str, *arguments: str, timeout: float = 150, **environment: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "driver_script.py"
        path.write_text(f"import {target.PACKAGE} as ray\n" + textwrap.dedent(body))
        return subprocess.run(
            [sys.executable, str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **environment},
        )

    return run


def pytest_configure(config: pytest.Config) -> None:
    """Name the suite's marker, where no configuration does."""
    config.addinivalue_line("markers", "slow: takes more than about a second")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each case its time limit."""
    here = os.path.dirname(__file__)
    if not config.pluginmanager.hasplugin("timeout") or config.getoption("timeout") is not None:
        return
    for item in items:
        if str(item.path).startswith(here) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, None, None]:
    """After a failure: the next case gets a new session."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed and call.excinfo is not None:
        _Session.suspect = True
        # Handles and references in the failed case's frames must not live on.
        traceback.clear_frames(call.excinfo.tb)


def pytest_sessionfinish() -> None:
    """End the last session."""
    if target.PACKAGE in sys.modules:
        _stop()
