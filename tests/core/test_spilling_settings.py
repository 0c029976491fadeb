"""Settings of spilling: where they are read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import skate
from skate.core.settings import Settings, spilling


def settings(config: Any = None, environment: dict[str, str] | None = None) -> Settings:
    return Settings(**spilling(config, None, environment or {}))


def test_without_settings_the_disk_is_the_limit() -> None:
    assert settings() == Settings(spill_folder="", spill_limit=None, disk_full=0.95)


def test_each_is_read_from_the_environment_and_init_wins(tmp_path: Path) -> None:
    environment = {
        "SKATE_SPILL_DIRECTORY": str(tmp_path / "there"),
        "SKATE_SPILL_LIMIT": "1000",
        "RAY_local_fs_capacity_threshold": "0.5",
    }
    read = settings(None, environment)
    assert (read.spill_folder, read.spill_limit, read.disk_full) == (str(tmp_path / "there"), 1000, 0.5)
    read = settings({"spill_limit": 7, "local_fs_capacity_threshold": 0.7}, environment)
    assert (read.spill_limit, read.disk_full) == (7, 0.7)


def test_a_limit_of_nothing_is_a_limit() -> None:
    assert settings({"spill_limit": 0}).spill_limit == 0


@pytest.mark.parametrize(
    ("config", "environment", "words"),
    [
        ({"local_fs_capacity_threshold": "x"}, {}, r"_system_config\['local_fs_capacity_threshold'\] must be a number"),
        ({}, {"RAY_local_fs_capacity_threshold": "2"}, "RAY_local_fs_capacity_threshold must be a number from 0 to 1"),
        ({}, {"SKATE_SPILL_LIMIT": "all"}, "SKATE_SPILL_LIMIT must be a number of bytes of at least 0, not 'all'"),
        ({}, {"SKATE_SPILL_LIMIT": "inf"}, "not 'inf'"),
        ({"spill_limit": -1}, {}, r"_system_config\['spill_limit'\]"),
    ],
)
def test_what_is_no_setting_is_refused_with_its_name(config: Any, environment: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(config, environment)


def test_init_refuses_it_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="local_fs_capacity_threshold"):
        skate.init(_system_config={"local_fs_capacity_threshold": "x"})
    assert not skate.is_initialized()
