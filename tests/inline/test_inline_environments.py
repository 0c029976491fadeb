"""Runtime environments in one process: what can be had, and what is refused by name."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import skate


@pytest.mark.parametrize("field", ["pip", "uv", "conda", "image_uri", "py_executable"])
def test_what_needs_another_process_is_refused_by_name(field: str) -> None:
    value: Any = ["x"] if field in ("pip", "uv") else "x"
    with pytest.raises(skate.exceptions.RuntimeEnvSetupError, match=f"cannot have a {field}"):
        skate.init(engine="inline", runtime_env={field: value})
    assert not skate.is_initialized()
    skate.init(engine="inline")

    @skate.remote(runtime_env={field: value})
    def task() -> int:
        return 1

    @skate.remote(runtime_env={field: value})
    class Actor:
        pass

    for make in (task.remote, Actor.remote):
        with pytest.raises(skate.exceptions.RuntimeEnvSetupError, match=f"cannot have a {field}"):
            make()
    skate.shutdown()


def test_a_task_has_its_files_and_leaves_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("inline_trial.py", "VALUE = 5")
        archive.writestr("data.txt", "data")
    skate.init(engine="inline")

    @skate.remote(runtime_env={"working_dir": f"file://{tmp_path / 'code.zip'}"})
    def look() -> tuple[int, str, str]:
        import inline_trial  # type: ignore[import-not-found]

        return inline_trial.VALUE, Path("data.txt").read_text(), os.getcwd()

    before = os.getcwd(), list(sys.path)
    value, text, folder = skate.get(look.remote())
    assert (value, text) == (5, "data") and (os.getcwd(), sys.path) == before
    skate.shutdown()
    assert not os.path.exists(folder)
    del sys.modules["inline_trial"]


def test_a_setup_hook_runs_once_in_its_environment() -> None:
    ran = []
    skate.init(engine="inline")

    def hook() -> None:
        ran.append(os.environ.get("SKATE_TRIAL"))

    environment = {"env_vars": {"SKATE_TRIAL": "1"}, "worker_process_setup_hook": "inline_hooks.hook"}
    sys.modules["inline_hooks"] = type(sys)("inline_hooks")
    sys.modules["inline_hooks"].hook = hook  # type: ignore[attr-defined]
    task = skate.remote(lambda: 1).options(runtime_env=environment)
    assert skate.get([task.remote(), task.remote()]) == [1, 1] and ran == ["1"]
    del sys.modules["inline_hooks"]
    with pytest.raises(skate.exceptions.RuntimeEnvSetupError, match="No module named 'inline_absent'"):
        task.options(runtime_env={"worker_process_setup_hook": "inline_absent.hook"}).remote()
    skate.shutdown()
