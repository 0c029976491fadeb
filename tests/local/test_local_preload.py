"""Modules that workers find imported."""

from __future__ import annotations

import sys

import pytest

import skate


@skate.remote
def has(module: str) -> bool:
    return module in sys.modules


def test_workers_find_modules_imported_before_and_during_a_session() -> None:
    skate.util.preload("skate.util.queue")
    with skate.init(num_cpus=2):
        assert skate.get(has.remote("skate.util.queue"))
        skate.util.preload("skate.util.queue", "skate.util.iter")
        # workers that were there already are as they were: one more is needed
        assert skate.get(has.options(num_cpus=2, runtime_env={"env_vars": {"A": "1"}}).remote("skate.util.iter"))


def test_the_next_session_begins_without_them() -> None:
    skate.util.preload("skate.util.queue")
    with skate.init(num_cpus=1):
        assert skate.get(has.remote("skate.util.queue"))
    with skate.init(num_cpus=1):
        assert not skate.get(has.remote("skate.util.queue"))


def test_a_module_that_cannot_be_imported_is_told_of_and_harms_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    skate.util.preload("skate.no_such_module")
    with skate.init(num_cpus=1):
        assert skate.get(has.remote("skate"))
    assert "could not preload skate.no_such_module" in capfd.readouterr().err
