"""What ``skate plugin new`` writes."""

from __future__ import annotations

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


def files(name: str) -> dict[str, str]:
    """The files of a new plugin, by name."""
    cls = "".join(word.capitalize() for word in name.split("_"))
    return {f"{name}.py": _PLUGIN.format(name=name, cls=cls), f"test_{name}.py": _TEST.format(name=name)}
