"""Settings of the memory monitor: where they are read, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import skate
from skate.core.memory_rules import MemoryRules, memory_rules


def test_without_settings_they_are_those_of_ray() -> None:
    assert memory_rules(None, {}) == MemoryRules(250, 0.95, -1, -1, 1000, 0, False)


def test_arguments_of_init_win_over_the_environment() -> None:
    environment = {"RAY_memory_usage_threshold": "0.5", "RAY_task_oom_retries": "7", "SKATE_ENFORCE_MEMORY": "1"}
    rules = memory_rules({"memory_usage_threshold": 0.7, "unknown": object()}, environment)
    assert (rules.threshold, rules.oom_retries, rules.enforce) == (0.7, 7, True)


@pytest.mark.parametrize(
    ("config", "environment", "words"),
    [
        (
            {"memory_usage_threshold": 1.5},
            {},
            r"_system_config\['memory_usage_threshold'\] must be a number from 0 to 1",
        ),
        ({}, {"RAY_memory_monitor_refresh_ms": "often"}, "the environment variable RAY_memory_monitor_refresh_ms"),
        ({"task_oom_retries": -2}, {}, "of at least -1, not -2"),
        ({}, {"SKATE_MEMORY_LIMIT": "-5"}, "SKATE_MEMORY_LIMIT must be"),
        ({"enforce_memory": True, "memory_monitor_refresh_ms": 0}, {}, "needs the memory monitor"),
    ],
)
def test_what_is_no_setting_is_refused_with_its_name(config: Any, environment: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        memory_rules(config, environment)


def test_init_refuses_it_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="memory_usage_threshold"):
        skate.init(_system_config={"memory_usage_threshold": "high"})
    assert not skate.is_initialized()


@pytest.mark.parametrize(("min_free", "bound"), [(-1, 950), (10, 990), (100, 950)])
def test_of_share_and_free_bytes_the_one_counts_that_leaves_less(min_free: int, bound: int) -> None:
    assert MemoryRules(min_free=min_free).bound(1000) == bound
