"""What a runtime environment does to the process that calls run in, where it can be done to a running process."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from skate.core.environment import HOOK, LOGS, load_hook, local_path


def plan(fields: Mapping[str, Any], place: Callable[[str], str]) -> dict[str, Any]:
    """What a process does before its first call; `place` tells where the files of ``working_dir`` and such are."""
    path: list[str] = []
    for module in fields.get("py_modules") or ():
        path.insert(0, place(module) if _is_root(module) else os.path.dirname(place(module)))
    folder = place(fields["working_dir"]) if fields.get("working_dir") else ""
    return {
        "env_vars": fields.get("env_vars") or {},
        "path": [folder, *path] if folder else path,
        "folder": folder,
        "hook": fields.get("worker_process_setup_hook") or "",
        "pickle": fields.get(HOOK) or "",
        "logs": fields.get(LOGS) or "",
    }


def _is_root(module: str) -> bool:
    """Whether what is imported lies inside of what was named, and is not itself that."""
    path = local_path(module)
    return module.startswith("local://") or not (os.path.isdir(path) or path.endswith(".py"))


def fetched(fields: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Files that are not used where they lie: ``(name, whether they are modules)``.

    Raises ValueError for a directory that is to be used as it is, and is not there.
    """
    found = []
    modules = [(name, True) for name in fields.get("py_modules") or ()]
    for name, kind in [(fields.get("working_dir") or "", False), *modules]:
        path = local_path(name)
        if name.startswith("local://"):
            if not os.path.isdir(path):
                raise ValueError(f"there is no directory {path}, which {name} names")
        elif name and (fields.get("excludes") if os.path.isdir(path) else not path.endswith(".py")):
            found.append((name, kind))
    return found


def enter(setup: Mapping[str, Any]) -> None:
    """Take on variables, search path, directory and the way to write logs."""
    os.environ.update(variables(setup["env_vars"]))
    sys.path[:0] = setup["path"]
    if setup["folder"]:
        os.chdir(setup["folder"])
    if setup["logs"]:
        from skate.core.logging_config import apply_packed  # few programs have structured logs

        apply_packed(setup["logs"])


def variables(given: Mapping[str, str]) -> dict[str, str]:
    """Variables with ``${NAME}`` in their values replaced by what this process has, "" where it has none, as in Ray."""
    return {
        name: re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(text)) if "$" in text else text
        for name, text in given.items()
    }


def run_hook(setup: Mapping[str, Any]) -> str:
    """Call the setup hook, if there is one; why it failed, in words, or ""."""
    name = setup["hook"]
    if not name:
        return ""
    try:
        if setup["pickle"]:
            hook = load_hook(setup["pickle"])
        else:
            module, _, attribute = name.rpartition(".")
            hook = getattr(importlib.import_module(module), attribute)
        hook()
    except BaseException:  # noqa: BLE001  the hook is user code
        return f"the setup hook {name} failed:\n{traceback.format_exc()}"
    return ""
