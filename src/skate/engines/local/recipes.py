"""What a runtime environment needs before a worker can run in it: decided from its fields, made by others.

A *need* is one thing that a builder makes (`builder.py`), known by the hash of all that it depends on. An *interpreter*
is a Python of its own: workers of such an environment are not forked by the session's zygote, but by one that this
interpreter runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from skate.core import env_cache
from skate.core.environment import local_path
from skate.core.environment_fields import TIMEOUT
from skate.engines import setup

Fields = Mapping[str, Any]
MOST_FILES = 10_000
"""Files of a folder that are looked at for changes."""


class Need(NamedTuple):
    """Something to make before an environment can be used."""

    key: str
    request: dict[str, Any]
    cached: bool = False
    """Kept in the user's cache, and not just for this session."""


class Interpreter(NamedTuple):
    """A Python that is not the driver's."""

    key: str
    need: Need | None
    """What makes it; None: it is there."""
    command: tuple[str, ...] = ()
    run_options: tuple[str, ...] = ()
    """Of a container."""
    image: str = ""


class Recipe(NamedTuple):
    """All that an environment takes."""

    fields: Fields
    files: dict[str, Need]
    """What makes the files that the fields name, by that name."""
    interpreter: Interpreter | None
    path: tuple[list[str], list[str]]
    """The driver's search path before and behind the standard library, which is left out.

    What is before (the program's own directory, PYTHONPATH) goes before an environment's packages, what is behind (the
    driver's packages) behind them.
    """

    @property
    def needs(self) -> list[Need]:
        """What has to be made."""
        own = self.interpreter.need if self.interpreter is not None else None
        return [*self.files.values(), *([own] if own is not None else [])]

    @property
    def timeout(self) -> float | None:
        """Seconds that making it may take."""
        seconds = self.fields.get("config", {}).get("setup_timeout_seconds", TIMEOUT)
        return None if seconds == -1 else float(seconds)

    def setup(self, said: Mapping[str, Mapping[str, Any]]) -> str:
        """What a worker does before its first call, as JSON; `said` by the builders, by the needs' keys."""

        def place(name: str) -> str:
            return str(said[self.files[name].key]["path"]) if name in self.files else local_path(name)

        return json.dumps(setup.plan(self.fields, place))


def resolve(fields: Fields, folder: str, path: list[str]) -> Recipe:
    """The recipe of an environment of a driver with this search path.

    What is made for this session alone goes below `folder`.

    Raises ValueError or OSError for what cannot be used, and TypeError, KeyError or AttributeError for what no check
    has let pass.
    """
    files = {name: _file_need(name, fields, folder, modules) for name, modules in setup.fetched(fields)}
    split = _split(path)
    return Recipe(fields, files, _interpreter(fields, folder, split[1]), split)


def _file_need(source: str, fields: Fields, folder: str, modules: bool) -> Need:
    excludes = fields.get("excludes") or []
    path = local_path(source)
    key = _key("files", [source, excludes, modules, _contents(path) if os.path.exists(path) else ""])
    target = os.path.join(folder, key)
    request = {"kind": "files", "source": source, "excludes": excludes, "modules": modules, "target": target}
    return Need(key, request)


def _interpreter(fields: Fields, folder: str, behind: list[str]) -> Interpreter | None:
    for tool in ("pip", "uv"):
        if fields.get(tool):
            need = _venv(tool, fields, behind)
            return Interpreter(need.key, need)
    if fields.get("conda"):
        need = _conda(fields["conda"])
        return Interpreter(need.key, need)
    container = fields.get("container") or ({"image": fields["image_uri"]} if fields.get("image_uri") else None)
    if container is not None:
        return _image(container, folder)
    if fields.get("py_executable"):
        command = shlex.split(fields["py_executable"])
        return Interpreter(_key("python", command), None, tuple(command))
    return None


def _venv(tool: str, fields: Fields, behind: list[str]) -> Need:
    asked = fields[tool]
    options = {"pip": ["--no-cache-dir"], "uv": ["--no-cache"]}[tool]
    request = {
        "kind": "venv",
        "tool": tool,
        "packages": asked["packages"],
        "options": asked.get(f"{tool}_pip_install_options" if tool == "uv" else "pip_install_options", options),
        "check": asked.get(f"{tool}_check", False),
        "version": asked.get(f"{tool}_version") or "",
        "base": shlex.split(fields.get("py_executable") or "") or [sys.executable, "-I"],
        "behind": behind,
        "scripts": [os.path.dirname(sys.executable)],
    }
    words = " ".join(asked["packages"])
    depends = [request, sys.version, _state(behind), _local_files(request), _settings(request, fields)]
    return Need(_key(tool, depends), {**request, "request": f"{tool}: {words}"}, cached=True)


def _conda(asked: Any) -> Need:
    if isinstance(asked, str) and not asked.endswith((".yml", ".yaml")):
        return Need(_key("named", asked), {"kind": "named", "name": asked})
    content: Any = asked
    if isinstance(asked, str):
        with open(asked, encoding="utf-8") as file:
            content = file.read()
    words = "conda: " + (asked if isinstance(asked, str) else " ".join(map(str, asked.get("dependencies", []))))
    return Need(_key("conda", content), {"kind": "conda", "spec": asked, "request": words}, cached=True)


def _image(container: Mapping[str, Any], folder: str) -> Interpreter:
    image, options = container["image"], tuple(container.get("run_options") or ())
    key = _key("image", [image, options])
    need = Need(key, {"kind": "image", "image": image, "target": os.path.join(folder, key)})
    return Interpreter(key, need, (), options, image)


# ------------------------------------------------------------------------ the driver


def _split(path: list[str]) -> tuple[list[str], list[str]]:
    library = os.path.dirname(os.__file__)
    version = "".join(map(str, sys.version_info[:2]))
    archive = os.path.join(os.path.dirname(library), f"python{version}.zip")
    own = {archive, library, os.path.join(library, "lib-dynload")}
    first = next((place for place, entry in enumerate(path) if entry in own), 0)
    return path[:first], [entry for entry in path[first:] if entry not in own]


def _state(behind: list[str]) -> list[Any]:
    """The driver's packages, as far as their folders tell: an environment is built on top of them."""
    return [(path, _stamp(path)) for path in behind if path.endswith("-packages") and os.path.isdir(path)]


def _local_files(request: Mapping[str, Any]) -> list[Any]:
    """Files that the packages and the options name, so that a change of one is another environment."""
    found = []
    for text in (*request["packages"], *request["options"]):
        for word in text.replace("=", " ").replace("@", " ").split():
            path = os.path.abspath(local_path(os.path.expandvars(word)))
            if os.path.exists(path) and (os.sep in word or not os.path.isdir(path)):
                found.append((path, _contents(path)))
    return found


def _contents(path: str) -> Any:
    """Tells one state of a file or a folder from another; what builds leave in a folder of sources does not count."""
    if not os.path.isdir(path):
        return _stamp(path)
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")) and name != "build")
        folders[:] = [name for name in folders if not name.endswith(".egg-info")]
        found += [(name, _stamp(os.path.join(folder, name))) for name in sorted(names)]
        if len(found) > MOST_FILES:
            break
    return found


def _stamp(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _settings(request: Mapping[str, Any], fields: Fields) -> list[Any]:
    """Variables that tell pip and uv where packages come from, and those that the packages and options name."""
    variables = {**os.environ, **(fields.get("env_vars") or {})}
    named = set(re.findall(r"\$\{?(\w+)", " ".join((*request["packages"], *request["options"]))))
    return sorted(part for part in variables.items() if part[0].startswith(("PIP_", "UV_")) or part[0] in named)


def _key(kind: str, what: Any) -> str:
    return f"{kind}-{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]}"


def in_cache(need: Need) -> tuple[env_cache.Lock, dict[str, Any]] | None:
    """The need, if it is met already, and a lock that keeps it so."""
    return env_cache.hold(env_cache.root(), need.key) if need.cached else None
