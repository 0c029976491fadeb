"""A pytest plugin: the fixture `skate_faults` puts fault plans in force, and a failed test shows what was done to it.

Name it in a conftest.py::

    pytest_plugins = ["skate.testing.faults_plugin"]

and in a test, where a session of the embedded engine runs::

    def test_survives(skate_faults):
        with skate_faults(seed=7, kill_every=50) as log:
            ...
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from skate.testing.faults import Fault, FaultPlan, inject

PutInForce = Callable[..., AbstractContextManager[list[Fault]]]
_done = pytest.StashKey[list[tuple[FaultPlan, list[Fault]]]]()


@pytest.fixture
def skate_faults(request: pytest.FixtureRequest) -> PutInForce:
    """A function that takes a `FaultPlan`, or its arguments, and does what `skate.testing.faults.inject` does."""
    done = request.node.stash.setdefault(_done, [])

    @contextmanager
    def put_in_force(plan: FaultPlan | None = None, **arguments: Any) -> Iterator[list[Fault]]:
        if plan is None:
            plan = FaultPlan(**arguments)
        elif arguments:
            raise TypeError("skate_faults takes a plan or the arguments of one, not both.")
        with inject(plan) as log:
            done.append((plan, log))
            yield log

    return put_in_force


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Show the plans, with their seeds, and what was really done."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for plan, log in item.stash.get(_done, []):
            report.sections.append(("Skate's faults", "\n".join([str(plan), *map(str, log)])))
