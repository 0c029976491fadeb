"""What ``skate plugin new`` writes."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path

_PLUGIN = '''"""The plugin {name}."""

from pydantic import BaseModel

from skate.plugin import BasePlugin, PluginMetadata, on_register, on_request


class {cls}Config(BaseModel):
    """The table [plugins.{name}] of config.toml."""

    greeting: str = "hello"


__plugin_meta__ = PluginMetadata(
    name="{name}",
    version="0.1.0",
    description="Greets",
    author="you",
    required_remote_apis=[],
    config_class={cls}Config,
)


@on_register()
class {cls}Plugin(BasePlugin):
    async def on_start(self) -> None:
        self.greeted = 0

    @on_request("/{name}", methods=["GET"])
    async def greet(self, who: str = "world") -> str:
        """Greets somebody."""
        self.greeted += 1
        return f"{{self.config.greeting}} {{who}}"
'''
_TEST = '''"""{name} does what it says."""

from fastapi.testclient import TestClient

from skate.plugin import run


def test_{name}_greets() -> None:
    app = run(test_mode=True, load_plugins=["{name}"], strict=True)
    with TestClient(app) as client:
        answer = client.get("/api/v1/{name}", params={{"who": "Ada"}})
    assert answer.status_code == 200
    assert answer.json()["data"] == "hello Ada"
'''


TAKEN = frozenset({"echo", "proxy", "version"})
"""Names of routes that are there already."""


def unfit(name: str) -> str:
    """Why a plugin cannot be called so; empty: it can."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        return "must be a module's name in lower case"
    if keyword.iskeyword(name):
        return "is a word of the language, and no module can be called so"
    if name in TAKEN:
        return "is taken by Skate itself"
    if name in sys.stdlib_module_names or _is_installed(name):
        return "is a module already, which a file of that name would hide"
    return ""


def _is_installed(name: str) -> bool:
    """Whether Python finds a module of that name anywhere but in the working directory."""
    here = Path.cwd()
    paths = [path for path in sys.path if Path(path or here).resolve() != here]
    return PathFinder.find_spec(name, paths) is not None


def files(name: str) -> dict[str, str]:
    """The files of a new plugin, by name."""
    cls = "".join(word.capitalize() for word in name.split("_"))
    return {f"{name}.py": _PLUGIN.format(name=name, cls=cls), f"test_{name}.py": _TEST.format(name=name)}
