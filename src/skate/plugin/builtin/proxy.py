"""The plugin `proxy`: routes of upstream services as if they were this service's own.

What it publishes is in `skate.plugin.upstream`, which the server and every caller use directly: a request takes no
detour by this plugin's process.
"""

from __future__ import annotations

from skate.plugin.base import BasePlugin
from skate.plugin.consts import VERSION
from skate.plugin.marks import on_register
from skate.plugin.model import PluginMetadata
from skate.plugin.upstream import ProxyConfig

__plugin_meta__ = PluginMetadata(
    name="proxy",
    version=VERSION,
    description="Publishes routes of upstream services.",
    author="Skate",
    priority=1,
    config_class=ProxyConfig,
)


@on_register()
class ProxyPlugin(BasePlugin):
    """Has no methods of its own."""
